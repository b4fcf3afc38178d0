"""What may be a blob's key: whatever passes is harmless, and no two keys are one file."""

from __future__ import annotations

import os
import unicodedata
from pathlib import PurePosixPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core_plugins.files.drivers.file_tree import file_of, folders_of, objects_of
from core_plugins.files.model import names
from core_plugins.files.model.names import Place
from plugin_api.errors import InvalidRequest, Unreadable
from plugin_api.ids import uuid7
from plugin_api.limits import BLOB_KEY_BYTES_MAX, BLOB_SEGMENT_BYTES_MAX, BLOB_SEGMENTS_MAX

PLACE = Place("acme.crm", uuid7())
segments = st.text(st.sampled_from("a.b/~\\ %\0\n\u0301é\u200b\ud800日"), max_size=8)
parts = st.text(st.sampled_from("ab.dAZ09~\\ %é\u200b日"), min_size=1, max_size=8).filter(
    lambda part: part not in (".", "..")
)
keys = st.lists(parts, min_size=1, max_size=6).map("/".join)
texts = st.one_of(st.text(max_size=40), st.lists(segments, max_size=6).map("/".join))


def is_key(text: str) -> bool:
    try:
        names.check_key(text)
    except InvalidRequest as error:
        return error.code != "blob_key_invalid" or not error.detail.isprintable()
    return True


def path_of(key: str) -> bytes:
    """Where the filesystem has it, below the folder of the plugin in the tenant."""
    return b"/".join([*folders_of(key), file_of(key)])


@given(texts)
@example("a/../../b")
@example("..")
def test_what_passes_is_harmless(text: str) -> None:
    if not is_key(text):
        return
    parts = text.split("/")

    assert 0 < len(text.encode()) <= BLOB_KEY_BYTES_MAX
    assert len(parts) <= BLOB_SEGMENTS_MAX
    assert all(0 < len(part.encode()) <= BLOB_SEGMENT_BYTES_MAX and part not in (".", "..") for part in parts)
    assert unicodedata.normalize("NFC", text) == text
    assert not any(unicodedata.category(character) == "Cc" for character in text)


@given(keys)
def test_its_file_is_inside_its_folder(key: str) -> None:
    assert is_key(key)
    path = path_of(key)

    assert os.path.normpath(b"/root/" + path) == b"/root/" + path
    assert all(len(name) <= 255 and b"\0" not in name for name in path.split(b"/"))
    assert ".." not in PurePosixPath(os.fsdecode(path)).parts


@given(keys, keys)
@example("a", "a/b")
@example("a.d/b", "a/b")
@example("A", "a")
def test_two_keys_are_two_files_and_no_file_is_a_folder(one: str, two: str) -> None:
    if one != two:
        assert path_of(one) != path_of(two)
        assert not path_of(two).startswith(path_of(one) + b"/")


@given(keys, st.integers(0, 40))
def test_whatever_a_key_begins_with_can_be_listed(key: str, length: int) -> None:
    prefix = key[:length]
    if unicodedata.is_normalized("NFC", prefix):
        assert names.check_prefix(prefix) == prefix


@pytest.mark.parametrize("prefix", ["/", "../", "a//", "a/../b", "\0", "x" * 201, "a/" * 65])
def test_what_no_key_begins_with_is_refused(prefix: str) -> None:
    with pytest.raises(InvalidRequest):
        names.check_prefix(prefix)


@given(keys)
def test_a_cursor_is_read_as_it_was_made(key: str) -> None:
    cursor = names.cursor_after(PLACE, "", key)

    assert names.key_of_cursor(PLACE, "", cursor) == key
    with pytest.raises(Unreadable):
        names.key_of_cursor(Place("acme.crm", uuid7()), "", cursor)


@given(st.text(max_size=60))
def test_a_made_up_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(Unreadable):
        names.key_of_cursor(PLACE, "", cursor)


def test_the_folders_of_parts_are_apart() -> None:
    assert objects_of(PLACE) == [PLACE.tenant_id.hex.encode(), b"objects", b"acme.crm"]
