"""What may be a blob's key, and where a list goes on."""

from __future__ import annotations

import re
import unicodedata
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from typing import Final
from uuid import UUID

from msgspec import Struct

from plugin_api.errors import InvalidRequest, KernelBug, Unreadable
from plugin_api.limits import (
    BLOB_CONTENT_TYPE_CHARACTERS_MAX,
    BLOB_KEY_BYTES_MAX,
    BLOB_PAGE_ITEMS_MAX,
    BLOB_SEGMENT_BYTES_MAX,
    BLOB_SEGMENTS_MAX,
    PLUGIN_ID_LENGTH_MAX,
)

_AREA: Final = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9]*)*\Z", re.ASCII)
_CONTENT_TYPE: Final = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+( *; *[\x20-\x7e]*)?\Z", re.ASCII)
_UPLOAD_ID: Final = re.compile(r"[0-9a-f]{32}\Z", re.ASCII)
_BOUND_BYTES: Final = 8


class Place(Struct, frozen=True):
    """The part of one plugin in one tenant. Its area has been checked."""

    area: str
    tenant_id: UUID

    @property
    def tenant(self) -> str:
        """The tenant as it stands in paths: 32 hexadecimal digits."""
        return self.tenant_id.hex


def check_area(area: str) -> str:
    """Return `area` when it can be a plugin's. KernelBug otherwise."""
    if len(area) > PLUGIN_ID_LENGTH_MAX or not _AREA.match(area):
        raise KernelBug(f"{area!r} cannot be a part of the blobs; it is the plugin's area, like `acme.crm`")
    return area


def check_key(key: str) -> str:
    """Return `key` when a blob can be called that.

    Raises:
        InvalidRequest: code `blob_key_invalid`.
    """
    _check_text(key)
    for segment in key.split("/"):
        _check_segment(segment)
    return key


def check_prefix(prefix: str) -> str:
    """Return `prefix` when a key can begin with it; its last segment may be cut anywhere, or be empty.

    Raises:
        InvalidRequest: code `blob_key_invalid`.
    """
    if not prefix:
        return prefix
    _check_text(prefix)
    *whole, last = prefix.split("/")
    for segment in whole:
        _check_segment(segment)
    if len(last.encode()) > BLOB_SEGMENT_BYTES_MAX:
        raise _too_long(last)
    return prefix


def _check_text(key: str) -> None:
    try:
        length = len(key.encode())
    except UnicodeEncodeError:
        raise _invalid("half of a surrogate pair", "send valid UTF-8") from None
    if not 0 < length <= BLOB_KEY_BYTES_MAX:
        raise _invalid(f"{length} bytes", f"a key has 1 to {BLOB_KEY_BYTES_MAX} bytes of UTF-8")
    for character in key:
        if unicodedata.category(character) == "Cc":
            raise _invalid(f"the control character U+{ord(character):04X}", "leave it out")
    if key.count("/") >= BLOB_SEGMENTS_MAX:
        raise _invalid(f"{key.count('/') + 1} segments", f"a key has at most {BLOB_SEGMENTS_MAX}; write fewer slashes")
    if not unicodedata.is_normalized("NFC", key):
        raise _invalid("text that is not in Unicode normal form C", "normalize it (NFC)")


def _check_segment(segment: str) -> None:
    if not segment:
        raise _invalid("an empty segment", "begin and end without a slash, and write no two together")
    if segment in (".", ".."):
        raise _invalid(f"the segment {segment!r}", "a key is no path; write it whole")
    if len(segment.encode()) > BLOB_SEGMENT_BYTES_MAX:
        raise _too_long(segment)


def _too_long(segment: str) -> InvalidRequest:
    return _invalid(
        f"a segment of {len(segment.encode())} bytes",
        f"one has at most {BLOB_SEGMENT_BYTES_MAX}; put a slash in between",
    )


def _invalid(seen: str, remedy: str) -> InvalidRequest:
    return InvalidRequest(f"the blob's key holds {seen}; {remedy}", code="blob_key_invalid")


# ------------------------------------------------------------------------------------------- stored names


def stored_name(key: str) -> str:
    """What a store calls a key: a folder is `{segment}.d`, the blob itself `{segment}.b`.

    So no blob has the name of a folder, which filesystems cannot have and some S3 servers do not list, and no segment means
    anything to them. Stores list in the order of the bytes of these names.
    """
    return f"{stored_prefix(key)}.b"


def stored_prefix(prefix: str) -> str:
    """What the stored names of the keys begin with that begin with `prefix`."""
    *folders, last = prefix.split("/")
    return "".join(f"{folder}.d/" for folder in folders) + last


def key_of(name: str) -> str:
    """The key of a stored name."""
    *folders, last = name.split("/")
    return "/".join(part[:-2] for part in (*folders, last))


def check_content_type(content_type: str) -> str:
    """Return a media type (RFC 9110, section 8.3). InvalidRequest, code `content_type_invalid`, otherwise."""
    if len(content_type) > BLOB_CONTENT_TYPE_CHARACTERS_MAX or not _CONTENT_TYPE.match(content_type):
        raise InvalidRequest(
            f"{content_type[:80]!r} is no media type of at most {BLOB_CONTENT_TYPE_CHARACTERS_MAX} characters; write it "
            "like image/png",
            code="content_type_invalid",
        )
    return content_type


def check_upload_id(upload_id: str) -> str | None:
    """Return `upload_id` when it can be one, else None: then there is no such upload."""
    return upload_id if _UPLOAD_ID.match(upload_id) else None


def check_limit(limit: int) -> int:
    """Return the number of items of a page. InvalidRequest when there cannot be so many."""
    if not 1 <= limit <= BLOB_PAGE_ITEMS_MAX:
        raise InvalidRequest(f"a page has 1 to {BLOB_PAGE_ITEMS_MAX} blobs, not {limit}")
    return limit


# ------------------------------------------------------------------------------------------------ cursors


def cursor_after(place: Place, prefix: str, key: str) -> str:
    """Where the list of `prefix` goes on after `key`. It opens nothing: whoever has it may list all the same."""
    return urlsafe_b64encode(_bound(place, prefix) + key.encode()).rstrip(b"=").decode()


def key_of_cursor(place: Place, prefix: str, cursor: str) -> str:
    """The key after which the list goes on.

    Raises:
        Unreadable: code `bad_cursor`: it was made for another list, or by nobody.
    """
    try:
        raw = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        key = check_key(raw[_BOUND_BYTES:].decode())
    except (ValueError, InvalidRequest):
        raise _bad_cursor() from None
    if raw[:_BOUND_BYTES] != _bound(place, prefix) or not key.startswith(prefix):
        raise _bad_cursor()
    return key


def _bad_cursor() -> Unreadable:
    return Unreadable("the cursor is not one of this list; begin again without it", code="bad_cursor")


def _bound(place: Place, prefix: str) -> bytes:
    whole = b"\0".join((place.area.encode(), place.tenant_id.bytes, prefix.encode()))
    return blake2b(whole, digest_size=_BOUND_BYTES).digest()
