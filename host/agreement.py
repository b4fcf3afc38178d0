"""Where msgspec is at least as strict as our schemas: what it accepts there needs no second look.

The schema is the law (`host.wire_schema`), and for most types msgspec takes more than it: UUIDs without dashes, sets with
doubles, integers that do not stay exact. To read a request twice costs more than to read it once, so a flat one is read
by msgspec alone where the schema could not object.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import inspect

from plugin_api.limits import INTEGER_MAX

_PLAIN_PATTERN: Final = re.compile(r"[A-Za-z0-9_@:/ ,\[\]{}()+*?|^-]*")
_ANNOTATIONS: Final = frozenset({"description", "examples", "title", "writeOnly", "deprecated"})


def is_as_strict(record: inspect.StructType) -> bool:
    """Whether the schema of this Struct accepts everything that msgspec accepts. False when it holds other records."""
    is_closed = record.forbid_unknown_fields and record.tag_field is None and not record.array_like
    return is_closed and all(_agrees(field.type) for field in record.fields)


def _agrees(kind: inspect.Type) -> bool:
    match kind:
        case inspect.Metadata(type=inner, extra_json_schema=extra):
            return (extra or {}).keys() <= _ANNOTATIONS and _agrees(inner)
        case inspect.NoneType() | inspect.BoolType() | inspect.LiteralType():
            return True
        case inspect.StrType(pattern=pattern):
            return pattern is None or _reads_alike(pattern)
        case inspect.IntType():
            return stays_exact(kind)
        case inspect.UnionType(types=types):
            return all(map(_agrees, types))
        case inspect.ListType() | inspect.VarTupleType():
            return _agrees(kind.item_type)
        case _:
            return False


def stays_exact(kind: inspect.IntType) -> bool:
    """Whether the type's own bounds keep the integer where JSON is exact."""
    low = kind.ge if kind.ge is not None else kind.gt
    high = kind.le if kind.le is not None else kind.lt
    return low is not None and high is not None and -INTEGER_MAX <= low and high <= INTEGER_MAX


def _reads_alike(pattern: str) -> bool:
    r"""Whether Python and ECMA-262 cannot differ over it: no escape but a final `\Z`, no dot, no `$`, no extension."""
    bare = pattern.removesuffix(r"\Z")
    return _PLAIN_PATTERN.fullmatch(bare) is not None and "(?" not in bare
