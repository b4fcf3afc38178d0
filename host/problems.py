"""Errors on the wire: RFC 9457 problem documents with this kernel's own members."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from plugin_api.errors import KernelBug, KernelError, NotAuthenticated
from plugin_api.limits import VIOLATIONS_MAX

CONTENT_TYPE: Final = "application/problem+json"
BUG_DETAIL: Final = "this is a fault of the kernel or of a plugin; look the request id up in the log"
_encoder = msgspec.json.Encoder()


def document(error: KernelError, instance: str, request_id: str) -> dict[str, Any]:
    """The problem document of one error. A bug's detail is never shown: it may hold anything."""
    is_bug = isinstance(error, KernelBug)
    problem: dict[str, Any] = {
        "type": f"urn:platform-kernel:problem:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": BUG_DETAIL if is_bug else error.detail,
        "instance": instance,
        "code": error.code,
        "request_id": request_id,
    }
    if error.violations:
        problem["errors"] = [msgspec.to_builtins(v) for v in error.violations[:VIOLATIONS_MAX]]
    if error.retry_after_s is not None:
        problem["retry_after_s"] = error.retry_after_s
    return problem


def body(error: KernelError, instance: str, request_id: str) -> bytes:
    """The encoded problem document. Text that is no valid Unicode is shown escaped."""
    problem = document(error, instance, request_id)
    try:
        return _encoder.encode(problem)
    except UnicodeEncodeError:
        clean = {
            k: v.encode("utf-8", "backslashreplace").decode() if isinstance(v, str) else v for k, v in problem.items()
        }
        return _encoder.encode(clean)


def headers(error: KernelError) -> list[tuple[str, str]]:
    """The header fields that go with the status."""
    found = list(error.headers.items())
    if error.retry_after_s is not None:
        found.append(("Retry-After", str(error.retry_after_s)))
    if isinstance(error, NotAuthenticated):
        found.append(("WWW-Authenticate", "Bearer"))
    return found
