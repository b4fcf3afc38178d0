"""The OpenAPI 3.1 document of everything that answers: written from the declarations that the kernel runs by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from host import openapi_problems
from host.openapi_components import Components, is_entity, parameter, rename
from host.openapi_problems import ANY_PROBLEM, HEADERS, PROBLEM, VIOLATION, Node, header
from host.request_plan import OCTETS, RequestPlan
from plugin_api.pipeline import BoundOperation
from plugin_api.streams import Stream

JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
_WITHOUT_BODY: Final = frozenset({"GET", "DELETE"})
_KEYED: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_METHODS: Final = ("get", "post", "put", "patch", "delete")
_HOST_TAG: Final = "host"

SECURITY_SCHEMES: Final[Node] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT or API key",
        "description": "An access token from `POST /api/v1/iam/sessions`, or an API key (`pkk_...`).",
    },
    "cookie": {
        "type": "apiKey",
        "in": "cookie",
        "name": "pk_session",
        "description": "A browser's session; every change also needs its CSRF token as `X-CSRF-Token`.",
    },
}
IF_MATCH: Final[Node] = {
    "name": "If-Match",
    "in": "header",
    "description": "The version that you have read: its `ETag`.",
    "schema": {"type": "string", "examples": ['"1"']},
}
IDEMPOTENCY_KEY: Final[Node] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Makes a repetition answer what the first one answered, for 24 hours.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}
DESCRIPTION: Final = """\
JSON in UTF-8 with `snake_case` names; unknown fields are refused, and clients ignore those they do not know.
Ids are UUIDs, times RFC 3339 in UTC, durations integers named `*_s` or `*_ms`, integers within \N{PLUS-MINUS SIGN}(2^53-1).

**Errors** are problem documents (`application/problem+json`, RFC 9457) with a stable `code`; an invalid request lists
every violation with its JSON Pointer.

**Lists** take `limit`, `cursor`, `sort` and filters, and answer `items` and `next_cursor` (null on the last page).

