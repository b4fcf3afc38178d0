"""Between bytes and Structs: the request of an operation out of path, query and body; its answer into bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec

from plugin_api.errors import InvalidRequest, Unreadable

Bind = Callable[[Sequence[str], str, bytes | None], Any]


def compile_binding(request_type: Any, *, placeholders: Sequence[str], takes_body: bool) -> Bind:
    """Make `bind(raw placeholder values, raw query, body) -> request`."""

    def bind(values: Sequence[str], query: str, body: bytes | None) -> Any:
        fields: dict[str, Any] = {}
        try:
            if takes_body:
                fields = msgspec.json.decode(body or b"{}", type=dict)
            else:
                fields = dict(parse_qsl(query))
            fields.update(zip(placeholders, map(unquote, values), strict=True))
            return msgspec.convert(fields, request_type, strict=takes_body)
        except msgspec.ValidationError as error:
            raise InvalidRequest(str(error)) from None
        except (msgspec.DecodeError, ValueError) as error:
            raise Unreadable(str(error), code="malformed_json") from None

    return bind


def compile_encoder(answer_type: Any) -> Callable[[Any], bytes]:
    """Make `encode(answer) -> bytes`."""
    return msgspec.json.Encoder().encode
