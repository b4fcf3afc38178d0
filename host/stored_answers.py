"""From the bytes of an answer's JSON back to the Struct that an operation answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from host.binding import with_bytes
from host.wire_schema import Schemas, mentions
from plugin_api.errors import KernelBug


def compile_decoder(answer_type: Any) -> Callable[[bytes], Any]:
    """Make `decode(bytes) -> answer` for what `compile_encoder` of the same type has encoded.

    The function raises KernelBug when the bytes are not of this type: an upgrade has changed it.
    """
    if answer_type is None:
        return _decode_nothing
    schemas = Schemas("answer")
    schema = schemas.of(answer_type)
    has_bytes = any(mentions(one, "contentEncoding") for one in (schema, *schemas.components.values()))

    def decode(kept: bytes) -> Any:
        try:
            value = msgspec.json.decode(kept)
            if has_bytes:
                value = with_bytes(schema, schemas.components, value)
            return msgspec.convert(value, answer_type, str_keys=True)
        except (msgspec.MsgspecError, ValueError) as error:
            raise KernelBug(f"a kept answer is no {answer_type!r} any more: {error}") from error

    return decode


def _decode_nothing(kept: bytes) -> None:
    return None
