"""The way from one plugin to another: a typed key, and the table that answers it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class ServiceKey(Generic[T]):
    """Name a capability and the Protocol that it promises: `MONEY: ServiceKey[Money] = ServiceKey("money", Money)`."""

    name: str
    """The capability's name, as in `provides` and `requires` of a manifest."""
    contract: type | None = field(default=None, compare=False, repr=False)
    """The Protocol itself; needed where another kernel serves the capability: its annotations say what travels."""


class Services(Protocol):
    """Finds capabilities; the `services` handle of a `Registrar`."""

    def get(self, key: ServiceKey[T]) -> T:
        """Return a stable proxy to whatever generation provides `key` when a method is called.

        Safe to keep for ever: after an upgrade the same proxy reaches the new generation. A call through it is checked
        like one from outside (permission of the actor, validation), keeps deadline and tenant, counts as in flight, and
        runs in a transaction of its own.

        Raises:
            KernelBug: the caller's manifest does not list the capability in `requires` or `after`.
            Unavailable: on the call, when nothing provides it now.
        """
        ...

    def find(self, key: ServiceKey[T]) -> T | None:
        """Return the same proxy, or None while nothing provides `key`; for what `after` names."""
        ...
