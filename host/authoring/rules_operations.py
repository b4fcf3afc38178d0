"""Rules about operations and their permissions: what `@operation` was told, compared with the manifest and the Structs."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from host.authoring.package import Package, Place, Rule
from host.authoring.source import Function, Source, is_true, keyword_of, text_of
from host.authoring.structs import Structs, StructView
from plugin_api.operation import OperationSpec, operation

_MARKS: Final = frozenset({"plugin_api.operation", "plugin_api.operation.operation"})
_ABSOLUTE: Final = ("/api/", "/.well-known/")


@dataclass(frozen=True)
class _Operation:
    source: Source
    function: Function
    mark: ast.Call

    @property
    def route(self) -> str | None:
        return text_of(self.mark.args[0]) if self.mark.args and isinstance(self.mark.args[0], ast.Constant) else None

    @property
    def parameters(self) -> list[ast.arg]:
        return [*self.function.args.posonlyargs, *self.function.args.args]

    def place(self, said: str) -> Place:
        return Place(f"{self.function.name} {said}", self.source.file, self.mark.lineno)


def _operations(package: Package) -> Iterator[_Operation]:
    for source in package.sources:
        for function, _ in source.functions():
            for mark in function.decorator_list:
                if isinstance(mark, ast.Call) and source.resolve(mark.func) in _MARKS:
                    yield _Operation(source, function, mark)


def _spec(route: str) -> OperationSpec | str:
    """What a route says, or why it is none."""

    def nothing() -> None: ...

    try:
        spec: OperationSpec = vars(operation(route)(nothing))["__pk_operation__"]
    except ValueError as error:
        return str(error)
    return spec


def _shape(package: Package) -> Iterator[Place]:
    for one in _operations(package):
        if not isinstance(one.function, ast.AsyncFunctionDef):
            yield one.place("is no `async def`")
        if len(one.parameters) != 3:
            yield one.place(f"takes {len(one.parameters)} parameters")
        elif one.parameters[2].annotation is None:
            yield one.place(f"does not say of which Struct `{one.parameters[2].arg}` is")
        if one.function.returns is None:
            yield one.place("does not say what it answers")


def _route(package: Package) -> Iterator[Place]:
    structs = Structs(package.sources)
    for one in _operations(package):
        spec = None if one.route is None else _spec(one.route)
        if isinstance(spec, str):
            yield one.place(f"has a route that cannot be read: {spec}")
        elif spec is not None:
            request = _request(one, structs)
            lacking = sorted(set(spec.placeholders) - request.fields) if request else []
            if request and lacking:
                yield one.place(f"has {{{lacking[0]}}} in its path, and {request.name} has no field {lacking[0]}")


def _absolute(package: Package) -> Iterator[Place]:
    for one in _operations(package):
        path = (one.route or "").partition(" ")[2]
        if path.startswith(_ABSOLUTE) and not package.is_kernel:
            yield one.place(f"has the absolute path {path}")


def _lenient(package: Package) -> Iterator[Place]:
    structs = Structs(package.sources)
    seen: set[str] = set()
    for one in _operations(package):
        request = _request(one, structs)
        if request and not request.is_strict and request.name not in seen:
            seen.add(request.name)
            yield Place(f"{request.name}, which {one.function.name} takes, has no `forbid_unknown_fields=True`",
                        request.file, request.line)  # fmt: skip


def _request(one: _Operation, structs: Structs) -> StructView | None:
    annotation = one.parameters[2].annotation if len(one.parameters) == 3 else None
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        try:
            annotation = ast.parse(annotation.value, mode="eval").body
        except SyntaxError:
            return None
    return structs.find(one.source.resolve(annotation)) if annotation is not None else None


def _undocumented(package: Package) -> Iterator[Place]:
    for one in _operations(package):
        if not (ast.get_docstring(one.function) or "").strip():
            yield one.place("has no docstring")


def _undeclared(package: Package) -> Iterator[Place]:
    if package.manifest is None:
        return
    for one in _operations(package):
        wanted = text_of(keyword_of(one.mark, "permission"))
        if wanted and wanted not in package.manifest.permissions:
            yield one.place(f'needs the permission "{wanted}", which the manifest does not list')


def _unused(package: Package) -> Iterator[Place]:
    if package.manifest is None:
        return
    texts = {
        node.value
        for source in package.sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    ends = {".".join(text.split(".")[-2:]) for text in texts}
    for name in package.manifest.permissions:
        if name not in ends:
            yield Place(f'the permission "{name}" is listed, and nothing asks for it', package.manifest_file)


def _open(package: Package) -> Iterator[Place]:
    for one in _operations(package):
        if keyword_of(one.mark, "permission") is None and not is_true(keyword_of(one.mark, "public")):
            yield one.place("asks for no permission")


def _public(package: Package) -> Iterator[Place]:
    for one in _operations(package):
        if is_true(keyword_of(one.mark, "public")) and not package.is_kernel:
            yield one.place("is `public=True`")


RULES: Final = (
    Rule(
        "operation_shape",
        "error",
        "An operation that takes or gives anything else is refused when it is registered.",
        "Write `async def name(self, call: Call, request: SomeStruct) -> SomeStruct` (or `-> None`).",
        _shape,
    ),
    Rule(
        "operation_route",
        "error",
        "A route that contradicts its Struct is refused when it is registered.",
        'Write it like "GET /leads/{lead_id}", with a field `lead_id` in the request.',
        _route,
    ),
    Rule(
        "operation_absolute",
        "error",
        "Paths below `/api/` and `/.well-known/` are the kernel's; a plugin's are below `/api/v1/x/` and its id.",
        'Write the path relative: "GET /leads".',
        _absolute,
    ),
    Rule(
        "operation_undocumented",
        "warning",
        "The docstring is the operation's description in OpenAPI; without it nobody knows what it promises.",
        "Write one sentence that says what it does, and which errors of its own it answers.",
        _undocumented,
    ),
    Rule(
        "operation_open",
        "info",
        "Everybody who is logged in to the tenant may call it, viewers included.",
        'If that is not meant, write `permission="entity.verb"` and list it in the manifest.',
        _open,
    ),
    Rule(
        "operation_public",
        "warning",
        "Callers without credentials get 401 everywhere below `/api/v1/x/`: nobody gains by it, and nobody is asked for a "
        "permission.",
        "Ask for a permission instead.",
        _public,
    ),
    Rule(
        "permission_undeclared",
        "error",
        "A permission that the manifest does not list can be granted to nobody; the operation is refused.",
        'List it: `permissions = { "entity.verb" = "What it allows" }`.',
        _undeclared,
    ),
    Rule(
        "permission_unused",
        "warning",
        "Administrators grant it and wonder why nothing changes.",
        "Ask for it with `@operation(..., permission=...)` or `call.require`, or take it out of the manifest.",
        _unused,
    ),
    Rule(
        "request_lenient",
        "warning",
        "A misspelt field would be dropped in silence, and the caller believes that it was heard.",
        "Write `class NewLead(Struct, frozen=True, forbid_unknown_fields=True)`.",
        _lenient,
    ),
)
