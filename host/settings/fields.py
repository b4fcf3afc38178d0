"""What a section of settings declares: its fields, in words for operators."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Meta, Struct, inspect

from plugin_api.settings import Secret

REQUIRED: Final = NODEFAULT
"""The default of a field that has none."""
_KINDS: Final = {
    inspect.BoolType: "true or false",
    inspect.StructType: "a table",
    inspect.DictType: "a table",
    inspect.NoneType: "nothing",
}
_LISTS: Final = (inspect.ListType, inspect.VarTupleType, inspect.TupleType, inspect.SetType, inspect.FrozenSetType)


@dataclass(frozen=True)
class SettingField:
    """One setting as its Struct declares it."""

    section: str
    name: str
    """As it is written in `pk.toml`."""
    attribute: str
    type: Any
    default: Any
    """REQUIRED when there is none."""
    description: str
    variables: tuple[str, ...]
    """Environment variables that set it; the first is `PK_SECTION__NAME`, and an earlier one wins."""
    is_secret: bool

    @property
    def full_name(self) -> str:
        """`iam.signup`."""
        return f"{self.section}.{self.name}"


def fields_of(section: str, declared: type[Struct]) -> dict[str, SettingField]:
    """Every field of a section by its name in `pk.toml`.

    Raises:
        TypeError: a field has a type that msgspec cannot read; the text names it.
    """
    return {field.encode_name: _field(section, field) for field in msgspec.structs.fields(declared)}


def _field(section: str, field: msgspec.structs.FieldInfo) -> SettingField:
    try:
        inspect.type_info(field.type)
    except Exception as error:
        raise TypeError(f"{section}.{field.encode_name}: {error}") from error
    default = field.default
    if field.default_factory is not NODEFAULT:
        default = field.default_factory()
    descriptions, aliases = _notes(field.type)
    return SettingField(
        section,
        field.encode_name,
        field.name,
        field.type,
        default,
        " ".join(descriptions),
        (variable_of(section, field.encode_name), *aliases),
        holds_secret(field.type),
    )


def _notes(hint: Any) -> tuple[list[str], list[str]]:
    """Descriptions and further environment variables that `setting(...)` gave to a field."""
    metas = [meta for meta in get_args(hint)[1:] if isinstance(meta, Meta)] if get_origin(hint) is Annotated else []
    descriptions = [meta.description for meta in metas if meta.description]
    aliases = [str(name) for meta in metas for name in (meta.extra or {}).get("environment", ())]
    return descriptions, aliases


def variable_prefix(section: str) -> str:
    """`PK_ACME_CRM__` for `acme.crm`."""
    return f"PK_{section.replace('.', '_').upper()}__"


def variable_of(section: str, name: str) -> str:
    """`PK_ACME_CRM__RATE` for `rate` of `acme.crm`."""
    return f"{variable_prefix(section)}{name.replace('-', '_').upper()}"


def holds_secret(hint: Any) -> bool:
    """Whether values of a type have a `Secret` anywhere inside."""
    return _holds_secret(hint, set())


def _holds_secret(hint: Any, seen: set[Any]) -> bool:
    if hint is Secret or get_origin(hint) is Secret:
        return True
    if isinstance(hint, type) and issubclass(hint, Struct) and hint not in seen:
        seen.add(hint)
        return any(_holds_secret(field.type, seen) for field in msgspec.structs.fields(hint))
    return any(_holds_secret(part, seen) for part in get_args(hint))


# ------------------------------------------------------------------------------------------------- words


def kind_of(hint: Any) -> inspect.Type:
    """The kind of a value, without constraints of its own and without the possibility to leave it out."""
    return _bare(inspect.type_info(hint))


def _bare(kind: inspect.Type) -> inspect.Type:
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    if isinstance(kind, inspect.UnionType):
        others = [_bare(one) for one in kind.types if not isinstance(one, inspect.NoneType)]
        return others[0] if len(others) == 1 else kind
    return kind


def is_list(kind: inspect.Type) -> bool:
    """Whether values are lists of some sort."""
    return isinstance(kind, _LISTS)


def in_words(hint: Any) -> str:
    """What a setting takes: `a whole number from 1 to 365`."""
    for inner in _secret_parts(hint):
        return in_words(inner)
    return _words(inspect.type_info(hint))


def _secret_parts(hint: Any) -> Iterable[Any]:
    """What a field that is a `Secret`, or one or nothing, hides."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    for part in (hint, *get_args(hint)):
        if get_origin(part) is Secret:
            yield get_args(part)[0]


def _words(kind: inspect.Type) -> str:
    kind = _bare(kind)
    match kind:
        case inspect.IntType() | inspect.FloatType():
            return f"a {'whole ' if isinstance(kind, inspect.IntType) else ''}number{_range(kind)}"
        case inspect.StrType():
            return f"a text{_length(kind, 'character')}"
        case inspect.LiteralType(values=values):
            return _either([_shown(value) for value in values])
        case inspect.EnumType(cls=cls):
            return _either([_shown(member.value) for member in cls])
        case inspect.UnionType(types=types):
            return _either([_words(one) for one in types if not isinstance(one, inspect.NoneType)])
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item) | inspect.SetType(item_type=item):
            return f"a list, each entry {_words(item)}"
        case inspect.CustomType(cls=cls):
            return "a path" if cls is Path else "a text"
        case _:
            known: dict[Any, str] = dict(_KINDS)
            return known.get(type(kind), f"a {type(kind).__name__.removesuffix('Type').lower()}")


def _shown(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _range(kind: inspect.IntType | inspect.FloatType) -> str:
    low = f"{kind.ge:g}" if kind.ge is not None else None
    high = f"{kind.le:g}" if kind.le is not None else None
    if isinstance(kind, inspect.IntType):
        low, high = (str(bound) if bound is not None else None for bound in (kind.ge, kind.le))
    if low is None and kind.gt is not None:
        return f" above {kind.gt:g}" + _up_to(kind, high)
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if low is not None:
        return f" from {low} up" if kind.lt is None else f" from {low} to below {kind.lt:g}"
    return _up_to(kind, high)


def _up_to(kind: inspect.IntType | inspect.FloatType, high: str | None) -> str:
    if high is not None:
        return f" up to {high}"
    return f" below {kind.lt:g}" if kind.lt is not None else ""


def _length(kind: inspect.StrType, unit: str) -> str:
    pattern = f" like {kind.pattern}" if kind.pattern is not None else ""
    if kind.min_length is not None and kind.max_length is not None:
        return f" of {kind.min_length} to {kind.max_length} {unit}s{pattern}"
    if kind.min_length is not None:
        return f" of at least {kind.min_length} {unit}{'s' if kind.min_length != 1 else ''}{pattern}"
    if kind.max_length is not None:
        return f" of at most {kind.max_length} {unit}s{pattern}"
    return pattern
