"""Every bound of the kernel with its unit. Settings may lower some of them; nothing may exceed them."""

from __future__ import annotations

from typing import Final

INTEGER_MAX: Final = 2**53 - 1
"""Integers on the wire stay exact in every JSON reader (RFC 8259, section 6)."""

BODY_BYTES_MAX: Final = 1_048_576
HEADER_LINE_BYTES_MAX: Final = 16_384
HEADER_COUNT_MAX: Final = 128
PATH_BYTES_MAX: Final = 8_192
JSON_DEPTH_MAX: Final = 64
VIOLATIONS_MAX: Final = 100
"""A hostile body is described up to here; the rest of its violations is counted, not listed."""

DEADLINE_S: Final = 5.0
PAGE_ITEMS_DEFAULT: Final = 50
PAGE_ITEMS_MAX: Final = 200
CURSOR_BYTES_MAX: Final = 2_048
REQUEST_ID_BYTES_MAX: Final = 64

CONNECTIONS_MAX: Final = 2_048
"""Client connections of one worker; a further one is refused with 503."""
REQUESTS_IN_FLIGHT_MAX: Final = 512
"""Operations that run in one worker at once; a further one is refused with 503."""

HOOK_DEADLINE_S: Final = 10.0
ENABLE_DEADLINE_S: Final = 30.0
DRAIN_DEADLINE_S: Final = 10.0

PLUGIN_ID_LENGTH_MAX: Final = 60
TASKS_PER_PLUGIN_MAX: Final = 64
OPERATIONS_PER_PLUGIN_MAX: Final = 500
EVENTS_PER_TRANSACTION_MAX: Final = 1_000
EVENT_BYTES_MAX: Final = 65_536
"""JSON of one event's data; what is larger belongs into a blob, and the event says which."""
EVENT_SUBJECT_BYTES_MAX: Final = 200
