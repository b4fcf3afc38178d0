"""What comes and what is asked for: bytes counted and hashed on their way, conditions, ranges, parts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Final, Literal, NoReturn

from msgspec import Struct

from plugin_api.errors import InvalidRequest, LimitReached, PayloadTooLarge, PreconditionFailed, RangeNotSatisfiable
from plugin_api.limits import BLOB_PART_BYTES_MIN, BLOB_PARTS_MAX
from plugin_api.ports.blob_store import ByteRange, UploadedPart


class Promise(Struct, frozen=True):
    """What the sender says of the bytes, and how many there may be."""

    bytes_max: int
    size: int | None = None
    sha256: str | None = None


class Condition(Struct, frozen=True):
    """What has to be true of the key at the moment of writing (RFC 9110, section 13)."""

    if_match: str | None = None
    if_none_match: Literal["*"] | None = None

    def check(self, etag: str | None) -> None:
        """Compare with the etag of what is there, None when nothing is. PreconditionFailed when it does not hold."""
        if self.if_none_match is not None and etag is not None:
            raise PreconditionFailed("there is a blob under this key already; read it, or take another key")
        if self.if_match is not None and etag != self.if_match:
            seen = f"its etag is {etag}" if etag is not None else "there is none"
            raise PreconditionFailed(f"if_match names another blob than the current one ({seen}); read it and repeat")


_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})\Z", re.ASCII)
_SHA256: Final = re.compile(r"[0-9a-fA-F]{64}\Z", re.ASCII)


def check_promise(promise: Promise) -> Promise:
    """Return what the sender says when it can be kept.

    Raises:
        PayloadTooLarge: the announced size is more than may come.
        InvalidRequest: code `blob_mismatch`: a size or SHA-256 that no bytes have.
    """
    if promise.size is not None and promise.size > promise.bytes_max:
        raise too_large(promise.bytes_max)
    if promise.size is not None and promise.size < 0:
        raise _mismatch(f"{promise.size} bytes were announced")
    if promise.sha256 is not None and not _SHA256.match(promise.sha256):
        raise _mismatch("a SHA-256 was announced that has no 64 hexadecimal digits")
    return promise


def check_condition(condition: Condition) -> Condition:
    """Return a condition that can hold. InvalidRequest otherwise."""
    if condition.if_match is not None and condition.if_none_match is not None:
        raise InvalidRequest("if_match and if_none_match exclude each other; send one")
    if condition.if_none_match not in (None, "*"):
        raise InvalidRequest('if_none_match of a write is "*": nothing is there yet')
    return condition


class Receiving:
    """Counts and hashes bytes as they come, and refuses those that break the promise."""

    def __init__(self, promise: Promise) -> None:
        self._promise = promise
        self._hash = sha256()
        self.size = 0

    def take(self, chunk: bytes) -> None:
        """Take the next bytes.

        Raises:
            PayloadTooLarge: more than there may be.
            InvalidRequest: code `blob_mismatch`: more than were announced.
        """
        self.size += len(chunk)
        if self.size > self._promise.bytes_max:
            raise too_large(self._promise.bytes_max)
        if self._promise.size is not None and self.size > self._promise.size:
            raise _mismatch(f"{self._promise.size} bytes were announced and more came")
        self._hash.update(chunk)

    def finish(self) -> str:
        """The SHA-256 of all. InvalidRequest, code `blob_mismatch`, when it is not what was announced."""
        if self._promise.size is not None and self.size != self._promise.size:
            raise _mismatch(f"{self._promise.size} bytes were announced and {self.size} came")
        digest = self._hash.hexdigest()
        if self._promise.sha256 is not None and digest != self._promise.sha256.lower():
            raise _mismatch(f"the SHA-256 {self._promise.sha256} was announced and {digest} came")
        return digest


def _mismatch(what: str) -> InvalidRequest:
    return InvalidRequest(f"{what}; nothing was kept, send the blob again", code="blob_mismatch")


def too_large(bytes_max: int) -> PayloadTooLarge:
    """The error of a body with too many bytes."""
    return PayloadTooLarge(f"the body is larger than {bytes_max} bytes, the most that is taken here; send less")


def check_quota(used: int, added: int, quota: int) -> None:
    """LimitReached when a tenant that keeps `used` bytes would keep more than `quota` with `added` more."""
    if added > 0 and used + added > quota:
        raise LimitReached(
            f"the tenant may keep {quota} bytes (files.tenant_bytes_max), keeps {used} bytes, and this needs {added} bytes "
            "more; delete some blobs or ask the operator for room"
        )


def resolve_range(wanted: ByteRange | None, size: int) -> tuple[int, int]:
    """(first byte, number of bytes) of a blob of `size` bytes (RFC 9110, section 14.1.2).

    Raises:
        RangeNotSatisfiable: it begins at or after the end, or ends before it begins.
    """
    if wanted is None:
        return 0, size
    if wanted.first < 0 and wanted.last is None and size > 0:
        first = max(0, size + wanted.first)
        return first, size - first
    last = size - 1 if wanted.last is None else min(wanted.last, size - 1)
    if not 0 <= wanted.first <= last:
        raise RangeNotSatisfiable(
            f"bytes {wanted.first} to {'the end' if wanted.last is None else wanted.last} are not in a blob of {size} "
            "bytes; ask for others"
        )
    return wanted.first, last - wanted.first + 1


def parse_range(field: str) -> ByteRange | None:
    """The one range of a header field Range; None when there is none, or what we do not give: several, other units. Such
    a field is passed over and the whole blob is given (RFC 9110, section 14.2)."""
    matched = _RANGE.match(field)
    if matched is None:
        return None
    first, last = matched.groups()
    if first:
        return ByteRange(int(first), int(last) if last else None)
    return ByteRange(-int(last)) if last and int(last) else None


def parse_etags(field: str | None) -> str | None:
    """The one etag of a header field If-Match or If-None-Match, without its quotes; `*` stays. None without one."""
    return field.strip().removeprefix("W/").strip('"') if field and field.strip() else None


# -------------------------------------------------------------------------------------------------- parts


def check_part_number(number: int) -> int:
    """Return the number of a part. InvalidRequest, code `parts_invalid`, when there can be no such part."""
    if not 1 <= number <= BLOB_PARTS_MAX:
        refuse_parts(f"parts have the numbers 1 to {BLOB_PARTS_MAX}, not {number}")
    return number


def check_parts(parts: Sequence[UploadedPart], bytes_max: int) -> int:
    """How many bytes the parts make together; whether they are there is for the driver to see.

    Raises:
        InvalidRequest: code `parts_invalid`: none, too many, not ascending, one but the last too small.
        PayloadTooLarge: together more than `bytes_max`.
    """
    numbers = [check_part_number(part.number) for part in parts]
    if not parts:
        refuse_parts("no part is named")
    if numbers != sorted(set(numbers)):
        refuse_parts("the parts are not named in ascending order, each once")
    for part in parts[:-1]:
        if part.size < BLOB_PART_BYTES_MIN:
            refuse_parts(
                f"part {part.number} has {part.size} bytes; all but the last have at least {BLOB_PART_BYTES_MIN}"
            )
    total = sum(part.size for part in parts)
    if total > bytes_max:
        raise too_large(bytes_max)
    return total


def refuse_parts(what: str) -> NoReturn:
    """InvalidRequest for parts that make no blob."""
    raise InvalidRequest(f"{what}; send what is missing and complete the upload again", code="parts_invalid")
