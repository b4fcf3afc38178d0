"""What every operation may answer besides success, as OpenAPI components: problem documents (RFC 9457)."""

from __future__ import annotations

from typing import Any, Final

from host import problems
from plugin_api import errors
from plugin_api.limits import VIOLATIONS_MAX

Node = dict[str, Any]

VIOLATION: Final[Node] = {
    "type": "object",
    "description": "One thing wrong with a request, at one place.",
    "properties": {
        "pointer": {
            "type": "string",
            "description": "JSON Pointer (RFC 6901) of the field, missing ones included; empty for the whole request.",
            "examples": ["/owner_email"],
        },
        "code": {"type": "string", "description": "Stable lower snake word.", "examples": ["missing"]},
        "detail": {"type": "string", "description": "What was expected and what was seen."},
    },
    "required": ["pointer", "code", "detail"],
}
PROBLEM: Final[Node] = {
    "type": "object",
    "description": "Why a request was not carried out (RFC 9457). Further members may be added.",
    "properties": {
        "type": {
            "type": "string",
            "format": "uri",
            "description": "`urn:platform-kernel:problem:` and the code.",
            "examples": ["urn:platform-kernel:problem:not_found"],
        },
        "title": {"type": "string", "description": "The kind of problem in a few words."},
        "status": {"type": "integer", "minimum": 400, "maximum": 599, "description": "The HTTP status."},
        "detail": {"type": "string", "description": "What was expected, what was seen, and the remedy."},
        "instance": {"type": "string", "description": "The path of the request."},
        "code": {"type": "string", "pattern": "^[a-z][a-z0-9_]*$", "description": "Stable; what programs decide by."},
        "request_id": {"type": "string", "description": "The `X-Request-Id` of the answer; finds it in the log."},
        "errors": {
            "type": "array",
            "items": {"$ref": "#/components/schemas/Violation"},
            "maxItems": VIOLATIONS_MAX,
            "description": "Every violation of an `invalid_request`.",
        },
        "retry_after_s": {"type": "integer", "minimum": 0, "description": "Seconds after which it may work."},
    },
    "required": ["type", "title", "status", "detail", "instance", "code", "request_id"],
}

REQUEST_ID: Final[Node] = {
    "description": "Id of this request: the one that was sent, if it was safe, else a new one.",
    "required": True,
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
}
ETAG: Final[Node] = {
    "description": "The version of the entity; send it back as `If-Match` with a change.",
    "required": True,
    "schema": {"type": "string", "pattern": '^"[0-9]+"$', "examples": ['"1"']},
}
LOCATION: Final[Node] = {
    "description": "Path of the entity that was made.",
    "required": True,
    "schema": {"type": "string", "format": "uri-reference"},
}
RETRY_AFTER: Final[Node] = {
    "description": "Seconds after which it may work.",
    "schema": {"type": "integer", "minimum": 0},
}
AUTHENTICATE: Final[Node] = {
    "description": "How to authenticate.",
    "schema": {"type": "string", "examples": ["Bearer"]},
}
HEADERS: Final[Node] = {
    "ETag": ETAG,
    "Location": LOCATION,
    "RetryAfter": RETRY_AFTER,
    "RequestId": REQUEST_ID,
    "WwwAuthenticate": AUTHENTICATE,
}

_CLASSES: Final[dict[int, type[errors.KernelError]]] = {
    400: errors.Unreadable,
    401: errors.NotAuthenticated,
    403: errors.NotAllowed,
    404: errors.NotFound,
    406: errors.NotAcceptable,
    409: errors.Conflict,
    412: errors.PreconditionFailed,
    413: errors.PayloadTooLarge,
    415: errors.UnsupportedMediaType,
    416: errors.RangeNotSatisfiable,
    422: errors.InvalidRequest,
    428: errors.PreconditionRequired,
    429: errors.LimitReached,
    431: errors.HeadersTooLarge,
    500: errors.KernelBug,
    503: errors.Unavailable,
    504: errors.DeadlinePassed,
}
_MEANING: Final = {
    400: "The request cannot be read: no JSON, a key twice, a bad cursor or header.",
    401: "Credentials are missing or do not hold.",
    403: "The permission is missing; the detail names it.",
    404: "There is no such thing here.",
    406: "Only JSON is answered.",
    409: "The state of the thing forbids it.",
    412: "`If-Match` names another version than the current one.",
    413: "The body is too large; the detail names the limit.",
    415: "The body is of another media type than those listed.",
    416: "The range of bytes is not in what was asked for.",
    422: "The request breaks its contract; `errors` lists every violation.",
    428: "`If-Match` is missing.",
    429: "A limit is used up; try again after `Retry-After`.",
    431: "The request line or the header fields are too large; the detail names the limits.",
    500: "A fault of the kernel or of a plugin; the request id finds it in the log.",
    503: "Something that is needed is away for now, and nothing was changed.",
    504: "It was not done in time, and nothing was changed.",
}
_WAIT: Final = frozenset({429, 503, 504})


def component_of(status: int) -> str:
    """The name of the shared answer of a status: `NotFound` of 404."""
    return _CLASSES[status].__name__


def responses() -> Node:
    """Every shared answer by its name."""
    shared = {component_of(status): _response(_MEANING[status], status) for status in _CLASSES}
    return {**shared, "AnyProblem": _response("Any other problem.", None)}


def reference(status: int) -> Node:
    """A reference to the shared answer of a status."""
    return {"$ref": f"#/components/responses/{component_of(status)}"}


ANY_PROBLEM: Final[Node] = {"$ref": "#/components/responses/AnyProblem"}


def header(name: str) -> Node:
    """A reference to a shared header."""
    return {"$ref": f"#/components/headers/{name}"}


def _response(meaning: str, status: int | None) -> Node:
    headers: Node = {"X-Request-Id": header("RequestId")}
    if status == 401:
        headers["WWW-Authenticate"] = header("WwwAuthenticate")
    if status in _WAIT:
        headers["Retry-After"] = header("RetryAfter")
    media: Node = {"schema": {"$ref": "#/components/schemas/Problem"}}
    if status is not None:
        media["example"] = _example(status)
    return {"description": meaning, "headers": headers, "content": {problems.CONTENT_TYPE: media}}


def _example(status: int) -> Node:
    kind = _CLASSES[status]
    shown: Node = {
        "type": f"urn:platform-kernel:problem:{kind.default_code}",
        "title": kind.title,
        "status": status,
        "detail": _MEANING[status],
        "instance": "/api/v1/...",
        "code": kind.default_code,
        "request_id": "4b7c1d-1f",
    }
    if status == 422:
        violation = {"pointer": "/name", "code": "missing", "detail": "expected a text; the field is missing"}
        shown["errors"] = [violation]
    return {**shown, "retry_after_s": 1} if status in _WAIT else shown
