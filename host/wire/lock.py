"""`wire.lock`: the numbers of a plugin's gRPC messages, beside its manifest.

One JSON document, sorted. It only grows: what has left the code stays in it, so that no number comes to mean something else.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from host.wire.model import Contract, WireEnum, WireMessage

NAME: Final = "wire.lock"
BYTES_MAX: Final = 4_194_304
_RESERVED: Final = range(19_000, 20_000)
"""Numbers that protobuf keeps for itself."""


class LockedField(Struct, frozen=True, forbid_unknown_fields=True):
    """One field, for ever."""

    number: int
    type: str


class LockedMessage(Struct, frozen=True, forbid_unknown_fields=True):
    """One message; `origin` tells which class it stands for."""

    fields: dict[str, LockedField]
    origin: str = ""


class LockedEnum(Struct, frozen=True, forbid_unknown_fields=True):
    """One enum: word -> number, from 1."""

    words: dict[str, int]
    origin: str = ""


class LockedMethod(Struct, frozen=True, forbid_unknown_fields=True):
    """One method: what it takes and gives."""

    request: str
    answer: str


class Lock(Struct, frozen=True, forbid_unknown_fields=True):
    """The file's content."""

    messages: dict[str, LockedMessage] = {}
    enums: dict[str, LockedEnum] = {}
    services: dict[str, dict[str, LockedMethod]] = {}
    format: int = 1

    def origins(self) -> dict[str, str]:
        """Name -> which class it stands for, of those that stand for one."""
        found = {name: one.origin for name, one in self.messages.items() if one.origin}
        return {**found, **{name: one.origin for name, one in self.enums.items()}}

    def text(self) -> str:
        """The file's text; the same for the same numbers."""
        encoded = msgspec.json.encode(self, order="sorted")
        return msgspec.json.format(encoded, indent=2).decode() + "\n"


class WireLockUnreadable(ValueError):
    """The file is none that `pk contract lock` wrote."""


def read_lock(file: Path) -> Lock | None:
    """The numbers in a file; None when there is none.

    Raises:
        WireLockUnreadable: it cannot be read, or gives one number twice.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise WireLockUnreadable(f"{NAME} cannot be read: {error.strerror}") from error
    if len(content) > BYTES_MAX:
        raise WireLockUnreadable(f"{NAME} has more than {BYTES_MAX} bytes")
    try:
        lock = msgspec.json.decode(content, type=Lock)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireLockUnreadable(f"{NAME} is no lock: {error}") from error
    if lock.format != 1:
        raise WireLockUnreadable(f"{NAME} has the format {lock.format}, and this kernel knows 1; a later `pk` wrote it")
    for fault in faults(lock):
        raise WireLockUnreadable(f"{NAME} is no lock: {fault}")
    return lock


def faults(lock: Lock) -> Iterator[str]:
    """Numbers that no lock gives: one twice, one left out (nothing ever leaves a lock), one of protobuf's own."""
    for name, message in lock.messages.items():
        yield from _wrong(name, [field.number for field in message.fields.values()])
    for name, enum in lock.enums.items():
        yield from _wrong(name, list(enum.words.values()))


def _wrong(name: str, numbers: list[int]) -> Iterator[str]:
    expected = _numbers(len(numbers))
    if sorted(numbers) != expected:
        odd = sorted(set(expected) ^ set(numbers)) or [n for n in numbers if numbers.count(n) > 1]
        yield f"the numbers of {name} are not 1 to {len(numbers)}, each once; look at {odd[0]}"


def _numbers(count: int) -> list[int]:
    found = (number for number in range(1, count + len(_RESERVED) + 1) if number not in _RESERVED)
    return [next(found) for _ in range(count)]


def write_text(file: Path, text: str) -> None:
    """Put a file in place, whole. OSError as it comes."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        draft.write_text(text, "utf-8")
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------ growing


def grown(lock: Lock, contract: Contract) -> Lock:
    """The lock with everything of a contract in it: what it has keeps its numbers, what is new gets the next ones.

    A field whose type has changed gets a new number; the one that it had stays reserved under a name that no field has.
    """
    messages = {**lock.messages, **{one.name: _message(lock, one) for one in contract.messages}}
    enums = {**lock.enums, **{one.name: _enum(lock, one) for one in contract.enums}}
    services = {name: dict(methods) for name, methods in lock.services.items()}
    for service in contract.services:
        of_it = services.setdefault(service.name, {})
        of_it.update({one.name: LockedMethod(one.request, one.answer) for one in service.methods})
    return Lock(messages, enums, services)


def _message(lock: Lock, message: WireMessage) -> LockedMessage:
    before = lock.messages.get(message.name)
    fields = dict(before.fields) if before is not None else {}
    for field in message.fields:
        known = fields.get(field.name)
        if known is not None and known.type != field.label:
            fields[f"{field.name}@{known.number}"] = fields.pop(field.name)
            known = None
        if known is None:
            fields[field.name] = LockedField(_next([one.number for one in fields.values()]), field.label)
    return LockedMessage(fields, message.origin)


def _enum(lock: Lock, enum: WireEnum) -> LockedEnum:
    before = lock.enums.get(enum.name)
    words = dict(before.words) if before is not None else {}
    for word in enum.words:
        if word not in words:
            words[word] = _next(list(words.values()))
    return LockedEnum(words, enum.origin)


def _next(numbers: list[int]) -> int:
    return _numbers(len(numbers) + 1)[-1]


# ---------------------------------------------------------------------------------------------- comparing


def breaks(lock: Lock, contract: Contract) -> Iterator[str]:
    """What a contract does that its lock forbids, a sentence for each. Leaving something out is none of it."""
    for message in contract.messages:
        known = lock.messages.get(message.name)
        for field in message.fields:
            before = known.fields.get(field.name) if known is not None else None
            if before is not None and before.type != field.label:
                yield (
                    f"{message.name}.{field.name} was {before.type} with the number {before.number} and is {field.label}; "
                    "keep its type, or give the field another name"
                )
    for service in contract.services:
        methods = lock.services.get(service.name, {})
        for method in service.methods:
            was, now = methods.get(method.name), LockedMethod(method.request, method.answer)
            if was is not None and was != now:
                yield (
                    f"{service.name}.{method.name} took {was.request} and gave {was.answer}, and takes {now.request} and "
                    f"gives {now.answer}; keep its types, or give the operation another name"
                )


def gains(lock: Lock, contract: Contract) -> list[str]:
    """What a contract has and its lock lacks, a sentence for each."""
    found: list[str] = []
    for message in contract.messages:
        known = lock.messages.get(message.name)
        if known is None:
            found.append(f"the message {message.name} is new")
        else:
            found += [f"{message.name} gains {one.name}" for one in message.fields if one.name not in known.fields]
    for enum in contract.enums:
        words = lock.enums[enum.name].words if enum.name in lock.enums else {}
        found += [f"{enum.name} gains {word}" for word in enum.words if word not in words]
    for service in contract.services:
        methods = lock.services.get(service.name, {})
        found += [f"{service.name} gains {one.name}" for one in service.methods if one.name not in methods]
    return found
