"""What a cache key is, and the bounds of what is kept. Pure: no I/O.

A stored key is `{prefix}:{tenant}:{key}`. A prefix has no colon and a tenant is 32 hexadecimal digits or `-`, so the
first two colons always end the same two parts, whatever the key holds: no two (prefix, tenant, key) make one stored key.
"""

from __future__ import annotations

import re
from typing import Final
from uuid import UUID

from plugin_api.errors import KernelBug

KEY_CHARACTERS_MAX: Final = 200
VALUE_BYTES_MAX: Final = 1_048_576
ARGUMENTS_BYTES_MAX: Final = 1_048_576
KEYS_PER_CALL_MAX: Final = 1_000
SCRIPT_CHARACTERS_MAX: Final = 65_536
TTL_S_MIN: Final = 0.001
TTL_S_MAX: Final = 2_592_000.0
COUNT_MAX: Final = 2**53 - 1

_PREFIX: Final = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9]*)*\Z", re.ASCII)
_PREFIX_CHARACTERS_MAX: Final = 60
_NO_TENANT: Final = "-"


def check_prefix(prefix: str) -> str:
    """Return `prefix` when it can be a plugin's part. KernelBug otherwise."""
    if len(prefix) > _PREFIX_CHARACTERS_MAX or not _PREFIX.match(prefix):
        raise KernelBug(f"{prefix!r} cannot be a part of the cache; it is the plugin's area, like `acme.crm`")
    return prefix


def stored_key(prefix: str, tenant_id: UUID | None, key: str) -> bytes:
    """Make the key under which the store keeps it; `prefix` has been checked.

    Raises:
        KernelBug: the key is empty, too long, or holds what does not print (it is not told: it may be secret).
    """
    if not 0 < len(key) <= KEY_CHARACTERS_MAX:
        raise KernelBug(f"a cache key has 1 to {KEY_CHARACTERS_MAX} characters, this one {len(key)}; hash longer ones")
    if not key.isprintable():
        raise KernelBug("a cache key is printable text; encode what is not (hexadecimal, base64url)")
    tenant = tenant_id.hex if tenant_id is not None else _NO_TENANT
    return f"{prefix}:{tenant}:{key}".encode()


def ttl_ms(ttl_s: float) -> int:
    """Seconds to whole milliseconds, at least one. KernelBug when out of bounds."""
    if not TTL_S_MIN <= ttl_s <= TTL_S_MAX:
        raise KernelBug(f"a cache entry lives {TTL_S_MIN:g} to {TTL_S_MAX:g} s, not {ttl_s!r} s")
    return max(1, round(ttl_s * 1_000))


def check_value(value: bytes) -> bytes:
    """Return `value` when it is small enough. KernelBug otherwise."""
    if len(value) > VALUE_BYTES_MAX:
        raise KernelBug(f"a cache value has at most {VALUE_BYTES_MAX} bytes, this one {len(value)}; keep it elsewhere")
    return value


def check_step(by: int) -> int:
    """Return `by` when a counter may move by it. KernelBug otherwise."""
    if not -COUNT_MAX <= by <= COUNT_MAX:
        raise KernelBug(f"a counter moves by at most {COUNT_MAX} at once, not by {by}")
    return by


def check_count(count: int) -> None:
    """KernelBug when one call names too many keys."""
    if count > KEYS_PER_CALL_MAX:
        raise KernelBug(f"one call of the cache takes at most {KEYS_PER_CALL_MAX} keys, not {count}; split it")


def check_script(source: str, arguments: list[bytes]) -> None:
    """KernelBug when a script or what it is given is too large."""
    if not 0 < len(source) <= SCRIPT_CHARACTERS_MAX:
        raise KernelBug(f"a script has 1 to {SCRIPT_CHARACTERS_MAX} characters, this one {len(source)}")
    size = sum(map(len, arguments))
    if size > ARGUMENTS_BYTES_MAX:
        raise KernelBug(f"a script's arguments have at most {ARGUMENTS_BYTES_MAX} bytes together, these {size}")
