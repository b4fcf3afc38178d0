"""Access tokens, opaque tokens, cookies: what holds and what does not."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from core_plugins.iam.model.tokens import (
    ACCESS_TOKEN_S,
    Claims,
    OpaqueToken,
    Signer,
    csrf_token_of,
    decode_base64url,
    encode_base64url,
    key_id_of,
    load_signer,
    make_claims,
    make_cookies,
    make_opaque_token,
    make_private_key,
    parse_opaque_token,
    session_cookie_in,
    sign_access_token,
    verify_access_token,
)
from plugin_api.errors import NotAuthenticated
from plugin_api.ids import uuid7

NOW = datetime(2026, 7, 1, 12, 0, 0, 250_000, UTC)
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
KID, POINT, PRIVATE = make_private_key()
SIGNER = load_signer(KID, PRIVATE)
PUBLIC = SIGNER.private_key.public_key()
CLAIMS = make_claims(
    issuer="us", audience="ours", user_id=uuid7(), tenant_id=uuid7(), session_id=uuid7(), token_id=uuid7(), now=NOW
)
TOKEN = sign_access_token(SIGNER, CLAIMS)


def verify(token: str, *, now: datetime = NOW, public_key: ec.EllipticCurvePublicKey = PUBLIC) -> Claims:
    """All that identify does with a token before it asks the database."""
    if key_id_of(token) != KID:
        raise NotAuthenticated("unknown key")
    return verify_access_token(token, public_key, issuer="us", audience="ours", now=now)


def encode(document: Any) -> str:
    raw = document if isinstance(document, bytes) else json.dumps(document, separators=(",", ":")).encode()
    return encode_base64url(raw)


def signed(header: dict[str, Any], claims: Any, key: ec.EllipticCurvePrivateKey = SIGNER.private_key) -> str:
    """A token with any header and payload under a true signature of `key`."""
    text = f"{encode(header)}.{encode(claims)}"
    r, s = decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{text}.{encode(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


HEADER = {"alg": "ES256", "kid": KID, "typ": "JWT"}
PAYLOAD: dict[str, Any] = json.loads(decode_base64url(TOKEN.split(".")[1]) or b"")


def test_a_token_holds_with_exactly_nine_claims() -> None:
    assert CLAIMS == verify(TOKEN)
    assert {"iss", "aud", "sub", "tid", "sid", "jti", "iat", "nbf", "exp"} == set(PAYLOAD)
    assert ACCESS_TOKEN_S == PAYLOAD["exp"] - PAYLOAD["iat"]
    assert HEADER == json.loads(decode_base64url(TOKEN.split(".")[0]) or b"")


def test_a_token_ends_at_its_second() -> None:
    end = datetime.fromtimestamp(CLAIMS.exp, UTC)
    verify(TOKEN, now=end - timedelta(microseconds=1))

    with pytest.raises(NotAuthenticated) as caught:
        verify(TOKEN, now=end)

    assert "token_expired" == caught.value.code


def test_a_machine_whose_clock_is_behind_a_little_takes_it() -> None:
    verify(TOKEN, now=NOW - timedelta(seconds=4))

    with pytest.raises(NotAuthenticated) as caught:
        verify(TOKEN, now=NOW - timedelta(seconds=60))

    assert "not_authenticated" == caught.value.code


def _spellings_of_the_public_key() -> list[bytes]:
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    pem = PUBLIC.public_bytes(serialization.Encoding.PEM, info)
    return [pem, pem.strip(), PUBLIC.public_bytes(serialization.Encoding.DER, info), POINT, b""]


def _hs256(secret: bytes, **header: str) -> str:
    text = f"{encode({**HEADER, 'alg': 'HS256', **header})}.{encode(PAYLOAD)}"
    return f"{text}.{encode(hmac.new(secret, text.encode(), hashlib.sha256).digest())}"


def _forged() -> dict[str, str]:
    text, foreign = TOKEN.rsplit(".", 1)[0], ec.generate_private_key(ec.SECP256R1())
    jwk = {"kty": "EC", "crv": "P-256", "kid": KID, "x": "AA", "y": "AA"}
    forged = {f"alg {a!r}": f"{encode({**HEADER, 'alg': a})}.{encode(PAYLOAD)}." for a in ("none", "None", "NONE", "")}
    forged |= {f"HS256 {n}": _hs256(secret) for n, secret in enumerate(_spellings_of_the_public_key())}
    forged["kid as a path"] = _hs256(b"", kid="../../../dev/null")
    forged["foreign key"] = signed(HEADER, PAYLOAD, foreign)
    for name, value in (
        ("jwk", jwk),
        ("jku", "https://x.example"),
        ("x5u", "https://x.example"),
        ("x5c", ["AA"]),
        ("crit", ["x"]),
    ):
        forged[f"foreign key, {name}"] = signed({**HEADER, name: value}, PAYLOAD, foreign)
        forged[f"our key, {name}"] = signed({**HEADER, name: value}, PAYLOAD)
    forged["our key, b64"] = signed({**HEADER, "b64": False, "crit": ["b64"]}, PAYLOAD)
    forged["no kid"] = signed({"alg": "ES256"}, PAYLOAD)
    forged["empty kid"] = signed({"alg": "ES256", "kid": ""}, PAYLOAD)
    forged["kid no text"] = signed({"alg": "ES256", "kid": 7}, PAYLOAD)
    forged |= {"no signature": text + ".", "zero signature": f"{text}.{encode(bytes(64))}", "two parts": text}
    forged |= {"four parts": TOKEN + ".AA", "long": TOKEN + "A" * 3_000, "empty": "", "dots": "..", "no ASCII": "é.é.é"}
    forged["DER signature"] = f"{text}.{encode(SIGNER.private_key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))}"
    forged["ES384"] = signed({**HEADER, "alg": "ES384"}, PAYLOAD)
    forged["deep header"] = f"{encode(b'[' * 100_0)}.{encode(PAYLOAD)}.{encode(bytes(64))}"
    return forged


@pytest.mark.parametrize("kind", list(_forged()))
def test_forged_tokens_do_not_hold(kind: str) -> None:
    with pytest.raises(NotAuthenticated) as caught:
        verify(_forged()[kind])

    assert "not_authenticated" == caught.value.code


@pytest.mark.parametrize(
    "change",
    [
        {"iss": "x"},
        {"aud": "x"},
        {"aud": ["ours"]},
        {"sub": "somebody"},
        {"sub": None},
        {"tid": 7},
        {"exp": "4102444800"},
        {"exp": 4102444800.5},
        {"exp": True},
        {"nbf": 4102444800},
        {"roles": ["owner"]},
    ],
)
def test_claims_are_taken_strictly_even_under_our_signature(change: dict[str, Any]) -> None:
    with pytest.raises(NotAuthenticated):
        verify(signed(HEADER, {**PAYLOAD, **change}))


@pytest.mark.parametrize("name", sorted(PAYLOAD))
def test_every_claim_is_required(name: str) -> None:
    with pytest.raises(NotAuthenticated):
        verify(signed(HEADER, {k: v for k, v in PAYLOAD.items() if k != name}))


def test_a_changed_payload_breaks_the_signature() -> None:
    head, _, mark = TOKEN.split(".")

    with pytest.raises(NotAuthenticated):
        verify(f"{head}.{encode({**PAYLOAD, 'tid': str(uuid7())})}.{mark}")


def test_only_the_canonical_spelling_of_the_text_is_taken() -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    respelled = TOKEN[:-1] + alphabet[alphabet.index(TOKEN[-1]) ^ 1]

    for one in (respelled, TOKEN + "=", TOKEN + "==", TOKEN + "\n", " " + TOKEN, TOKEN.replace(".", ".\n", 1)):
        with pytest.raises(NotAuthenticated):
            verify(one)


def test_the_other_valid_signature_names_the_same_session() -> None:
    """(r, n - s) cannot be told from (r, s), so revoking is by session, never by the token's text."""
    head, body, mark = TOKEN.split(".")
    raw = decode_base64url(mark) or b""
    s = ORDER - int.from_bytes(raw[32:], "big")
    twin = f"{head}.{body}.{encode_base64url(raw[:32] + s.to_bytes(32, 'big'))}"

    assert twin != TOKEN
    assert verify(TOKEN).sid == verify(twin).sid


