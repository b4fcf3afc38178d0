"""What the driver does when the other end misbehaves, told by a server that does so on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from core_plugins.cache.drivers.valkey_store import ValkeyStore
from core_plugins.cache.operations import CacheOperations
from plugin_api.errors import InvalidRequest, KernelBug, StoreUnavailable

Words = list[bytes]
Answer = Callable[[Words, asyncio.StreamWriter], Awaitable[None] | None]


class Warnings:
    """Collects what the driver warns of."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, message: str, **fields: object) -> None:
        self.texts.append(message)


class Stand:
    """A stand-in for a server: keeps what it was sent, answers what the test says."""

    def __init__(self, answer: Answer) -> None:
        self.received: list[Words] = []
        self._answer = answer
        self._serving = 0
        self.over = asyncio.Event()
        self.over.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving += 1
        self.over.clear()
        try:
            while words := await read_command(reader):
                self.received.append(words)
                told = self._answer(words, writer)
                if told is not None:
                    await told
        finally:
            writer.close()
            self._serving -= 1
            if not self._serving:
                self.over.set()

    def sent(self, command: bytes) -> int:
        return sum(words[0] == command for words in self.received)


async def read_command(reader: asyncio.StreamReader) -> Words:
    head = await reader.readline()
    if not head:
        return []
    words: Words = []
    for _ in range(int(head[1:])):
        length = int((await reader.readline())[1:])
        words.append((await reader.readexactly(length + 2))[:-2])
    return words


@asynccontextmanager
async def standing(answer: Answer, timeout_s: float = 5.0) -> AsyncIterator[tuple[Stand, CacheOperations, Warnings]]:
    """A driver that talks to one; only a test of silence has use for a short bound."""
    stand, warnings = Stand(answer), Warnings()
    server = await asyncio.start_server(stand.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"redis://:sesame-open@127.0.0.1:{port}/0"
    operations = CacheOperations(ValkeyStore(url, size=2, timeout_s=timeout_s, warn=warnings))
    try:
        yield stand, operations, warnings
    finally:
        await operations.stop()
        server.close()
        async with asyncio.timeout(5):
            await stand.over.wait()


def fine(words: Words, writer: asyncio.StreamWriter) -> None:
    writer.write(b"+OK\r\n")


async def test_a_command_whose_answer_was_lost_is_not_sent_again() -> None:
    def drop(words: Words, writer: asyncio.StreamWriter) -> None:
        if words[0] == b"EVALSHA":
            writer.close()
        else:
            fine(words, writer)

    async with standing(drop) as (stand, cache, _):
        with pytest.raises(StoreUnavailable):
            await cache.part("money").increment(None, "count", ttl_s=1)

        assert stand.sent(b"EVALSHA") == 1
        assert stand.sent(b"EVAL") == 0


async def test_a_script_that_the_server_does_not_know_is_sent_whole_once() -> None:
    def forgetful(words: Words, writer: asyncio.StreamWriter) -> None:
        if words[0] == b"EVALSHA":
            writer.write(b"-NOSCRIPT No matching script.\r\n")
        elif words[0] == b"EVAL":
            writer.write(b":1\r\n")
        else:
            fine(words, writer)

    async with standing(forgetful) as (stand, cache, _):
        assert await cache.part("money").increment(None, "count", ttl_s=1) == 1
        assert (stand.sent(b"EVALSHA"), stand.sent(b"EVAL")) == (1, 1)


async def test_a_late_answer_is_never_given_to_the_next_caller() -> None:
    given_up = asyncio.Event()

    async def late(words: Words, writer: asyncio.StreamWriter) -> None:
        if words[0] == b"GET" and words[1].endswith(b"slow"):
            await given_up.wait()
            writer.write(b"$4\r\nslow\r\n")
        elif words[0] == b"GET":
            writer.write(b"$4\r\nfast\r\n")
        else:
            fine(words, writer)

    async with standing(late, timeout_s=1) as (_, cache, _):
        part = cache.part("money")
        slow, *fast = await asyncio.gather(
            part.get(None, "slow"), *(part.get(None, "fast") for _ in range(5)), return_exceptions=True
        )
        given_up.set()

        assert isinstance(slow, StoreUnavailable)
        assert fast == [b"fast"] * 5
        assert await part.get(None, "fast") == b"fast", "one late answer among others is no outage"


async def test_a_server_that_makes_no_users_is_used_without_and_told_of_once() -> None:
    def hosted(words: Words, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-NOPERM no permissions to run 'acl|setuser'\r\n" if words[0] == b"ACL" else b"+OK\r\n")

    async with standing(hosted) as (stand, cache, warnings):
        await asyncio.gather(*(cache.part(name).set(None, "key", b"x", ttl_s=1) for name in ("money", "iam", "files")))

        assert len(warnings.texts) == 1
        assert stand.sent(b"SET") == 3


async def test_each_part_has_a_user_with_a_password_that_is_not_the_servers() -> None:
    async with standing(fine) as (stand, cache, _):
        for name in ("money", "acme.crm"):
            await cache.part(name).set(None, "key", b"x", ttl_s=1)
        made = [words for words in stand.received if words[0] == b"ACL"]

        assert [words[2] for words in made] == [b"pk.money", b"pk.acme.crm"]
        assert {b"~money:*", b"-@all", b"reset"} <= set(made[0])
        assert made[0][5] != made[1][5]
        assert all(b"sesame-open" not in word for words in made for word in words)


async def test_a_refused_log_in_is_told_without_the_password() -> None:
    def strict(words: Words, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-WRONGPASS invalid username-password pair or user is disabled.\r\n")

    async with standing(strict) as (_, cache, _):
        with pytest.raises(StoreUnavailable) as caught:
            await cache.start(0.1)

    assert "cache.url" in caught.value.detail
    assert "sesame" not in f"{caught.value!r} {caught.value.__cause__!r}"


@pytest.mark.parametrize("reply", ["OOM command not allowed", "READONLY You can't write", "BUSY script", "LOADING x"])
async def test_a_server_that_cannot_serve_now_is_unavailable(reply: str) -> None:
    def unable(words: Words, writer: asyncio.StreamWriter) -> None:
        writer.write(f"-{reply}\r\n".encode() if words[0] == b"GET" else b"+OK\r\n")

    async with standing(unable) as (_, cache, _):
        with pytest.raises(StoreUnavailable):
            await cache.part("money").get(None, "key")


async def test_another_refusal_is_our_bug() -> None:
    def wrong(words: Words, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-WRONGTYPE Operation against a key\r\n" if words[0] == b"GET" else b"+OK\r\n")

    async with standing(wrong) as (_, cache, _):
        with pytest.raises(KernelBug):
            await cache.part("money").get(None, "key")


def test_a_url_that_cannot_be_one_is_told_without_its_text() -> None:
    with pytest.raises(InvalidRequest) as caught:
        ValkeyStore("http://user:sesame@host", size=1, timeout_s=0.25, warn=Warnings())

    assert "sesame" not in str(caught.value)
    assert "rediss://" in str(caught.value)
