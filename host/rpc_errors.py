"""Errors as gRPC tells them: a status, the text that REST has as `detail`, and `google.rpc` details."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from host.problems import BUG_DETAIL
from plugin_api.errors import KernelBug, KernelError, Violation
from plugin_api.limits import VIOLATIONS_MAX

DOMAIN: Final = "platform-kernel"
DETAILS_KEY: Final = "grpc-status-details-bin"
REQUEST_ID_KEY: Final = "x-request-id"
TEXT_BYTES_MAX: Final = 1_000
DETAILS_BYTES_MAX: Final = 3_600
"""Clients take 8 KiB of trailing metadata: this in base64, a text of which each byte may take three, and room for others."""
_NAME: Final = re.compile(r"[a-z0-9_.-]+\Z")
_NOT_SENT: Final = frozenset({"set-cookie", "grpc-status", "grpc-message", REQUEST_ID_KEY})

Metadata = tuple[tuple[str, str | bytes], ...]


def status_of(error: KernelError) -> grpc.StatusCode:
    """The status of an error's class."""
    status: grpc.StatusCode = grpc.StatusCode[error.grpc_status]
    return status


def text_of(error: KernelError) -> str:
    """What REST has as `detail`; never the inner text of a bug."""
    text = BUG_DETAIL if isinstance(error, KernelBug) else error.detail
    encoded = text.encode("utf-8", "backslashreplace")
    if len(encoded) <= TEXT_BYTES_MAX:
        return encoded.decode()
    return f"{encoded[: TEXT_BYTES_MAX - 3].decode('utf-8', 'ignore')}…"


def trailing_of(error: KernelError, request_id: str) -> Metadata:
    """The trailing metadata of an error: its details, and the header fields that REST would have."""
    own = (REQUEST_ID_KEY, request_id), (DETAILS_KEY, details_of(error, request_id))
    return (*metadata_of(tuple(error.headers.items())), *own)


def metadata_of(headers: Sequence[tuple[str, str]]) -> Metadata:
    """Header fields as metadata: names in lower case. What metadata cannot hold, and cookies, are left out."""
    return tuple(
        (key, value) for name, value in headers if (key := _key(name)) and value.isascii() and value.isprintable()
    )


@lru_cache(1_000)  # the same few names in every answer; the pattern alone is dearer than all else that is done for one
def _key(name: str) -> str:
    """The name as metadata has it; empty when it is not sent."""
    lowered = name.lower()
    is_sent = _NAME.match(lowered) and lowered not in _NOT_SENT and not lowered.endswith("-bin")
    return lowered if is_sent else ""


def details_of(error: KernelError, request_id: str) -> bytes:
    """A `google.rpc.Status`, of at most DETAILS_BYTES_MAX: with many violations their descriptions go first, then the
    last of them, and one that says so stands at the end."""
    listed = error.violations[:VIOLATIONS_MAX]
    encoded = _encoded(error, request_id, listed)
    if len(encoded) > DETAILS_BYTES_MAX:
        listed = tuple(Violation(one.pointer, one.code, "") for one in listed)
        encoded = _encoded(error, request_id, listed)
    while len(encoded) > DETAILS_BYTES_MAX and listed:
        listed = listed[: len(listed) * 3 // 4]
        more = Violation("", "more", "there are more violations than gRPC has room for; REST lists them")
        encoded = _encoded(error, request_id, (*listed, more))
    return encoded


def _encoded(error: KernelError, request_id: str, violations: Sequence[Violation]) -> bytes:
    status = status_pb2.Status(code=status_of(error).value[0], message=text_of(error))
    info = error_details_pb2.ErrorInfo(reason=error.code, domain=DOMAIN, metadata={"request_id": request_id})
    _add(status, info)
    if violations:
        _add(status, error_details_pb2.BadRequest(field_violations=[_violation(one) for one in violations]))
    if error.retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.seconds = error.retry_after_s
        _add(status, retry)
    encoded: bytes = status.SerializeToString()
    return encoded


def _add(status: status_pb2.Status, detail: Message) -> None:
    status.details.add().Pack(detail)


def _violation(one: Violation) -> error_details_pb2.BadRequest.FieldViolation:
    detail = one.detail.encode("utf-8", "backslashreplace").decode()
    return error_details_pb2.BadRequest.FieldViolation(field=dotted(one.pointer), description=detail, reason=one.code)


def dotted(pointer: str) -> str:
    """`/parts/1/label` is `parts.1.label`."""
    parts = pointer.split("/")[1:]
    return ".".join(part.replace("~1", "/").replace("~0", "~") for part in parts)
