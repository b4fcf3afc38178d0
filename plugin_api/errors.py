"""What can go wrong, by whose fault: one tree for every door, every plugin and the host.

The caller's fault: `InvalidRequest` `NotAuthenticated` `NotAllowed` `NotFound` `Conflict` `PreconditionFailed`
`LimitReached`. Worth another try: `Unavailable` `DeadlinePassed`. Ours: `KernelBug`. Each class fixes the HTTP status
(RFC 9110, RFC 9457) and the gRPC status; `code` is stable and documented in `docs/reference/errors.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

from msgspec import Struct


class Violation(Struct, frozen=True):
    """One thing wrong with a request, at one place."""

    pointer: str
    """JSON Pointer (RFC 6901) of the field; a missing field is named by the pointer that it would have."""
    code: str
    """Stable lower snake word: `missing`, `type`, `bound`, `pattern`, `unknown_field`, ..."""
    detail: str
    """What was expected and what was seen; never a secret."""


class KernelError(Exception):
    """The root. Raise a subclass: `raise errors.Conflict("lead is closed; reopen it first", code="lead_closed")`."""

    status: ClassVar[int] = 500
    grpc_status: ClassVar[str] = "INTERNAL"
    title: ClassVar[str] = "Internal error"
    default_code: ClassVar[str] = "kernel_bug"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        violations: Iterable[Violation] = (),
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or self.default_code
        self.violations = tuple(violations)
        self.retry_after_s = retry_after_s
        self.headers: Mapping[str, str] = headers or {}


# ------------------------------------------------------------------------------------ the caller's fault


class InvalidRequest(KernelError):
    """The request can be read but breaks its contract; `violations` lists every breach."""

    status = 422
    grpc_status = "INVALID_ARGUMENT"
    title = "Invalid request"
    default_code = "invalid_request"


class Unreadable(InvalidRequest):
    """The request cannot be read at all: `malformed_json`, `duplicate_key`, `bad_cursor`, `bad_header`."""

    status = 400
    title = "Unreadable request"
    default_code = "malformed_request"


class MethodNotAllowed(InvalidRequest):
    """The path exists but not with this method; the answer carries `Allow`."""

    status = 405
    title = "Method not allowed"
    default_code = "method_not_allowed"


class NotAcceptable(InvalidRequest):
    """None of the media types that the caller accepts can be produced."""

    status = 406
    title = "Not acceptable"
    default_code = "not_acceptable"


class UnsupportedMediaType(InvalidRequest):
    """The body is of a media type that the operation does not take; the detail names those it takes."""

    status = 415
    title = "Unsupported media type"
    default_code = "unsupported_media_type"


class PayloadTooLarge(InvalidRequest):
    """The body is larger than the operation takes; the detail names the limit with its unit."""

    status = 413
    grpc_status = "RESOURCE_EXHAUSTED"
    title = "Payload too large"
    default_code = "payload_too_large"


class RangeNotSatisfiable(InvalidRequest):
    """The range of bytes begins at or after the end; the detail names the size."""

    status = 416
    title = "Range not satisfiable"
    default_code = "range_not_satisfiable"


class HeadersTooLarge(PayloadTooLarge):
    """The request line or the header fields are larger than the host takes."""

    status = 431
    title = "Request header fields too large"
    default_code = "headers_too_large"


class NotAuthenticated(KernelError):
    """No credentials, or none that hold: missing, forged, expired, revoked."""

    status = 401
    grpc_status = "UNAUTHENTICATED"
    title = "Not authenticated"
    default_code = "not_authenticated"


class NotAllowed(KernelError):
    """The actor is known and may not do this; the detail names the missing permission."""

    status = 403
    grpc_status = "PERMISSION_DENIED"
    title = "Not allowed"
    default_code = "not_allowed"


class NotFound(KernelError):
    """There is no such thing, or it belongs to another tenant: the two look the same."""

    status = 404
    grpc_status = "NOT_FOUND"
    title = "Not found"
    default_code = "not_found"


class Conflict(KernelError):
    """The state of the thing forbids it."""

    status = 409
    grpc_status = "ABORTED"
    title = "Conflict"
    default_code = "conflict"


class UniqueViolation(Conflict):
    """A row with the same unique value exists already; `constraint` is the name of the violated constraint."""

    def __init__(self, detail: str, *, constraint: str) -> None:
        super().__init__(detail)
        self.constraint = constraint


class Gone(Conflict):
    """The thing existed and was withdrawn for good."""

    status = 410
    grpc_status = "FAILED_PRECONDITION"
    title = "Gone"
    default_code = "gone"


class PreconditionFailed(KernelError):
    """`If-Match` names another version than the current one; read again and repeat."""

    status = 412
    grpc_status = "FAILED_PRECONDITION"
    title = "Precondition failed"
    default_code = "precondition_failed"


class PreconditionRequired(PreconditionFailed):
    """The operation changes an entity and needs `If-Match` with the version that the caller has read."""

    status = 428
    title = "Precondition required"
    default_code = "precondition_required"


class LimitReached(KernelError):
    """A rate, quota or queue bound is used up; `retry_after_s` tells when there is room again."""

    status = 429
    grpc_status = "RESOURCE_EXHAUSTED"
    title = "Limit reached"
    default_code = "limit_reached"


# -------------------------------------------------------------------------------------- worth another try


class Unavailable(KernelError):
    """Something that the operation needs is away for now; nothing was changed."""

    status = 503
    grpc_status = "UNAVAILABLE"
    title = "Unavailable"
    default_code = "unavailable"
    retryable = True

    def __init__(self, detail: str, *, code: str | None = None, retry_after_s: int = 1) -> None:
        super().__init__(detail, code=code, retry_after_s=retry_after_s)


class StoreUnavailable(Unavailable):
    """A kernel store (PostgreSQL, Valkey) is away: counts for no breaker, or an outage of 2 s would cost 30."""


class CommitUnknown(StoreUnavailable):
    """The database went away during the commit: it may or may not have happened. Read again before repeating.

    On the wire it is `unavailable` like every outage, with one entry `commit_unknown` among its `errors`.
    """

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.violations: tuple[Violation, ...] = (Violation("", "commit_unknown", detail),)


class DeadlinePassed(KernelError):
    """The call ran out of its time; its transaction was rolled back."""

    status = 504
    grpc_status = "DEADLINE_EXCEEDED"
    title = "Deadline passed"
    default_code = "deadline_passed"
    retryable = True

    def __init__(self, detail: str, *, code: str | None = None, retry_after_s: int = 1) -> None:
        super().__init__(detail, code=code, retry_after_s=retry_after_s)


# -------------------------------------------------------------------------------------------- not the caller


class ModuleFailed(KernelError):
    """A third party's code failed; the detail names it."""

    status = 502
    title = "Module failed"
    default_code = "module_failed"


class KernelBug(KernelError):
    """Our fault: an invariant does not hold. The answer carries only the request id; the log has the rest."""
