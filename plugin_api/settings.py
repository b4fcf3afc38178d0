"""Settings: a frozen msgspec Struct `Settings` in a plugin's `settings.py`, read by the host, checked before start.

Sources, later ones win: defaults, `pk.toml` in the current folder, `DIR/pk.toml`, environment `PK_SECTION__NAME`, the
command line. The docstring line below a field is its documentation; `setting(...)` adds what a type cannot say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from msgspec import Meta

T = TypeVar("T")
_MASK = "**********"


class Secret(Generic[T]):
    """A value that never prints: not by `str`, `repr`, f-string, JSON or pickle. `reveal()` gives it."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def reveal(self) -> T:
        """The value itself; keep it out of logs and errors."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({_MASK!r})"

    def __str__(self) -> str:
        return _MASK

    def __format__(self, specification: str) -> str:
        return _MASK

    def __reduce__(self) -> Any:
        raise TypeError("a Secret is not pickled; hand its revealed value to the one who needs it")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and bool(self._value == other._value)

    def __hash__(self) -> int:
        return hash((Secret, self._value))


def setting(description: str, *, environment: Sequence[str] = ()) -> Meta:
    """Describe a setting beside its type.

    `rate: Annotated[int, Meta(ge=1), setting("Requests per second.")] = 2000`

    `environment` lists further environment variables that set it (`PK_OPERATOR_PASSWORD`, `GRPC_CALL_TIMEOUT_MS`).
    """
    return Meta(description=description, extra={"environment": list(environment)})
