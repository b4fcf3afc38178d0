"""Browser sessions: a cookie out of reach of scripts, and nothing changed by a cookie alone."""

from __future__ import annotations

from datetime import timedelta
from http.cookies import SimpleCookie
from typing import Any


class Browser:
    """A browser that is logged in."""

    def __init__(self, client: Any, answer: Any) -> None:
        self.client = client
        self.answer = answer
        self.jar = SimpleCookie()
        for line in answer.headers.getall("Set-Cookie"):
            self.jar.load(line)

    @property
    def cookies(self) -> str:
        return "; ".join(f"{name}={morsel.value}" for name, morsel in self.jar.items())

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        return await self.client.ask(method, path, body, Cookie=f"theme=dark; {self.cookies}", **headers)


async def browse(running: Any, tenant: Any) -> Browser:
    client = await running.client()
    asked = {"tenant": tenant.slug, "email": tenant.owner.email, "password": tenant.owner.password}
    answer = await client.post("/browser-sessions", asked)
    assert 201 == answer.status, answer.body
    return Browser(client, answer)


async def test_a_browser_session_is_in_cookies(running: Any) -> None:
    browser = await browse(running, await running.tenant())
    session, csrf = browser.jar["pk_session"], browser.jar["pk_csrf"]

    assert {"session_id", "csrf_token", "expires_in_s"} == set(browser.answer.json)
    assert (True, "Lax", "/") == (session["httponly"], session["samesite"], session["path"])
    assert str(timedelta(days=30) // timedelta(seconds=1)) == session["max-age"]
    assert ("", browser.answer["csrf_token"]) == (csrf["httponly"], csrf.value)
    assert session.value.encode() not in browser.answer.body


async def test_cookies_are_for_https_alone_where_that_is_set(start: Any) -> None:
    async with start(cookie_secure=True) as running:
        browser = await browse(running, await running.tenant())

        assert all(morsel["secure"] for morsel in browser.jar.values())


async def test_reading_needs_the_cookie_alone(running: Any) -> None:
    browser = await browse(running, await running.tenant())

    assert 200 == (await browser.ask("GET", "/me")).status
    assert 200 == (await browser.ask("GET", "/me")).status
    assert 401 == (await browser.client.get("/me")).status
    assert 401 == (await browser.client.get("/me", Cookie="pk_session=x")).status


async def test_changing_needs_the_csrf_token_as_well(running: Any) -> None:
    tenant = await running.tenant()
    browser, other = await browse(running, tenant), await browse(running, tenant)
    body = {"name": "reader", "permissions": []}

    for wrong in ({}, {"X_CSRF_Token": ""}, {"X_CSRF_Token": "x"}, {"X_CSRF_Token": other.answer["csrf_token"]}):
        answer = await browser.ask("POST", "/roles", body, **wrong)
        assert (403, "csrf_token_missing") == (answer.status, answer.code)
    assert 201 == (await browser.ask("POST", "/roles", body, X_CSRF_Token=browser.answer["csrf_token"])).status
    # Recalled from memory it is just the same.
    assert 403 == (await browser.ask("POST", "/roles", body)).status
    assert 409 == (await browser.ask("POST", "/roles", body, X_CSRF_Token=browser.answer["csrf_token"])).status


async def test_authorization_wins_over_a_cookie(running: Any) -> None:
    browser, stranger = await browse(running, await running.tenant()), await running.tenant()
    token = stranger.owner.tokens["access_token"]
    me = await browser.ask("GET", "/me", Authorization=f"Bearer {token}")

    assert str(stranger.id) == me["tenant"]["id"]
    assert 401 == (await browser.ask("GET", "/me", Authorization="Bearer x")).status
    assert 401 == (await browser.ask("GET", "/me", Authorization="Basic YTpi")).status


async def test_a_cookies_secret_is_no_bearer_token_and_the_other_way_round(running: Any) -> None:
    tenant = await running.tenant()
    browser = await browse(running, tenant)
    secret = browser.jar["pk_session"].value
    assert 200 == (await browser.ask("GET", "/me")).status

    assert 401 == await browser.client.bearing(secret).me()
    assert 401 == (await browser.client.get("/me", Authorization=secret)).status
    assert 401 == (await running.refresh(secret.replace("pks", "pkr"))).status
    for token in (tenant.owner.tokens["access_token"], tenant.owner.tokens["refresh_token"]):
        assert 401 == (await browser.client.get("/me", Cookie=f"pk_session={token}")).status


async def test_logging_out_ends_the_session_and_takes_the_cookies(running: Any) -> None:
    browser = await browse(running, await running.tenant())
    assert 403 == (await browser.ask("DELETE", "/browser-sessions")).status
    answer = await browser.ask("DELETE", "/browser-sessions", X_CSRF_Token=browser.answer["csrf_token"])

    assert 204 == answer.status
    cleared = SimpleCookie()
    for line in answer.headers.getall("Set-Cookie"):
        cleared.load(line)
    assert {"pk_session": ("", "0"), "pk_csrf": ("", "0")} == {n: (m.value, m["max-age"]) for n, m in cleared.items()}
    assert 401 == (await browser.ask("GET", "/me")).status


async def test_a_browser_session_ends_with_all_others(running: Any) -> None:
    tenant = await running.tenant()
    browser = await browse(running, tenant)
    assert 200 == (await browser.ask("GET", "/me")).status
    assert {"bearer", "cookie"} == {one["kind"] for one in (await browser.ask("GET", "/sessions"))["items"]}

    assert 204 == (await tenant.owner.client.delete("/sessions")).status
    assert 401 == (await browser.ask("GET", "/me")).status


async def test_a_browser_session_expires(running: Any) -> None:
    browser = await browse(running, await running.tenant())
    running.clock.advance(timedelta(days=30).total_seconds())

    assert 401 == (await browser.ask("GET", "/me")).status


async def test_log_ins_of_browsers_are_throttled_with_all_others(running: Any) -> None:
    tenant, client = await running.tenant(), await running.client()
    asked = {"tenant": tenant.slug, "email": tenant.owner.email, "password": "Guess-number-1"}
    statuses = [
        (await client.post(f"/{kind}", asked)).status for kind in ("sessions", "browser-sessions") for _ in range(11)
    ]

    assert [401] * 20 + [429] * 2 == statuses
