"""What another plugin of this process hands over, looked at as closely as what comes through a door."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
from msgspec import inspect

from host.agreement import stays_exact
from host.encoding import ALWAYS, NEVER, ValueTests
from host.generations import RegisteredOperation
from host.wire_schema import inspected

Revalidate = Callable[[Any], Any]

_BACKSLASH: Final = ord("\\")  # to look for one number costs a sixth of what looking for bytes does
_NUL: Final = rb"\u0000"
_BYTES: Final = (bytes, bytearray, memoryview)
_AS_THEY_ARE: Final = (
    inspect.FloatType,
    inspect.DateTimeType,
    inspect.BytesType,
    inspect.ByteArrayType,
    inspect.MemoryViewType,
)


def compile_revalidate(registered: RegisteredOperation) -> Revalidate:
    """Make `revalidate(request) -> request` of one operation.

    Struct constructors do not enforce `Meta`, so a request is encoded and decoded once: as JSON, in which one search finds
    NUL in whatever text or key. Whatever msgspec does not decide alone is bound as a door binds it.

    The function raises `InvalidRequest` or `Unreadable` as both doors do: everything that is wrong at once, each with its
    place.
    """
    encode = msgspec.json.Encoder().encode
    decode: Callable[[bytes], Any] = msgspec.json.Decoder(registered.request_type).decode
    kind, exact = inspected(registered.request_type), _Exact()
    is_exact = None if exact.condition(kind, "") == ALWAYS else exact.compile(kind)

    def revalidate(request: Any) -> Any:
        try:
            encoded = encode(request)
            if _BACKSLASH not in encoded or _NUL not in encoded:
                made = decode(encoded)
                if is_exact is None or is_exact(made):
                    return made
        except (msgspec.ValidationError, UnicodeEncodeError, OverflowError):
            pass
        return registered.bind_fields(_as_rest(request))

    return revalidate


class _Exact(ValueTests):
    """Whether all numbers are those that JSON keeps exactly. Where the type's own bounds say so nobody has to look."""

    def condition(self, kind: inspect.Type, value: str) -> str:
        while isinstance(kind, inspect.Metadata):
            kind = kind.type
        is_exact = isinstance(kind, _AS_THEY_ARE) or (isinstance(kind, inspect.IntType) and stays_exact(kind))
        return ALWAYS if is_exact else super().condition(kind, value)

    def union(self, types: Iterable[inspect.Type], value: str) -> str:
        listed = list(types)
        # What is not finite is null in JSON, which nobody could tell from None any more.
        return NEVER if any(isinstance(kind, inspect.FloatType) for kind in listed) else super().union(listed, value)


def _as_rest(request: Any) -> Any:
    """The fields as the JSON values that they are in REST."""
    return _with_texts(msgspec.to_builtins(request, builtin_types=_BYTES, str_keys=True))


def _with_texts(value: Any) -> Any:
    match value:
        case dict():
            return {name: _with_texts(entry) for name, entry in value.items()}
        case list() | tuple():
            return [_with_texts(entry) for entry in value]
        case bytes() | bytearray() | memoryview():
            return urlsafe_b64encode(bytes(value)).rstrip(b"=").decode("ascii")
        case _:
            return value
