"""From a contract and its numbers to protobuf's own description of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from google.protobuf import descriptor_pb2, descriptor_pool, empty_pb2, struct_pb2, timestamp_pb2

from host.wire.lock import Lock, LockedMessage
from host.wire.model import Contract, WireEnum, WireField, WireMessage, WireService, camel, enum_value_name

DEPENDENCIES: Final = (timestamp_pb2.DESCRIPTOR, struct_pb2.DESCRIPTOR, empty_pb2.DESCRIPTOR)
"""Files that a contract may import."""

_Field = descriptor_pb2.FieldDescriptorProto
_TYPES: Final = {
    "string": _Field.TYPE_STRING,
    "int64": _Field.TYPE_INT64,
    "double": _Field.TYPE_DOUBLE,
    "bool": _Field.TYPE_BOOL,
    "bytes": _Field.TYPE_BYTES,
}


def file_of(contract: Contract, lock: Lock) -> descriptor_pb2.FileDescriptorProto:
    """The .proto file of a contract, as a descriptor; the lock has everything of it (`host.wire.lock.grown`)."""
    file = descriptor_pb2.FileDescriptorProto(name=contract.file, package=contract.package, syntax="proto3")
    file.dependency.extend(_imports(contract))
    made: dict[str, descriptor_pb2.DescriptorProto] = {}
    for message in sorted(contract.messages, key=lambda one: one.name.count(".")):
        parent, _, own = message.name.rpartition(".")
        target = made[parent].nested_type.add(name=own) if parent else file.message_type.add(name=own)
        made[message.name] = target
    for message in contract.messages:
        _fill_message(made[message.name], message, lock.messages[message.name], contract.package)
    for enum in contract.enums:
        _fill_enum(file.enum_type.add(name=enum.name), enum, lock.enums[enum.name].words)
    for service in contract.services:
        _fill_service(file.service.add(name=service.name), service, contract.package)
    return file


def pool_of(file: descriptor_pb2.FileDescriptorProto) -> descriptor_pool.DescriptorPool:
    """A pool with nothing in it but this file and what it imports. TypeError when the file does not hold."""
    pool = descriptor_pool.DescriptorPool()
    for one in DEPENDENCIES:
        pool.AddSerializedFile(one.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return pool


def symbols(file: descriptor_pb2.FileDescriptorProto) -> Iterator[str]:
    """The full names of everything that a file defines and that somebody may ask for."""
    yield from _message_symbols(file.package, file.message_type)
    for enum in file.enum_type:
        yield f"{file.package}.{enum.name}"
    for service in file.service:
        yield f"{file.package}.{service.name}"
        yield from (f"{file.package}.{service.name}.{method.name}" for method in service.method)


def _message_symbols(scope: str, messages: Iterable[descriptor_pb2.DescriptorProto]) -> Iterator[str]:
    for message in messages:
        name = f"{scope}.{message.name}"
        yield name
        yield from (f"{name}.{field.name}" for field in message.field)
        yield from _message_symbols(name, message.nested_type)


def _imports(contract: Contract) -> list[str]:
    used = {field.type for message in contract.messages for field in message.fields}
    used |= {type_ for service in contract.services for method in service.methods for type_ in (method.answer,)}
    known = {f".{one.package}.{name}": one.name for one in DEPENDENCIES for name in one.message_types_by_name}
    return sorted({known[one] for one in used & known.keys()})


def _full(type_: str, package: str) -> str:
    return type_ if type_.startswith(".") else f".{package}.{type_}"


def _fill_message(
    target: descriptor_pb2.DescriptorProto, message: WireMessage, locked: LockedMessage, package: str
) -> None:
    if message.shape == "union":
        target.oneof_decl.add(name="kind")
    fields = sorted(message.fields, key=lambda field: locked.fields[field.name].number)
    for field in fields:
        made = _field(target, field, f"{package}.{message.name}", package)
        made.number = locked.fields[field.name].number
        if message.shape == "union":
            made.oneof_index = 0
    for made in target.field:
        if made.proto3_optional:  # after the real ones, as protoc has them
            made.oneof_index = len(target.oneof_decl)
            target.oneof_decl.add(name=_free_name(f"_{made.name}", target))
    used = {field.name for field in message.fields}
    for name, gone in sorted(locked.fields.items(), key=lambda pair: pair[1].number):
        if name not in used:
            target.reserved_range.add(start=gone.number, end=gone.number + 1)
            if "@" not in name:
                target.reserved_name.append(name)


def _free_name(name: str, target: descriptor_pb2.DescriptorProto) -> str:
    taken = {field.name for field in target.field}
    while name in taken:
        name = f"X{name}"
    return name


def _field(
    target: descriptor_pb2.DescriptorProto, field: WireField, owner: str, package: str
) -> descriptor_pb2.FieldDescriptorProto:
    made = target.field.add(name=field.name, json_name=field.json_name, label=_Field.LABEL_OPTIONAL)
    if field.many == "map":
        entry = target.nested_type.add(name=f"{camel(field.name)}Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, type=_Field.TYPE_STRING, label=_Field.LABEL_OPTIONAL, json_name="key")
        value = entry.field.add(name="value", number=2, label=_Field.LABEL_OPTIONAL, json_name="value")
        _set_type(value, field, package)
        made.type, made.label = _Field.TYPE_MESSAGE, _Field.LABEL_REPEATED
        made.type_name = f".{owner}.{entry.name}"
        return made
    _set_type(made, field, package)
    if field.many:
        made.label = _Field.LABEL_REPEATED
    elif field.presence and made.type != _Field.TYPE_MESSAGE:
        made.proto3_optional = True
    return made


def _set_type(made: descriptor_pb2.FieldDescriptorProto, field: WireField, package: str) -> None:
    if field.type in _TYPES:
        made.type = _TYPES[field.type]
        return
    made.type = _Field.TYPE_ENUM if field.codec == "enum" else _Field.TYPE_MESSAGE
    made.type_name = _full(field.type, package)


def _fill_enum(target: descriptor_pb2.EnumDescriptorProto, enum: WireEnum, words: dict[str, int]) -> None:
    target.value.add(name=enum_value_name(enum.name, "unspecified"), number=0)
    for word, number in sorted(words.items(), key=lambda pair: pair[1]):
        if word in enum.words:
            target.value.add(name=enum_value_name(enum.name, word), number=number)
        else:
            target.reserved_range.add(start=number, end=number)
            target.reserved_name.append(enum_value_name(enum.name, word))


def _fill_service(target: descriptor_pb2.ServiceDescriptorProto, service: WireService, package: str) -> None:
    for method in service.methods:
        target.method.add(
            name=method.name, input_type=_full(method.request, package), output_type=_full(method.answer, package)
        )
