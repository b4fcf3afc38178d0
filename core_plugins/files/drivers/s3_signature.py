"""Signatures of requests to an S3 API: AWS Signature Version 4, in a header or in the URL. Pure.

Own code, because the usual clients sign no header but the host in a URL: then whoever has one for a PUT may send any number
of bytes. Here the length that was granted is signed with it.

Source: AWS, "Authenticating Requests (AWS Signature Version 4)", API reference of Amazon S3.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from typing import Final
from urllib.parse import quote

from msgspec import Struct

from plugin_api.settings import Secret

ALGORITHM: Final = "AWS4-HMAC-SHA256"
UNSIGNED: Final = "UNSIGNED-PAYLOAD"


class Account(Struct, frozen=True):
    """Who signs, for which region."""

    access_key: str
    secret_key: Secret[str]
    region: str


class Target(Struct, frozen=True):
    """What is asked for: everything but header fields and body."""

    method: str
    base: str
    """`https://s3.example.com`, without a slash at the end."""
    path: str
    """`/bucket/key`, not encoded."""
    query: Mapping[str, str] = {}

    @property
    def host(self) -> str:
        """What stands in the Host field."""
        return self.base.partition("//")[2]

    @property
    def url(self) -> str:
        """The whole URL, encoded."""
        query = encoded_query(self.query)
        return f"{self.base}{encoded_path(self.path)}{'?' if query else ''}{query}"


def encoded_path(path: str) -> str:
    """A path with everything encoded but unreserved characters (RFC 3986) and slashes."""
    return quote(path, safe="/-_.~")


def encoded_query(query: Mapping[str, str]) -> str:
    """A query in the order in which it is signed."""
    return "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in sorted(query.items()))


def sign(
    target: Target, headers: Mapping[str, str], payload_sha256: str, account: Account, now: datetime
) -> dict[str, str]:
    """The header fields of a request, with its signature over all of them and over the body."""
    signed = {
        **{name.lower(): value for name, value in headers.items()},
        "host": target.host,
        "x-amz-content-sha256": payload_sha256,
        "x-amz-date": _time(now),
    }
    code = _code(target, target.query, signed, payload_sha256, account, now)
    credential = f"{account.access_key}/{_scope(account, now)}"
    names = ";".join(sorted(signed))
    return {**signed, "authorization": f"{ALGORITHM} Credential={credential}, SignedHeaders={names}, Signature={code}"}


def presign(target: Target, headers: Mapping[str, str], account: Account, now: datetime, expires_s: int) -> str:
    """A URL that anybody may use until it expires, if they send exactly these header fields."""
    signed = {**{name.lower(): value for name, value in headers.items()}, "host": target.host}
    query = {
        **target.query,
        "X-Amz-Algorithm": ALGORITHM,
        "X-Amz-Credential": f"{account.access_key}/{_scope(account, now)}",
        "X-Amz-Date": _time(now),
        "X-Amz-Expires": str(expires_s),
        "X-Amz-SignedHeaders": ";".join(sorted(signed)),
    }
    code = _code(target, query, signed, UNSIGNED, account, now)
    return Target(target.method, target.base, target.path, {**query, "X-Amz-Signature": code}).url


def _code(
    target: Target, query: Mapping[str, str], signed: Mapping[str, str], payload: str, account: Account, now: datetime
) -> str:
    fields = "".join(f"{name}:{' '.join(signed[name].split())}\n" for name in sorted(signed))
    names = ";".join(sorted(signed))
    request = "\n".join((target.method, encoded_path(target.path), encoded_query(query), fields, names, payload))
    text = "\n".join((ALGORITHM, _time(now), _scope(account, now), sha256(request.encode()).hexdigest()))
    return hmac.digest(_key(account, now), text.encode(), "sha256").hex()


def _key(account: Account, now: datetime) -> bytes:
    key = b"AWS4" + account.secret_key.reveal().encode()
    for part in _scope(account, now).split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _scope(account: Account, now: datetime) -> str:
    return f"{now:%Y%m%d}/{account.region}/s3/aws4_request"


def _time(now: datetime) -> str:
    return f"{now:%Y%m%dT%H%M%SZ}"
