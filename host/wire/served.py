"""A generation's contract at work: what its methods read and write, and what reflection tells of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from host.wire.conversion import Converters, Read, Write
from host.wire.descriptors import file_of, pool_of, symbols
from host.wire.lock import Lock
from host.wire.model import EMPTY, Contract
from host.wire.numbering import FOLDER, numbered

if TYPE_CHECKING:
    from host.generations import Generation


class ServedMethod(NamedTuple):
    """How the bytes of one method are read and written."""

    parse: Callable[[bytes], Any]
    read: Read
    write: Write
    """(JSON value) -> message; of an operation that answers nothing, whatever it is given."""


class ServedContract:
    """One pool of descriptors, and everything that hangs on it."""

    def __init__(self, contract: Contract, lock: Lock) -> None:
        self.contract = contract
        file = file_of(contract, lock)
        pool = pool_of(file)
        converters = Converters(contract, lock, pool)
        self.file = file.SerializeToString()
        self.dependencies = tuple(file.dependency)
        self.symbols = frozenset(symbols(file))
        self.services = tuple(f"{contract.package}.{one.name}" for one in contract.services)
        self.methods = {
            f"/{contract.package}.{service.name}/{method.name}": _served(converters, method.request, method.answer)
            for service in contract.services
            for method in service.methods
        }


def _served(converters: Converters, request: str, answer: str) -> ServedMethod:
    empty = converters.classes[EMPTY]()
    write = converters.writer(answer) if answer != EMPTY else lambda _: empty
    return ServedMethod(converters.classes[request].FromString, converters.reader(request), write)


def serve(generation: Generation, data_folder: Path) -> ServedContract:
    """The contract of a generation. TypeError, ValueError or OSError when there is none to be had."""
    kept = data_folder / "plugins" / FOLDER
    names, operations = generation.names, generation.operations
    contract, lock = numbered(generation.plugin_id, names.grpc_package, operations, generation.folder, kept)
    return ServedContract(contract, lock)