**Changes**: an entity answers with its version as `ETag`; a `PATCH` is a JSON Merge Patch and needs it as `If-Match`.
"""


def _bytes_of(media: str) -> Node:
    return {media: {"schema": {"type": "string", "format": "binary"}}}


ANY_BYTES: Final[Node] = _bytes_of("*/*")
"""A body in pieces, whatever it is."""


class DocumentedOperation(Protocol):
    """What the document is told about one operation."""

    @property
    def bound(self) -> BoundOperation:
        """Its declaration."""
        ...

    @property
    def request_type(self) -> type:
        """The Struct that it takes."""
        ...

    @property
    def answer_type(self) -> Any:
        """What it answers; None for nothing."""
        ...

    @property
    def description(self) -> str:
        """Its docstring."""
        ...

    @property
    def status(self) -> int:
        """The status of success."""
        ...


def document(
    operations: Sequence[DocumentedOperation],
    *,
    title: str,
    version: str,
    tags: Mapping[str, str] | None = None,
    further_paths: Mapping[str, Node] | None = None,
) -> Node:
    """Describe every operation and the host's own pages; equal operations make equal documents.

    `tags` says what each area is about; `further_paths` are path items of hand-written routes.
    """
    components = Components()
    described = sorted(operations, key=lambda o: (not o.bound.plugin_id.startswith("kernel."), o.bound.id))
    drafts = [(o, _Draft(o, components)) for o in described]
    renamed = components.input_names()
    paths: dict[str, Node] = {}
    for operation, draft in drafts:
        paths.setdefault(operation.bound.path, {})[operation.bound.method.lower()] = draft.finished(renamed)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "description": DESCRIPTION, "license": _LICENSE},
        "servers": [{"url": "/"}],
        "tags": _tags({o.bound.area for o in described}, tags or {}),
        "paths": _in_order({**paths, **_pages(), **(further_paths or {})}),
        "components": {
            "schemas": dict(sorted({**components.schemas(renamed), **_PROBLEMS}.items())),
            "responses": openapi_problems.responses(),
            "headers": HEADERS,
            "securitySchemes": SECURITY_SCHEMES,
        },
    }


_PROBLEMS: Final[Node] = {"Problem": PROBLEM, "Violation": VIOLATION}
_LICENSE: Final = {"name": "Apache-2.0", "identifier": "Apache-2.0"}


def _tags(areas: set[str], said: Mapping[str, str]) -> list[Node]:
    own = {"name": _HOST_TAG, "description": "The host itself: health, this document, its page."}
    named = [{"name": area, **({"description": said[area]} if area in said else {})} for area in sorted(areas)]
    return [*named, own]


def _in_order(paths: Mapping[str, Node]) -> dict[str, Node]:
    return {
        path: {key: item[key] for key in sorted(item, key=lambda k: (_METHODS.index(k) if k in _METHODS else -1, k))}
        for path, item in sorted(paths.items())
    }


class _Draft:
    """One operation, described as far as it can be before all schemas have their names."""

    def __init__(self, operation: DocumentedOperation, components: Components) -> None:
        self._operation = operation
        self._bound = operation.bound
        components.names.area = self._bound.area
        takes_body = self._bound.method not in _WITHOUT_BODY and not self._bound.spec.stream
        self._plan = components.plan(operation.request_type, self._bound.spec.placeholders, takes_body=takes_body)
        self._body = components.body(self._plan) if takes_body else None
        self._is_streamed = operation.answer_type is Stream
        has_answer = operation.answer_type is not None and not self._is_streamed
        self._answer = components.answer(operation.answer_type) if has_answer else None
        self._entity = is_entity(operation.answer_type) if has_answer else False

    def finished(self, renamed: set[str]) -> Node:
        """The operation object."""
        summary, _, rest = " ".join(self._operation.description.split("\n\n")[0].split()).partition(". ")
        made: Node = {
            "operationId": self._bound.id,
            "tags": [self._bound.area],
            "summary": summary.rstrip(".") or self._bound.id,
            "description": self._text(rest),
        }
        if self._bound.spec.deprecated:
            made["deprecated"] = True
        if self._bound.permission is not None:
            made["x-permission"] = self._bound.permission
        parameters = [*_parameters(self._plan), *self._header_parameters()]
        if parameters:
            made["parameters"] = rename(parameters, renamed)
        if self._body is not None:
            made["requestBody"] = self._request_body(rename(self._body, renamed))
        elif self._bound.spec.stream and self._bound.method not in _WITHOUT_BODY:
            made["requestBody"] = {"content": ANY_BYTES}
        made["responses"] = self._responses()
        made["security"] = [] if self._bound.spec.public else [{"bearer": []}, {"cookie": []}]
        return made

    def _text(self, rest: str) -> str:
        paragraphs = self._operation.description.split("\n\n")[1:]
        permission = self._bound.permission
        if self._bound.spec.public:
            needs = "Public: needs no credentials."
        else:
            needs = f"Needs the permission `{permission}`." if permission else "Needs credentials, and no permission."
        return "\n\n".join(part for part in (rest, *paragraphs, needs) if part)

    def _header_parameters(self) -> list[Node]:
        found: list[Node] = []
        if self._bound.method in ("PATCH", "DELETE"):
            found.append({**IF_MATCH, "required": self._bound.method == "PATCH"})
        wanted = self._bound.spec.idempotency
        if self._bound.method in _KEYED and wanted != "none" and not self._bound.spec.public:
            found.append({**IDEMPOTENCY_KEY, "required": wanted == "required"})
        return found

    def _request_body(self, schema: Node) -> Node:
        media = {"schema": schema}
        content = {JSON: media, MERGE_PATCH: media} if self._bound.method == "PATCH" else {JSON: media}
        if self._plan.of_source("octets"):
            content[OCTETS] = {"schema": {"type": "string", "format": "binary"}}
        return {"required": self._plan.body_is_required, "content": content}

    def _responses(self) -> Node:
        problems = {str(status): openapi_problems.reference(status) for status in sorted(self._problem_statuses())}
        return {str(self._operation.status): self._success(), **problems, "default": ANY_PROBLEM}

    def _success(self) -> Node:
        headers: Node = {"X-Request-Id": header("RequestId")}
        if self._entity:
            headers["ETag"] = header("ETag")
            if self._operation.status == 201:
                headers["Location"] = header("Location")
        made: Node = {"description": _SUCCESS.get(self._operation.status, "Done."), "headers": headers}
        if self._is_streamed:
            return {**made, "content": _bytes_of(self._bound.spec.media)}
        return {**made, "content": {JSON: {"schema": self._answer}}} if self._answer is not None else made

    def _problem_statuses(self) -> set[int]:
        bound = self._bound
        statuses = {400, 406, 422, 429, 431, 500, 503, 504}
        # Public operations that change something are log-ins and their like: they refuse what they are shown.
        statuses |= {401, 403} if bound.spec.public and bound.method != "GET" else set()
        statuses |= set() if bound.spec.public else {401, 403}
        statuses |= {403, 412, 416} if bound.spec.stream else set()
        statuses |= {404} if bound.spec.placeholders or bound.method != "GET" else set()
        statuses |= {409} if bound.method in _KEYED else set()
        statuses |= {412} if bound.method in ("PATCH", "DELETE") else set()
        statuses |= {428} if bound.method == "PATCH" else set()
        return statuses | ({413, 415} if bound.method not in _WITHOUT_BODY else set())


_SUCCESS: Final = {200: "Success.", 201: "Made.", 202: "Accepted; it is being done.", 204: "Done; there is no content."}


def _parameters(plan: RequestPlan) -> list[Node]:
    path = {field.name: field for field in plan.of_source("path")}
    # A template names the field as Python does, the wire may name it otherwise.
    made = [parameter(path[name].field.name, "path", path[name].schema, required=True) for name in plan.placeholders]
    query = plan.of_source("query")
    return made + [parameter(field.name, "query", field.schema, required=field.field.required) for field in query]


# ------------------------------------------------------------------------------------------- the host's pages


def _pages() -> dict[str, Node]:
    def status_page(word: str) -> Node:
        schema = {
            "type": "object",
            "properties": {"status": {"type": "string", "const": word}},
            "required": ["status"],
        }
        return {JSON: {"schema": schema}}

    return {
        "/livez": _page("livez", "Tell whether the process lives", status_page("ok")),
        "/readyz": _page("readyz", "Tell whether the kernel serves", status_page("ready"), problem=503),
        "/api/v1/openapi.json": _page("openapi", "Get this document", {JSON: {"schema": {"type": "object"}}}),
        "/docs": _page("docs", "Read this document as a page", {"text/html": {"schema": {"type": "string"}}}),
    }


def _page(name: str, summary: str, content: Node, problem: int | None = None) -> Node:
    success = {"description": "Success.", "headers": {"X-Request-Id": header("RequestId")}, "content": content}
    problems = {str(problem): openapi_problems.reference(problem)} if problem is not None else {}
    return {
        "get": {
            "operationId": f"{_HOST_TAG}.{name}",
            "tags": [_HOST_TAG],
            "summary": summary,
            "description": "Public: needs no credentials.",
            "responses": {"200": success, **problems, "default": ANY_PROBLEM},
            "security": [],
        }
    }