def test_a_key_of_another_curve_is_no_signer() -> None:
    other = ec.generate_private_key(ec.SECP384R1())
    private = other.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

    with pytest.raises(ValueError, match="no P-256 key"):
        load_signer("k", private)


def test_secrets_do_not_print() -> None:
    token = make_opaque_token("pkr", uuid7(), uuid7())

    assert token.secret not in repr(token)
    assert "Signer" in repr(Signer("k", SIGNER.private_key))
    assert "private" not in repr(SIGNER).lower()


# ------------------------------------------------------------------------------------------ opaque tokens


def test_an_opaque_token_names_tenant_and_session() -> None:
    tenant_id, session_id = uuid7(), uuid7()
    token = make_opaque_token("pkr", tenant_id, session_id)
    parsed = parse_opaque_token(str(token), "pkr")

    assert parsed == token
    assert parsed is not None
    assert (tenant_id, session_id) == (parsed.tenant_id, parsed.session_id)
    assert hashlib.sha256(str(token).encode()).digest() == token.hash()


def test_opaque_tokens_are_taken_exactly() -> None:
    text = str(make_opaque_token("pkr", uuid7(), uuid7()))

    for bad in (text[:-1], text + "A", text.upper(), text + "\n", " " + text, text.replace("pkr", "pks"), "", "pkr___"):
        assert parse_opaque_token(bad, "pkr") is None


