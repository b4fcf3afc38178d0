"""The database dies, hangs, refuses, or is cut off in the middle of a commit."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote
from uuid import UUID, uuid4

import asyncpg
import pytest

from core_plugins.data.drivers.asyncpg_errors import was_not_executed
from core_plugins.data.plugin import open_database
from core_plugins.data.settings import Settings
from plugin_api.errors import CommitUnknown, KernelBug, KernelError, StoreUnavailable
from plugin_api.testing import until

INSERT = "insert into notes (id, body) values ($1, $2)"
BACK_S = 30.0


async def bodies(notes, tenant: UUID | None = None) -> set[str]:
    tx = await notes.begin(tenant)
    found = {row["body"] for row in await tx.fetch("select body from notes")}
    await tx.commit()
    return found


async def write(notes, body: str) -> None:
    tx = await notes.begin()
    try:
        await tx.execute(INSERT, uuid4(), body)
    except BaseException:
        await tx.rollback()
        raise
    await tx.commit()


# ------------------------------------------------------------------------------------------------------ kills


async def test_every_acknowledged_write_outlives_a_kill_of_the_server(notes, postgres_pid) -> None:
    acknowledged: set[str] = set()
    unknown: set[str] = set()
    refused: set[str] = set()
    stop = asyncio.Event()

    async def writer(name: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            body = f"{name}/{number}"
            try:
                await write(notes, body)
            except StoreUnavailable as error:
                (unknown if isinstance(error, CommitUnknown) else refused).add(body)
                await asyncio.sleep(0.01)
            else:
                acknowledged.add(body)

    writers = [asyncio.create_task(writer(name)) for name in range(8)]
    await until(lambda: len(acknowledged) > 200, "they write")
    before = postgres_pid()
    os.kill(before, signal.SIGKILL)
    await until(lambda: len(refused) > 0, "they notice")
    count = len(acknowledged)
    await until(lambda: len(acknowledged) > count + 200, "they write again", limit_s=BACK_S)
    stop.set()
    await asyncio.gather(*writers)
    present = await bodies(notes)

    assert postgres_pid() != before
    assert acknowledged <= present
    assert present <= acknowledged | unknown
    assert not refused & present, "what was told to have failed for sure has not happened"


async def test_the_first_call_after_a_restart_in_a_quiet_hour_succeeds(notes, postgres_pid) -> None:
    await asyncio.gather(*(write(notes, f"before {number}") for number in range(10)))
    os.kill(before := postgres_pid(), signal.SIGKILL)
    await until(lambda: _serves_again(notes, postgres_pid, before), "it serves again", limit_s=BACK_S)

    await write(notes, "after")
    assert len(await bodies(notes)) == 11


async def _serves_again(notes, pid, before: int) -> bool:
    """Asked from outside the pool."""
    if pid() == before:
        return False
    with suppress(Exception):
        await notes.administrator("select 1")
        return True
    return False


async def test_ended_sessions_are_replaced_without_anybody_noticing(notes) -> None:
    await asyncio.gather(*(write(notes, f"{number}") for number in range(10)))
    await notes.administrator("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'pk_app'")
    await asyncio.gather(*(write(notes, f"again {number}") for number in range(10)))

    assert len(await bodies(notes)) == 20


async def test_a_session_that_does_not_know_its_role_yet_is_replaced(notes, monkeypatch) -> None:
    """A session may have read its roles while another one was granting this one; a new session reads them anew."""
    await write(notes, "before")
    pool = notes.database._pool
    acquire = pool.acquire

    async def granted_first(deadline: float):
        await notes.administrator("grant x_acme_notes to pk_app with inherit false, set true")
        return await acquire(deadline)

    await notes.administrator("revoke x_acme_notes from pk_app")
    monkeypatch.setattr(pool, "acquire", granted_first)
    await write(notes, "after")

    assert {"before", "after"} == await bodies(notes)


async def test_a_role_that_was_never_granted_is_a_bug_and_no_endless_try(notes) -> None:
    await write(notes, "before")
    await notes.administrator("revoke x_acme_notes from pk_app")
    try:
        with pytest.raises(KernelBug, match="permission denied to set role"):
            await write(notes, "after")
    finally:  # roles are those of the whole server
        await notes.administrator("grant x_acme_notes to pk_app with inherit false, set true")

    assert {"before"} == await bodies(notes)


async def test_a_session_that_is_ended_in_the_middle_undoes_its_transaction(notes) -> None:
    tx = await notes.begin()
    await tx.execute(INSERT, uuid4(), "a")
    await notes.administrator("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'pk_app'")
    with pytest.raises(StoreUnavailable) as raised:
        await tx.fetch("select 1")
    await tx.rollback()

    assert raised.value.code == "unavailable"
    assert await bodies(notes) == set()


async def test_a_refused_connection_is_told_at_once(open_notes, tmp_path) -> None:
    notes = await open_notes()
    notes.database._pool._connect = _nowhere(tmp_path)
    notes.database._pool.retire_all()
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await notes.begin()
    with pytest.raises(StoreUnavailable):
        await notes.database.ping()

    assert time.monotonic() - begun < 1
    assert notes.database._pool.figures()["open"] == 0


def _nowhere(folder: Path):
    from core_plugins.data.drivers.asyncpg_session import connector

    return connector(f"postgresql:///none?host={folder}", user="pk_app", password="x")


async def test_too_many_connections_of_others_are_an_outage_not_a_bug(notes) -> None:
    await notes.administrator("alter role pk_app connection limit 1")
    try:
        tx = await notes.begin()
        with pytest.raises(StoreUnavailable):
            await notes.begin()
        await tx.rollback()
    finally:
        await notes.administrator("alter role pk_app connection limit -1")


# --------------------------------------------------------------------------- a line that is cut at a certain byte


class Wire:
    """Carries bytes between the pool and the server, until told otherwise."""

    def __init__(self, target: str) -> None:
        self._target = target
        self.cut_before: bytes | None = None
        """Cut the line when the pool sends this, and do not hand it on."""
        self.cut_after: bytes | None = None
        """Hand this on, then cut the line before an answer."""
        self.silent = asyncio.Event()
        """Carry nothing from the server any more."""
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(self._target)
        self._writers += [writer, back]
        for work in (self._forward(reader, back, writer), self._backward(there, writer)):
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(self, reader, back, writer) -> None:
        while data := await self._read(reader):
            if self.cut_before is not None and self.cut_before in data:
                break
            back.write(data)
            if self.cut_after is not None and self.cut_after in data:
                self.silent.set()
                await back.drain()
                await asyncio.sleep(0.2)  # the answer is on its way, and nobody will see it
                break
        back.close()
        writer.close()

    async def _backward(self, there, writer) -> None:
        while data := await self._read(there):
            if not self.silent.is_set():
                writer.write(data)
        writer.close()

    async def _read(self, reader) -> bytes:
        with suppress(OSError):
            return await reader.read(65_536)
        return b""

    async def close(self) -> None:
        for writer in self._writers:
            writer.close()
        if self._tasks:
            await asyncio.wait(set(self._tasks))


@pytest.fixture
async def wired(notes, tmp_path) -> AsyncIterator[tuple]:
    """The same database through a `Wire`."""
    folder = notes.dsn.partition("host=")[2].partition("&")[0]
    wire = Wire(f"{folder}/.s.PGSQL.5432")
    server = await asyncio.start_unix_server(wire.serve, tmp_path / ".s.PGSQL.5432")
    dsn = notes.dsn.replace(folder, quote(str(tmp_path), safe="/"))
    straight, notes.database = notes.database, await open_database(dsn, notes.migrator, Settings())
    yield notes, wire
    await notes.database.close()
    server.close()
    await wire.close()
    await server.wait_closed()
    notes.database = straight


@pytest.mark.parametrize("happened", [False, True])
async def test_a_commit_without_an_answer_is_told_as_unknown(wired, happened: bool) -> None:
    notes, wire = wired
    tx = await notes.begin()
    await tx.execute(INSERT, uuid4(), "a")
    if happened:
        wire.cut_after = b"commit\0"
    else:
        wire.cut_before = b"commit\0"
    with pytest.raises(CommitUnknown) as raised:
        await tx.commit()
    wire.cut_before = wire.cut_after = None
    wire.silent.clear()

    assert (raised.value.code, raised.value.violations[0].code) == ("unavailable", "commit_unknown")
    assert await bodies(notes) == ({"a"} if happened else set())


async def test_a_commit_on_a_session_that_was_over_before_changed_nothing_for_sure(notes) -> None:
    tx = await notes.begin()
    await tx.execute(INSERT, uuid4(), "a")
    [row] = await tx.fetch(
        "select pg_backend_pid() as pid, set_config('idle_in_transaction_session_timeout', '1', false)"
    )

    async def is_gone() -> bool:
        return not await notes.administrator("select 1 from pg_stat_activity where pid = $1", row["pid"])

    await until(is_gone, "the end of the session")
    with pytest.raises(StoreUnavailable, match="nothing was changed") as raised:
        await tx.commit()

    assert not isinstance(raised.value, CommitUnknown)
    assert await bodies(notes) == set()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress"), True),
        (asyncpg.InterfaceError("connection is closed"), True),
        (asyncpg.IdleInTransactionSessionTimeoutError("terminating"), True),
        (asyncpg.InternalClientError("got result for unknown protocol state 15"), False),
        (asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"), False),
        (asyncpg.AdminShutdownError("terminating"), False),
        (ConnectionResetError("peer"), False),
    ],
    ids=str,
)
def test_what_is_known_of_a_failed_commit(error: Exception, told: bool) -> None:
    assert was_not_executed(error) is told


@pytest.mark.parametrize("cut", [b"reset all", b"insert into"])
async def test_a_line_that_is_cut_elsewhere_changes_nothing(wired, cut: bytes) -> None:
    notes, wire = wired
    await write(notes, "before")
    await notes.database._pool.acquire(time.monotonic() + 1)
    wire.cut_before = cut
    with pytest.raises(StoreUnavailable) as raised:
        await write(notes, "a")
    wire.cut_before = None

    assert raised.value.code == "unavailable"
    assert await bodies(notes) == {"before"}


async def test_a_server_that_does_not_answer_holds_nobody_past_the_deadline(wired) -> None:
    notes, wire = wired
    tx = await notes.begin(for_s=0.5)
    wire.silent.set()
    begun = time.monotonic()
    with pytest.raises(KernelError):
        await tx.execute(INSERT, uuid4(), "a")
    await tx.rollback()
    with pytest.raises(StoreUnavailable):
        await notes.begin(for_s=0.5)
    waited = time.monotonic() - begun
    wire.silent.clear()

    assert waited < 3.5
    assert await bodies(notes) == set()
