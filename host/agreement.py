"""Where msgspec is at least as strict as our schemas: what it accepts there needs no second look.

The schema is the law (`host.wire_schema`), and for most types msgspec takes more than it: UUIDs without dashes, sets with
doubles, integers that do not stay exact. Asking the schema costs as much as decoding, so it is left out where it could
not object.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import inspect

from plugin_api.limits import INTEGER_MAX

_PLAIN_PATTERN: Final = re.compile(r"[A-Za-z0-9_@:/ ,\[\]{}()+*?|^-]*")
_ANNOTATIONS: Final = frozenset({"description", "examples", "title", "writeOnly", "deprecated"})


def is_as_strict(kind: inspect.Type) -> bool:
    """Whether the schema of this type accepts everything that msgspec accepts."""
    return _Walk().is_as_strict(kind)


class _Walk:
    def __init__(self) -> None:
        self._seen: set[type] = set()

    def is_as_strict(self, kind: inspect.Type) -> bool:
        match kind:
            case inspect.Metadata(type=inner, extra_json_schema=extra):
                return (extra or {}).keys() <= _ANNOTATIONS and self.is_as_strict(inner)
            case inspect.NoneType() | inspect.BoolType() | inspect.LiteralType():
                return True
            case inspect.StrType(pattern=pattern):
                return pattern is None or _reads_alike(pattern)
            case inspect.IntType():
                return _stays_exact(kind)
            case inspect.UnionType(types=types):
                return all(map(self.is_as_strict, types))
            case inspect.ListType() | inspect.VarTupleType():
                return self.is_as_strict(kind.item_type)
            case inspect.StructType():
                return self._record(kind)
            case _:
                return False

    def _record(self, kind: inspect.StructType) -> bool:
        if kind.cls in self._seen:  # a type may contain itself
            return True
        self._seen.add(kind.cls)
        is_closed = kind.forbid_unknown_fields and kind.tag_field is None and not kind.array_like
        return is_closed and all(self.is_as_strict(field.type) for field in kind.fields)


def _stays_exact(kind: inspect.IntType) -> bool:
    low = kind.ge if kind.ge is not None else kind.gt
    high = kind.le if kind.le is not None else kind.lt
    return low is not None and high is not None and -INTEGER_MAX <= low and high <= INTEGER_MAX


def _reads_alike(pattern: str) -> bool:
    r"""Whether Python and ECMA-262 cannot differ over it: no escape but a final `\Z`, no dot, no `$`, no extension."""
    bare = pattern.removesuffix(r"\Z")
    return _PLAIN_PATTERN.fullmatch(bare) is not None and "(?" not in bare
