"""What the tenant wall is made of, without I/O: names of roles, the signed context, what a statement may be; and what a
change of the desired state may hold."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final, get_args
from uuid import UUID

import msgspec
from msgspec import Struct

from plugin_api.errors import InvalidRequest, KernelBug, Violation
from plugin_api.ports.desired_state import PLUGINS_MAX, ChangeId, DesiredPlugin, PreviousVersion, ThirdPartyId

APP_ROLE: Final = "pk_app"
"""The one role that the pool logs in as; it holds nothing itself and may become any plugin's role."""
NO_TENANT: Final = UUID(int=0)
CONTEXT_SPARE_S: Final = 5
"""How long a context may take from its signing to the start of its transaction in the database."""
IDENTIFIER_BYTES_MAX: Final = 63

_SCHEMA = re.compile(r"[a-z][a-z0-9_]{0,62}\Z")
_RESERVED: Final = frozenset({"pk", "public", "kernel", APP_ROLE, "information_schema", "none"})
_BLOCK_BYTES: Final = 64
_INNER, _OUTER = 0x36, 0x5C


def check_schema(schema: str) -> str:
    """Return `schema` when it can be a plugin's schema and role.

    Raises:
        KernelBug: it is no plain lower-case identifier, or it is the kernel's or PostgreSQL's own.
    """
    if not _SCHEMA.match(schema) or schema in _RESERVED or schema.startswith("pg_"):
        raise KernelBug(f"{schema!r} cannot be a plugin's schema; names come from plugin_api.manifest.names_of")
    return schema


def owner_of(schema: str) -> str:
    """Name the role that owns a plugin's schema. It has a colon, which no schema's name can have, so that no plugin can
    be named as another's owner."""
    name = f"{schema}:owner"
    if len(name) <= IDENTIFIER_BYTES_MAX:
        return name
    return f"{schema[:40]}:{hashlib.sha256(schema.encode()).hexdigest()[:16]}:owner"


class ContextKey(Struct, frozen=True):
    """One key that signs tenant contexts, as the two blocks of HMAC-SHA-256."""

    id: str
    inner_pad: bytes
    outer_pad: bytes

    def __repr__(self) -> str:
        return f"ContextKey(id={self.id!r})"


def make_context_key(number: int) -> ContextKey:
    """Make a new random key."""
    block = os.urandom(32) + bytes(_BLOCK_BYTES - 32)
    inner = bytes(byte ^ _INNER for byte in block)
    outer = bytes(byte ^ _OUTER for byte in block)
    return ContextKey(f"{number:06d}", inner, outer)


class ContextSigner:
    """Signs the context of transactions: which tenant, as which role, in which one transaction, until when."""

    def __init__(self, key: ContextKey) -> None:
        self._id = key.id
        self._inner = hashlib.sha256(key.inner_pad)
        self._outer = hashlib.sha256(key.outer_pad)

    def sign(self, role: str, tenant_id: UUID | None, turn: int, expiry_s: int) -> str:
        """Return the value of `pk.ctx` (its layout is in `bootstrap/0001_kernel.sql`): ASCII, without quotes."""
        payload = f"{self._id}{turn:019d}{expiry_s:010d}{(tenant_id or NO_TENANT).hex}{role}"
        inner = self._inner.copy()
        inner.update(payload.encode())
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.hexdigest() + payload


_WORD = re.compile(r"[A-Za-z]+")
_ALLOWED: Final = frozenset({"select", "insert", "update", "delete", "with", "merge", "values", "table", "lock"})


def check_statement(sql: str) -> None:
    """Refuse everything but reading and changing rows.

    Utility statements leave things behind in the session (SET, PREPARE, LISTEN, DECLARE .. WITH HOLD) or end the
    transaction; the driver sends one statement at a time, so its first word tells.

    Raises:
        KernelBug: the statement is of another kind; the detail names the kinds that are allowed.
    """
    found = _WORD.match(sql, _start_of(sql))
    word = found.group().lower() if found else ""
    if word not in _ALLOWED:
        kinds = " ".join(sorted(_ALLOWED))
        raise KernelBug(
            f"a statement begins with {word or 'no word'!r}; allowed are {kinds}; tables are made in migrations"
        )


def _start_of(sql: str) -> int:
    """Index of the first character that is no space, comment (nested as PostgreSQL nests them) or parenthesis."""
    at = 0
    while at < len(sql):
        if sql[at].isspace() or sql[at] == "(":
            at += 1
        elif sql.startswith("--", at):
            at = _end_of_line(sql, at)
        elif sql.startswith("/*", at):
            at = _end_of_comment(sql, at)
        else:
            break
    return at


def _end_of_line(sql: str, at: int) -> int:
    ends = [end for end in (sql.find("\n", at), sql.find("\r", at)) if end >= 0]
    return min(ends, default=len(sql))


def _end_of_comment(sql: str, at: int) -> int:
    depth = 0
    for mark in re.compile(r"/\*|\*/").finditer(sql, at):
        depth += 1 if mark.group() == "/*" else -1
        if depth == 0:
            return mark.end()
    return len(sql)


def check_change(change_id: str, put: Sequence[DesiredPlugin], drop: Sequence[str]) -> None:
    """Refuse a change of the desired state that the database would refuse, and tell all that is wrong with it.

    Raises:
        InvalidRequest: a text breaks its bound, an id stands twice, or the change is too large.
    """
    if max(len(put), len(drop)) > PLUGINS_MAX:
        seen = f"{len(put)} to put and {len(drop)} to drop"
        raise InvalidRequest(f"expected at most {PLUGINS_MAX} plugins of each, seen {seen}; make several changes of it")
    found = [
        *_misfit("/change_id", change_id, ChangeId),
        *(violation for at, plugin in enumerate(put) for violation in _misfits(f"/put/{at}", plugin)),
        *(
            violation
            for at, plugin_id in enumerate(drop)
            for violation in _misfit(f"/drop/{at}", plugin_id, ThirdPartyId)
        ),
    ]
    counts = Counter([*(plugin.id for plugin in put), *drop])
    found += [
        Violation("/put", "duplicate_item", f"{name} stands {count} times in one change; name it once")
        for name, count in counts.items()
        if count > 1
    ]
    if found:
        text = "; ".join(violation.detail for violation in found[:3])
        raise InvalidRequest(f"the change of the plugins breaks its bounds: {text}", violations=found)


def _misfits(pointer: str, value: DesiredPlugin | PreviousVersion) -> Iterator[Violation]:
    """What of a plugin breaks its bounds; msgspec checks them when it decodes, not when one is made."""
    for field in msgspec.structs.fields(type(value)):
        part = getattr(value, field.name)
        if isinstance(part, PreviousVersion):
            yield from _misfits(f"{pointer}/{field.name}", part)
        else:
            yield from _misfit(f"{pointer}/{field.name}", part, field.type)


def _misfit(pointer: str, value: object, bound: Any) -> Iterator[Violation]:
    try:
        msgspec.convert(value, bound)
    except msgspec.ValidationError:
        # The value is not told: a requirement may hold an address with a password in it.
        yield Violation(pointer, "invalid", f"{pointer}: expected {_expected(bound)}")


def _expected(bound: Any) -> str:
    for told in getattr(bound, "__metadata__", ()):
        return str(told.description)
    choices = " ".join(repr(choice) for choice in get_args(bound))
    return f"one of {choices}" if choices else str(bound.__name__)