@given(st.text(max_size=200))
def test_any_text_is_taken_apart_or_refused(text: str) -> None:
    parse_opaque_token(text, "pkr")
    session_cookie_in(text)
    with pytest.raises(NotAuthenticated):
        key_id_of(text)


def test_a_successor_is_the_same_each_time_and_needs_the_key() -> None:
    token = make_opaque_token("pkr", uuid7(), uuid7())
    one = token.successor(hashlib.sha256(b"a").digest())

    assert one == token.successor(hashlib.sha256(b"a").digest())
    assert one != token.successor(hashlib.sha256(b"b").digest())
    assert one.session_id == token.session_id
    assert parse_opaque_token(str(one), "pkr") == one


# ----------------------------------------------------------------------------------------------- browsers


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("pk_session=abc", "abc"),
        ("a=b; pk_session=abc; c=d", "abc"),
        ("a=b;pk_session=abc", "abc"),
        ("xpk_session=abc", None),
        ("a=pk_session=abc", None),
        ("pk_session=", None),
        ("pk_session=abc; pk_session=def", None),
        ("", None),
    ],
)
def test_the_session_cookie_is_found(header: str, value: str | None) -> None:
    assert value == session_cookie_in(header)


def test_cookies_are_out_of_reach_of_scripts_and_other_sites() -> None:
    session, csrf = make_cookies("s3cret", "c5rf", max_age_s=60, secure=True)

    assert {"HttpOnly", "Path=/", "SameSite=Lax", "Max-Age=60", "Secure"} == set(session.split("; ")[1:])
    assert "HttpOnly" not in csrf
    assert csrf.startswith("pk_csrf=c5rf; ")
    assert not any("Secure" in one for one in make_cookies("s", "c", max_age_s=60, secure=False))


def test_a_csrf_token_tells_nothing_of_the_secret() -> None:
    cookie = OpaqueToken("pks", UUID(int=1), UUID(int=2), "A" * 43)
    other = OpaqueToken("pks", UUID(int=1), UUID(int=2), "B" * 43)

    assert csrf_token_of(cookie) == csrf_token_of(cookie)
    assert csrf_token_of(cookie) != csrf_token_of(other)
    assert "A" * 43 not in csrf_token_of(cookie)
