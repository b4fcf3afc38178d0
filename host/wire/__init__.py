"""gRPC's form of what a plugin registers: messages and services out of its Structs and operations, made at run time.

`model` is the contract as data, `shapes` makes it of operations, `lock` numbers it, `descriptors` and `conversion` make it
run. A message stands for the JSON that REST would take or give, so both doors read and check one and the same thing.
"""
