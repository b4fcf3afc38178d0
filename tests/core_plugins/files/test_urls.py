"""Signed URLs of the filesystem: what was signed passes, and nothing else does."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_plugins.files.drivers.url_keys import UrlKeys
from core_plugins.files.model import urls
from core_plugins.files.model.urls import Grant
from plugin_api.errors import InvalidRequest, NotAllowed
from plugin_api.ids import uuid7
from plugin_api.settings import Secret

KEYS = {"one": Secret(b"1" * 32), "two": Secret(b"2" * 32)}
GRANT = Grant("GET", "acme.crm", uuid7(), "a/ü key", 1_000)
TOKEN = urls.make_token(GRANT, "one", KEYS["one"])


def code_of(token: str, method: str = "GET", now: float = 0.0) -> str:
    """Why a token is refused."""
    with pytest.raises(NotAllowed) as caught:
        urls.open_token(token, KEYS, method, now)
    return caught.value.code


def test_what_was_signed_passes_until_it_expires() -> None:
    assert urls.open_token(TOKEN, KEYS, "GET", 999.9) == GRANT
    assert urls.open_token(TOKEN, KEYS, "HEAD", 0) == GRANT
    assert code_of(TOKEN, now=1_000) == "signed_url_expired"


def test_any_change_of_one_character_is_refused() -> None:
    for at in range(len(TOKEN)):
        for other in {"A", "B", "a", "0", "-", "_", ".", "é", chr(ord(TOKEN[at]) ^ 1)} - {TOKEN[at]}:
            assert code_of(TOKEN[:at] + other + TOKEN[at + 1 :]) == "signed_url_invalid"


def test_any_shorter_or_longer_one_is_refused() -> None:
    for at in range(len(TOKEN)):
        assert code_of(TOKEN[:at]) == "signed_url_invalid"
    for tail in ("=", "A", ".", ".A", "\n", " "):
        assert code_of(TOKEN + tail) == "signed_url_invalid"


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "get", ""])
def test_another_method_is_refused(method: str) -> None:
    assert code_of(TOKEN, method) == "signed_url_invalid"


def test_a_token_of_another_key_is_refused() -> None:
    assert code_of(urls.make_token(GRANT, "one", KEYS["two"])) == "signed_url_invalid"
    assert code_of(urls.make_token(GRANT, "three", KEYS["two"])) == "signed_url_invalid"


@given(st.text(max_size=60))
def test_what_nobody_signed_is_refused(token: str) -> None:
    assert code_of(token) == "signed_url_invalid"


@pytest.mark.parametrize(
    ("method", "expires_s", "size", "size_max"),
    [
        ("GET", 0, None, None),
        ("GET", 604_801, None, None),
        ("GET", 60, 5, None),
        ("PUT", 60, None, None),
        ("PUT", 60, 5, 5),
        ("PUT", 60, -1, None),
        ("PUT", 60, None, 5 * 2**30 + 1),
        ("DELETE", 60, None, None),
    ],
)
def test_what_must_not_be_signed(
    method: urls.UrlMethod, expires_s: int, size: int | None, size_max: int | None
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        urls.check_grant(method, expires_s, size, size_max)

    assert caught.value.code == "signed_url_refused"


# ---------------------------------------------------------------------------------------------------- keys


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "blob-urls"
    assert [file for file in os.listdir(tmp_path) if file != "blob-urls"] == [], "nothing else is left"


def opened(path: Path) -> UrlKeys:
    keys = UrlKeys(path)
    keys.open()
    return keys


def test_the_keys_are_for_the_kernel_alone(path: Path) -> None:
    opened(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_all_workers_have_one_key(path: Path) -> None:
    one, two = opened(path), opened(path)
    token = one.sign(GRANT)

    assert urls.open_token(token, two.find(urls.key_id_of(token)), "GET", 0) == GRANT


def test_after_a_rotation_both_keys_prove_and_the_new_one_signs(path: Path) -> None:
    one, two = opened(path), opened(path)
    before = one.sign(GRANT)
    made = two.rotate()
    after = one.sign(GRANT)

    assert urls.key_id_of(after) == made != urls.key_id_of(before)
    for token in (before, after):
        assert urls.open_token(token, two.find(urls.key_id_of(token)), "GET", 0) == GRANT


def test_a_lost_file_is_made_anew_and_the_old_urls_end(path: Path) -> None:
    token = opened(path).sign(GRANT)
    path.unlink()

    assert opened(path).find(urls.key_id_of(token)) == {}


@pytest.mark.parametrize("content", [b"", b"{}", b'{"format": 1, "keys": []}', b'{"format": 2, "keys": []}', b'{"format": 1, "keys": [{"id": "a", "key": "AAAA"}]}'])  # fmt: skip
def test_a_damaged_file_is_told(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)

    with pytest.raises(InvalidRequest, match="damaged"):
        opened(path)


def test_a_file_that_others_may_read_is_told(path: Path) -> None:
    opened(path)
    path.chmod(0o640)

    with pytest.raises(InvalidRequest, match="chmod 600"):
        opened(path)
