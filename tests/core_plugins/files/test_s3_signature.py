"""Signature Version 4, against the examples that AWS publishes with it."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from urllib.parse import parse_qs, urlsplit

import pytest

from core_plugins.files.drivers.s3_signature import Account, Target, encoded_path, presign, sign
from plugin_api.settings import Secret

ACCOUNT = Account("AKIAIOSFODNN7EXAMPLE", Secret("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"), "us-east-1")
NOW = datetime(2013, 5, 24, tzinfo=UTC)
BASE = "https://examplebucket.s3.amazonaws.com"
EMPTY = sha256(b"").hexdigest()


def signature_of(target: Target, headers: dict[str, str], payload: str) -> str:
    return sign(target, headers, payload, ACCOUNT, NOW)["authorization"].rpartition("Signature=")[2]


@pytest.mark.parametrize(
    ("target", "headers", "payload", "expected"),
    [
        (
            Target("GET", BASE, "/test.txt"),
            {"Range": "bytes=0-9"},
            EMPTY,
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            Target("PUT", BASE, "/test$file.text"),
            {"Date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"},
            sha256(b"Welcome to Amazon S3.").hexdigest(),
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
        (
            Target("GET", BASE, "/", {"lifecycle": ""}),
            {},
            EMPTY,
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
        (
            Target("GET", BASE, "/", {"max-keys": "2", "prefix": "J"}),
            {},
            EMPTY,
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
)
def test_a_request_is_signed_as_published(target: Target, headers: dict[str, str], payload: str, expected: str) -> None:
    assert signature_of(target, headers, payload) == expected


def test_a_url_is_signed_as_published() -> None:
    url = presign(Target("GET", BASE, "/test.txt"), {}, ACCOUNT, NOW, 86_400)

    assert url.startswith(f"{BASE}/test.txt?")
    assert parse_qs(urlsplit(url).query)["X-Amz-Signature"] == [
        "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    ]


def test_what_has_to_be_sent_is_signed_into_a_url() -> None:
    target = Target("PUT", BASE, "/key")
    one, two = (presign(target, {"content-length": length}, ACCOUNT, NOW, 60) for length in ("1", "2"))

    assert "X-Amz-SignedHeaders=content-length%3Bhost" in one
    assert one != two


def test_nothing_in_a_path_ends_it() -> None:
    assert encoded_path("/a b/?#%é") == "/a%20b/%3F%23%25%C3%A9"


def test_the_secret_does_not_print() -> None:
    assert "wJalr" not in repr(ACCOUNT)
