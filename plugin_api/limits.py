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
"""Client connections of one worker at each door; REST refuses a further one with 503, gRPC hangs up on it."""
REQUESTS_IN_FLIGHT_MAX: Final = 512
"""Operations that run in one worker at once; a further one is refused with 503."""
STREAMS_PER_CONNECTION_MAX: Final = 128
"""gRPC calls of one connection at once; a further one waits at the client."""
METADATA_BYTES_MAX: Final = 32_768
"""Metadata of one gRPC call; a larger one is refused."""

RECORD_REFUSED_S: Final = 2.0
"""For all recorders together to write down one refusal; the caller waits for no more."""
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
EVENT_SCHEMA_BYTES_MAX: Final = 16_384
"""JSON of the schema of one type's data."""
EVENT_TYPES_PER_PLUGIN_MAX: Final = 200
"""Types of events that a plugin declares, those of former versions counted."""

JOBS_PER_QUEUE_MAX: Final = 10_000
"""Jobs of one queue that wait; a further one is refused. What comes back for another attempt is not."""
JOB_BYTES_MAX: Final = 65_536
"""JSON of one job's data; what is larger belongs into a blob, and the job says which."""
JOB_KEY_BYTES_MAX: Final = 200
JOB_NOTE_CHARACTERS_MAX: Final = 200
JOB_RETRIES: Final = 5
JOB_PREFETCH_MAX: Final = 100
"""Jobs that one worker of a queue does at once in one process."""

BLOB_KEY_BYTES_MAX: Final = 800
BLOB_SEGMENT_BYTES_MAX: Final = 200
"""One part of a blob's key between slashes, in UTF-8."""
BLOB_SEGMENTS_MAX: Final = 64
BLOB_BYTES_MAX: Final = 5 * 2**30
BLOB_CHUNK_BYTES_MAX: Final = 262_144
BLOB_CONTENT_TYPE_CHARACTERS_MAX: Final = 200
BLOB_PAGE_ITEMS_DEFAULT: Final = 50
BLOB_PAGE_ITEMS_MAX: Final = 200
BLOB_PART_BYTES_MIN: Final = 5 * 2**20
"""Of every part of an upload but the last."""
BLOB_PART_BYTES_MAX: Final = 128 * 2**20
BLOB_PARTS_MAX: Final = 10_000
BLOB_URL_S_MAX: Final = 604_800
