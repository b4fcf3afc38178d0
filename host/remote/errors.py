"""What came back over gRPC, as the error that the other kernel raised."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from host.remote.assertion import NOT_A_KERNEL
from host.rpc_errors import DETAILS_KEY
from plugin_api import errors
from plugin_api.errors import DeadlinePassed, KernelBug, KernelError, Unavailable, Violation

CLASS_KEY: Final = "pk-error"
"""Trailing metadata that names the class: several share one gRPC status."""
UNKNOWN_OUTCOME: Final = "commit_unknown"
_CLASSES: Final = {
    name: one for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, KernelError)
}
_TELLABLE: Final = {one: name for name, one in _CLASSES.items() if name != "UniqueViolation"}
_BY_STATUS: Final[dict[str, type[KernelError]]] = {
    "INVALID_ARGUMENT": errors.InvalidRequest,
    "UNAUTHENTICATED": errors.NotAuthenticated,
    "PERMISSION_DENIED": errors.NotAllowed,
    "NOT_FOUND": errors.NotFound,
    "ABORTED": errors.Conflict,
    "FAILED_PRECONDITION": errors.PreconditionFailed,
    "RESOURCE_EXHAUSTED": errors.LimitReached,
    "UNAVAILABLE": Unavailable,
    "DEADLINE_EXCEEDED": DeadlinePassed,
}
_AWAY: Final = frozenset({"UNAVAILABLE", "CANCELLED", "UNKNOWN", "INTERNAL", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED"})
"""What the library, or a proxy on the way, says by itself when the other side cannot be had."""


def class_of(error: KernelError) -> str:
    """The name of an error's class, or of its nearest ancestor that both kernels know."""
    return next(_TELLABLE[one] for one in type(error).__mro__ if one in _TELLABLE)


def error_of(failed: Any, remote: str, *, may_have_happened: bool) -> KernelError:
    """The error behind a failed call; of what `remote` is, when it did not answer at all."""
    status = _details(failed)
    name = failed.code().name
    if status is None:
        return _unanswered(failed, name, remote, may_have_happened=may_have_happened)
    info, violations, retry_after_s = _unpacked(status)
    if name == "UNIMPLEMENTED" or info.reason == NOT_A_KERNEL:
        return Unavailable(f"{remote} does not serve this kernel: {status.message}")
    trailing = dict(failed.trailing_metadata() or ())
    cls = _CLASSES.get(str(trailing.get(CLASS_KEY, "")), _BY_STATUS.get(name, KernelBug))
    return _made(cls, status.message, info.reason or None, violations, retry_after_s)


def unavailable(detail: str, *, may_have_happened: bool, retry_after_s: int = 1) -> Unavailable:
    """It is away; of a change that may have happened all the same this is said, as of a commit that broke off."""
    error = Unavailable(detail, retry_after_s=retry_after_s)
    if may_have_happened:
        error.violations = (Violation("", UNKNOWN_OUTCOME, "it may or may not have happened; read before repeating"),)
    return error


def _unanswered(failed: Any, name: str, remote: str, *, may_have_happened: bool) -> KernelError:
    if name == "DEADLINE_EXCEEDED":
        late = DeadlinePassed(f"{remote} did not answer in time; try again, or with less work in one call")
        if may_have_happened:
            late.violations = unavailable("", may_have_happened=True).violations
        return late
    if name in _AWAY:
        return unavailable(f"{remote} does not answer; see `pk doctor`", may_have_happened=may_have_happened)
    return KernelBug(f"{remote} answered {name} without details: {failed.details()}")


def _details(failed: Any) -> status_pb2.Status | None:
    for key, value in failed.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                status: status_pb2.Status = status_pb2.Status.FromString(value)
            except DecodeError:
                return None
            return status
    return None


def _unpacked(status: Any) -> tuple[Any, tuple[Violation, ...], int | None]:
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    has_retry = False
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
        has_retry = detail.Unpack(retry) or has_retry
    violations = tuple(Violation(_pointer(v.field), v.reason, v.description) for v in bad.field_violations)
    return info, violations, retry.retry_delay.seconds if has_retry else None


def _pointer(dotted: str) -> str:
    """`parts.1.label` is `/parts/1/label`: field names have no dots."""
    return "/" + dotted.replace(".", "/") if dotted else ""


def _made(
    cls: type[KernelError],
    detail: str,
    code: str | None,
    violations: tuple[Violation, ...],
    retry_after_s: int | None,
) -> KernelError:
    error = cls(detail, code=code) if code is not None and cls is not errors.CommitUnknown else cls(detail)
    error.code = code or error.code
    error.violations = violations
    error.retry_after_s = retry_after_s
    return error


def is_answer(failed: Any) -> bool:
    """Whether the other kernel itself answered."""
    return _details(failed) is not None
