"""What a manifest must fulfil: its shape by type, and the rules that no type can say. Everything found is listed."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any, Final

import msgspec
from msgspec import inspect

from plugin_api.toml_lines import Path
from plugin_api.version_range import LEGAL, parse_range, split_requirement

SEEN_LENGTH_MAX: Final = 80
KERNEL: Final = "kernel."
_TOML_PLACE: Final = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)\Z")
_KINDS: Final[dict[type[inspect.Type], str]] = {
    inspect.StructType: "a table",
    inspect.DictType: "a table",
    inspect.ListType: "a list",
    inspect.BoolType: "true or false",
    inspect.IntType: "an integer",
}


@dataclass(frozen=True)
class Finding:
    """One thing wrong with a manifest."""

    path: Path
    code: str
    text: str
    seen: object = None
    line: int = 1

    @property
    def pointer(self) -> str:
        """Its path as a JSON Pointer (RFC 6901)."""
        return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in self.path)


def read_toml(text: str) -> tuple[dict[str, Any], Finding | None]:
    """The content, or what makes it unreadable."""
    try:
        return tomllib.loads(text), None
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        place = _TOML_PLACE.search(message)
        reason = message[: place.start()] if place else message
        line = int(place[1]) if place and place[1] else max(1, len(text.splitlines()))
        said = f"this is no TOML: {reason}; see https://toml.io for the syntax"
        return {}, Finding((), "malformed_toml", said, line=line)


# ------------------------------------------------------------------------------------------------ shape


def check_shape(content: Mapping[str, Any], type_: Any) -> list[Finding]:
    """Everything that is unknown, missing or of the wrong form."""
    return list(_check(content, _shape_of(type_), (), ""))


@cache
def _shape_of(type_: Any) -> inspect.Type:
    """The shape of one of our own types: there are few, and a worker reads manifests with each change of a plugin."""
    return inspect.type_info(type_)


def _check(value: Any, kind: inspect.Type, path: Path, legal: str) -> Iterator[Finding]:
    while isinstance(kind, inspect.Metadata):
        legal = str((kind.extra_json_schema or {}).get("description", legal))
        kind = kind.type
    match kind:
        case inspect.UnionType(types=types):
            yield from _check_union(value, types, path, legal)
        case inspect.StructType() if isinstance(value, dict):
            yield from _check_struct(value, kind, path)
        case inspect.ListType() if isinstance(value, list):
            yield from _check_list(value, kind, path)
        case inspect.DictType() if isinstance(value, dict):
            yield from _check_dict(value, kind, path)
        case _:
            yield from _check_leaf(value, kind, path, legal)


def _check_union(value: Any, types: Iterable[inspect.Type], path: Path, legal: str) -> Iterator[Finding]:
    fitting = [kind for kind in types if _fits(value, kind)]
    if fitting:
        yield from _check(value, fitting[0], path, legal)
        return
    expected = " or ".join(_expected(kind, legal) for kind in types if not isinstance(kind, inspect.NoneType))
    yield _wrong(path, value, expected)


def _fits(value: Any, kind: inspect.Type) -> bool:
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    match kind:
        case inspect.StructType() | inspect.DictType():
            return isinstance(value, dict)
        case inspect.StrType():
            return isinstance(value, str)
        case _:
            return False


def _check_struct(value: dict[str, Any], kind: inspect.StructType, path: Path) -> Iterator[Finding]:
    known = {field.encode_name: field for field in kind.fields}
    for name in value.keys() - known.keys():
        yield _unknown((*path, name), known)
    for name, field in known.items():
        if name in value:
            yield from _check(value[name], field.type, (*path, name), "")
        elif field.required:
            text = f"`{_shown_path((*path, name))}` is missing; write {_expected(field.type, '')}"
            yield Finding((*path, name), "missing", text)


def _check_list(value: list[Any], kind: inspect.ListType, path: Path) -> Iterator[Finding]:
    if kind.min_length is not None and len(value) < kind.min_length:
        yield _wrong(path, value, f"at least {kind.min_length} entry")
    for index, entry in enumerate(value):
        yield from _check(entry, kind.item_type, (*path, index), "")
        if entry in value[:index]:
            text = f"`{_shown_path(path)}` names {_shown(entry)} twice; write it once"
            yield Finding((*path, index), "duplicate", text, entry)


def _check_dict(value: dict[str, Any], kind: inspect.DictType, path: Path) -> Iterator[Finding]:
    if kind.min_length is not None and len(value) < kind.min_length:
        yield _wrong(path, value, f"at least {kind.min_length} entry")
    for name, entry in value.items():
        yield from _check_key(name, kind.key_type, (*path, name))
        yield from _check(entry, kind.value_type, (*path, name), "")


def _check_key(name: str, kind: inspect.Type, path: Path) -> Iterator[Finding]:
    if any(_check_leaf(name, kind, path, "")):
        text = f"the name {_shown(name)} in `{_shown_path(path[:-1])}` is not allowed; write {_expected(kind, '')}"
        yield Finding(path, "form", text)


def _check_leaf(value: Any, kind: inspect.Type, path: Path, legal: str) -> Iterator[Finding]:
    expected = _expected(kind, legal)
    bare = kind
    while isinstance(bare, inspect.Metadata):
        bare = bare.type
    match bare:
        case inspect.StrType():
            holds = isinstance(value, str) and _text_holds(value, bare)
        case inspect.BoolType():
            holds = isinstance(value, bool)
        case inspect.IntType(ge=least, le=most):
            is_integer = isinstance(value, int) and not isinstance(value, bool)
            holds = is_integer and (least is None or value >= least) and (most is None or value <= most)
        case inspect.LiteralType(values=values):
            holds = isinstance(value, str) and value in values
        case inspect.NoneType():
            holds = value is None
        case _:
            holds = False
    if not holds:
        yield _wrong(path, value, expected)


def _text_holds(value: str, kind: inspect.StrType) -> bool:
    if kind.max_length is not None and len(value) > kind.max_length:
        return False
    if kind.min_length is not None and len(value) < kind.min_length:
        return False
    return "\0" not in value and (kind.pattern is None or re.search(kind.pattern, value) is not None)


def _expected(kind: inspect.Type, legal: str) -> str:
    while isinstance(kind, inspect.Metadata):
        legal = str((kind.extra_json_schema or {}).get("description", legal))
        kind = kind.type
    if legal:
        return legal
    match kind:
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(f'"{value}"' for value in values)
        case inspect.IntType(ge=least, le=most) if least is not None and most is not None:
            return f"an integer from {least} to {most}"
        case inspect.UnionType(types=types):
            return " or ".join(_expected(entry, "") for entry in types if not isinstance(entry, inspect.NoneType))
        case _:
            return _KINDS.get(type(kind), "a text")


def _wrong(path: Path, value: Any, expected: str) -> Finding:
    return Finding(path, "form", f"`{_shown_path(path)}` is {_shown(value)}; write {expected}", value)


def _unknown(path: Path, known: Iterable[str]) -> Finding:
    name, names = str(path[-1]), sorted(known)
    near = get_close_matches(name, names, n=1)
    remedy = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(names)}"
    return Finding(path, "unknown_key", f"the key `{_shown_path(path)}` is unknown; {remedy}")


def _shown(value: Any) -> str:
    match value:
        case bool():
            text = "true" if value else "false"
        case str():
            text = msgspec.json.encode(value).decode()
        case list():
            text = f"a list of {len(value)}"
        case dict():
            text = "a table"
        case _:
            text = str(value)
    return text if len(text) <= SEEN_LENGTH_MAX else f"{text[: SEEN_LENGTH_MAX - 1]}…"


def _shown_path(path: Path) -> str:
    shown = ""
    for part in path:
        if isinstance(part, int):
            shown += f"[{part}]"
        elif re.fullmatch(r"[A-Za-z0-9_-]+", part):
            shown += f".{part}" if shown else part
        else:
            quoted = _shown(part)
            shown += f".{quoted}" if shown else quoted
    return shown


# ------------------------------------------------------------------------------------------------ rules


def check_rules(content: Mapping[str, Any], broken: Collection[str | int]) -> list[Finding]:
    """Rules across keys; `broken` are the top-level keys whose shape is wrong, which no rule looks at."""
    sound = {key: value for key, value in content.items() if key not in broken}
    found = [*_check_api(sound), *_check_ranges(sound)]
    if "id" in sound:
        found += _check_names(sound)
    return found + list(_check_module(sound, broken))


def _check_api(content: Mapping[str, Any]) -> Iterator[Finding]:
    from plugin_api import API_VERSION  # noqa: PLC0415 - the package is not whole yet when this module is imported

    text = content.get("api")
    if text is None:
        return
    remedy = 'write a range with an upper bound on the major, like ">=1.0,<2"'
    try:
        wanted = parse_range(text)
    except ValueError as error:
        yield Finding(("api",), "form", f"`api` is {_shown(text)}: {error}", text)
        return
    if wanted.is_pin:
        yield Finding(
            ("api",),
            "pinned",
            f"`api` is {_shown(text)}, which shuts out every later minor; {remedy}",
            text,
        )
    elif not wanted.has_upper_bound:
        said = f"`api` is {_shown(text)}, which promises to work with majors that do not exist yet; {remedy}"
        yield Finding(("api",), "unbounded", said, text)
    elif not wanted.allows(API_VERSION):
        said = f"`api` is {_shown(text)}, and this kernel's plugin API is {API_VERSION}; "
        yield Finding(
            ("api",),
            "api_mismatch",
            f"{said}take a version of the plugin that is made for it",
            text,
        )


def _check_ranges(content: Mapping[str, Any]) -> Iterator[Finding]:
    for key in ("requires", "after"):
        for index, entry in enumerate(content.get(key, ())):
            try:
                _, wanted = split_requirement(entry)
            except ValueError as error:
                yield Finding((key, index), "form", f"`{key}[{index}]` is {_shown(entry)}: {error}", entry)
                continue
            if wanted.is_pin:
                said = f"`{key}[{index}]` is {_shown(entry)}, one exact version; write {LEGAL}"
                yield Finding((key, index), "pinned", said, entry)
            name = entry.partition(" ")[0]
            if name.startswith(KERNEL):
                said = f"`{key}[{index}]` names the plugin {name}; name the capability: {name.removeprefix(KERNEL)!r}"
                yield Finding((key, index), "plugin_id", said, entry)


def _check_names(content: Mapping[str, Any]) -> Iterator[Finding]:
    plugin_id: str = content["id"]
    if plugin_id.startswith(KERNEL):
        return
    if content.get("servers"):
        yield Finding(("servers",), "kernel_only", "`servers` is for kernel plugins only; remove it")
    for index, entry in enumerate(content.get("provides", ())):
        name = entry.partition(" ")[0]
        if name != plugin_id and not name.startswith(f"{plugin_id}."):
            reason = "bare names are the kernel's" if "." not in name else "that name belongs to another id"
            said = f"`provides[{index}]` is {_shown(entry)}, and {reason}; write {plugin_id!r} or a name below it"
            yield Finding(("provides", index), "foreign_name", said, entry)


def _check_module(content: Mapping[str, Any], broken: Collection[str | int]) -> Iterator[Finding]:
    if "module" in broken:
        return
    module = content.get("module")
    if module is None:
        for key, word in (("operations", "@operation"), ("jobs", "@job")):
            if content.get(key):
                said = f"`[[{key}]]` belongs to modules, and there is no `[module]`; mark methods with `{word}` instead"
                yield Finding((key,), "module_only", said)
        return
    plugin_id = content.get("id", "")
    if plugin_id and not plugin_id.startswith(f"{module['publisher']}."):
        said = (
            f"`id` is {_shown(plugin_id)}, outside its publisher's namespace; write `{module['publisher']}.` before it"
        )
        yield Finding(("id",), "foreign_name", said, plugin_id)
    if module.get("wasm") is None and content.get("operations"):
        yield Finding(
            ("operations",),
            "missing",
            "`[[operations]]` needs code: name the file in `[module] wasm`",
        )
    yield from _check_operations(content)


def _check_operations(content: Mapping[str, Any]) -> Iterator[Finding]:
    names: list[str] = [operation["id"] for operation in content.get("operations", ())]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield Finding(
                ("operations", index, "id"),
                "duplicate",
                f"the operation {name!r} is declared twice; rename one",
                name,
            )
    for index, operation in enumerate(content.get("operations", ())):
        if operation.get("rest") is not None and operation.get("event") is not None:
            said = (
                f"the operation {operation['id']!r} has `rest` and `event`; one operation has one way in: declare two"
            )
            yield Finding(("operations", index), "contradiction", said)
    for index, job in enumerate(content.get("jobs", ())):
        if job["operation"] not in names:
            near = get_close_matches(job["operation"], names, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else "declare it under `[[operations]]`"
            said = f"`jobs[{index}].operation` is {job['operation']!r}, which is no operation here; {remedy}"
            yield Finding(("jobs", index, "operation"), "unknown_name", said, job["operation"])
