"""The promises of the port `DesiredState`, over every driver."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import asyncpg
import msgspec
import pytest

from core_plugins.data import storage
from core_plugins.data.drivers.asyncpg_desired_state import AsyncpgDesiredState
from core_plugins.data.drivers.asyncpg_migrator import AsyncpgMigrator
from core_plugins.data.plugin import BOOTSTRAP, open_database
from core_plugins.data.settings import Settings
from plugin_api.errors import (
    CommitUnknown,
    Conflict,
    InvalidRequest,
    KernelBug,
    LimitReached,
    StoreUnavailable,
    Unavailable,
)
from plugin_api.ports.desired_state import (
    CHANGES_KEPT,
    DESIRED_STATE,
    PLUGINS_MAX,
    DesiredPlugin,
    DesiredPlugins,
    PreviousVersion,
)
from plugin_api.testing import until

TABLES = ("plugin", "plugin_change")
OLDER = PreviousVersion("0.9.0", "b" * 64, "acme-crm", "acme_crm:plugin", "acme-crm<1")


def crm(plugin_id: str = "acme.crm", **given) -> DesiredPlugin:
    usual = {
        "version": "1.0.0",
        "digest": "a" * 64,
        "distribution": "acme-crm",
        "target": "acme_crm:plugin",
        "requirement": "acme-crm>=1",
    }
    return DesiredPlugin(plugin_id, **{**usual, **given})


def as_given(plugin: DesiredPlugin) -> DesiredPlugin:
    """A plugin without what the database adds to it."""
    return msgspec.structs.replace(plugin, changed_at=None, sequence=0)


@pytest.fixture
def desired(notes) -> AsyncpgDesiredState:
    """The desired state of a database of its own."""
    return AsyncpgDesiredState(notes.dsn)


async def rows_of(notes) -> list[tuple]:
    """Everything that the tables hold."""
    return [
        tuple(row)
        for table in TABLES
        for row in await notes.administrator(f"select t.*, t.xmin::text from pk.{table} t order by 1")
    ]


# ------------------------------------------------------------------------------------------------ the ordinary


async def test_at_first_there_is_nothing(desired) -> None:
    assert await desired.read() == DesiredPlugins(0, "", ())


async def test_every_field_comes_back(notes, desired) -> None:
    given = [
        crm("acme.crm", version="1.0.0-rc.1+b", enabled=False, previous=OLDER),
        crm("acme.a1.b", requirement="", distribution="A", target="à.b_1:c.d"),
        crm("acme.here", digest="", leaving="export"),
        crm("acme.wide", requirement="acme-crm @ https://example.org/ü (x) ; python_version > '3'"),
    ]
    before = datetime.now(UTC)

    assert await desired.change("one", 0, given) == 1
    found = await desired.read()
    [(now,)] = await notes.administrator("select now()")

    assert (found.sequence, found.change_id) == (1, "one")
    assert [as_given(plugin) for plugin in found.plugins] == sorted(given, key=lambda plugin: plugin.id)
    assert {plugin.sequence for plugin in found.plugins} == {1}
    assert all(before <= plugin.changed_at <= now for plugin in found.plugins)


async def test_what_the_database_adds_is_not_taken_from_the_caller(desired) -> None:
    await desired.change("one", 0, [crm(changed_at=datetime(2001, 1, 1, tzinfo=UTC), sequence=99)])
    [plugin] = (await desired.read()).plugins

    assert plugin.sequence == 1
    assert plugin.changed_at.year > 2001


async def test_plugins_are_sorted_byte_by_byte(desired) -> None:
    ids = ["a.b", "a.b.c", "a.b1", "a1.b", "ab.a", "b.a"]
    await desired.change("one", 0, [crm(name) for name in reversed(ids)])

    assert [plugin.id for plugin in (await desired.read()).plugins] == sorted(ids)


async def test_a_put_replaces_whole_and_leaves_the_others(desired) -> None:
    await desired.change("one", 0, [crm("acme.a", previous=OLDER), crm("acme.b"), crm("acme.c")])
    newer = crm("acme.a", version="2.0.0", digest="c" * 64, enabled=False, leaving="purge")
    await desired.change("two", 1, [newer, crm("acme.d")], ["acme.c", "acme.absent"])
    found = await desired.read()

    assert (found.sequence, found.change_id) == (2, "two")
    assert [(plugin.id, plugin.sequence) for plugin in found.plugins] == [("acme.a", 2), ("acme.b", 1), ("acme.d", 2)]
    assert as_given(found.plugins[0]) == newer
    assert found.plugins[0].changed_at > found.plugins[1].changed_at


async def test_a_dropped_plugin_can_come_back(desired) -> None:
    await desired.change("one", 0, [crm(previous=OLDER)])
    await desired.change("two", 1, drop=["acme.crm"])
    assert await desired.read() == DesiredPlugins(2, "two", ())
    await desired.change("three", 2, [crm()])

    assert [as_given(plugin) for plugin in (await desired.read()).plugins] == [crm()]


# ---------------------------------------------------------------------------------- repeated, late, at the same time


async def test_a_repeated_change_answers_the_same_and_changes_nothing(notes, desired) -> None:
    assert await desired.change("one", 0, [crm()]) == 1
    before = await rows_of(notes)

    assert [await desired.change("one", 0, [crm()]) for _ in range(3)] == [1, 1, 1]
    assert await rows_of(notes) == before


async def test_a_change_that_was_done_is_not_called_a_conflict_when_another_followed(notes, desired) -> None:
    await desired.change("one", 0, [crm()])
    await desired.change("two", 1, drop=["acme.crm"])
    before = await rows_of(notes)

    assert await desired.change("one", 0, [crm()]) == 1
    assert await rows_of(notes) == before


@pytest.mark.parametrize("expected", [-1, 0, 2, 2**70])
async def test_a_change_of_another_state_is_refused(notes, desired, expected: int) -> None:
    await desired.change("one", 0, [crm()])
    before = await rows_of(notes)
    with pytest.raises(Conflict, match=f"number {expected} as the last, it is 1") as raised:
        await desired.change("two", expected, [crm(version="2.0.0")], ["acme.b"])

    assert raised.value.code == "plugins_changed"
    assert await rows_of(notes) == before


async def test_of_changes_at_the_same_time_exactly_one_wins(notes, desired) -> None:
    for expected in range(5):
        versions = [f"{expected}.{number}.0" for number in range(8)]
        ends = await asyncio.gather(
            *(desired.change(version, expected, [crm(version=version)]) for version in versions),
            return_exceptions=True,
        )
        won = [version for version, end in zip(versions, ends, strict=True) if end == expected + 1]
        lost = [end.code for end in ends if isinstance(end, Conflict)]
        found = await desired.read()

        assert (len(won), lost) == (1, ["plugins_changed"] * 7)
        assert (found.sequence, found.change_id) == (expected + 1, won[0])
        assert [plugin.version for plugin in found.plugins] == won


async def test_one_change_sent_many_times_at_once_happens_once(notes, desired) -> None:
    ends = await asyncio.gather(*(desired.change("one", 0, [crm()]) for _ in range(8)))

    assert ends == [1] * 8
    assert [row["sequence"] for row in await notes.administrator("select sequence from pk.plugin_change")] == [0, 1]


async def test_a_reader_sees_one_change_whole(desired) -> None:
    """Number and plugins are of one moment, while changes go on."""
    await desired.change("0", 0, [crm("acme.a"), crm("acme.b")])

    async def write() -> None:
        for sequence in range(1, 15):
            version = f"{sequence + 1}.0.0"
            await desired.change(
                str(sequence), sequence, [crm("acme.a", version=version), crm("acme.b", version=version)]
            )

    writing = asyncio.create_task(write())
    seen = []
    while not writing.done():
        seen.append(await desired.read())
    await writing

    assert len({found.sequence for found in seen}) > 1
    for found in seen:
        assert {plugin.sequence for plugin in found.plugins} == {found.sequence}


async def test_the_last_changes_are_kept_for_operators(notes, desired) -> None:
    await desired.change("first", 0, [crm(enabled=False), crm("acme.b")], ["acme.c"])
    [told] = await notes.administrator("select put, dropped from pk.plugin_change where sequence = 1")
    await notes.administrator(
        "insert into pk.plugin_change (sequence, change_id, put, dropped)"
        f" select n, 'filled ' || n, '{{}}', '{{}}' from generate_series(2, {CHANGES_KEPT}) n".replace(
            "filled ", "filled-"
        )
    )
    await desired.change("last", CHANGES_KEPT)
    kept = [row["sequence"] for row in await notes.administrator("select sequence from pk.plugin_change order by 1")]

    assert (told["put"], told["dropped"]) == (["acme.crm 1.0.0 disabled", "acme.b 1.0.0"], ["acme.c"])
    assert kept == list(range(2, CHANGES_KEPT + 2))
    with pytest.raises(Conflict):
        await desired.change("first", 0, [crm()])


# ------------------------------------------------------------------------------------------------------- bounds

WRONG = [
    ("id", "kernel.iam"),
    ("id", "acme"),
    ("id", "Acme.crm"),
    ("id", "acme.crm\n"),
    ("id", "a." + "b" * 59),
    ("version", ""),
    ("version", "1 0"),
    ("version", "1" * 101),
    ("digest", "A" * 64),
    ("digest", "a" * 63),
    ("distribution", "acme/crm"),
    ("leaving", "burn"),
    ("distribution", "a" * 201),
    ("target", "acme_crm"),
    ("target", "acme_crm:a:b"),
    ("target", "a:" + "b" * 399),
    ("requirement", "a\nb"),
    ("requirement", "a" * 2_001),
]
LONGEST = crm(
    "a." + "b" * 58,
    version="1" * 100,
    distribution="a" * 200,
    target="a:" + "b" * 398,
    requirement="ü" * 2_000,
    previous=PreviousVersion("1" * 100, "f" * 64, "a" * 200, "a:" + "b" * 398, "ü" * 2_000),
)


NOWHERE = AsyncpgDesiredState("postgresql:///none?host=/nowhere")
"""What is refused by it was refused before anything was sent."""


@pytest.mark.parametrize(
    ("field", "value"), [*WRONG, ("requirement", "a\0b"), ("requirement", "\ud800"), ("enabled", "no")]
)
async def test_a_text_out_of_bounds_is_named(field: str, value: str) -> None:
    with pytest.raises(InvalidRequest, match="expected") as raised:
        await NOWHERE.change("one", 0, [crm("acme.other"), msgspec.structs.replace(crm(), **{field: value})])

    assert [violation.pointer for violation in raised.value.violations] == [f"/put/1/{field}"]
    assert raised.value.violations[0].detail in raised.value.detail


async def test_a_refusal_does_not_tell_the_text() -> None:
    with pytest.raises(InvalidRequest) as raised:
        await NOWHERE.change("one", 0, [crm(requirement="acme-crm @ https://me:password@example.org\n")])

    assert "password" not in raised.value.detail


async def test_all_that_is_wrong_is_listed() -> None:
    wrong = crm(version="", previous=msgspec.structs.replace(OLDER, digest="x"))
    with pytest.raises(InvalidRequest) as raised:
        await NOWHERE.change("a b", 0, [wrong, crm()], ["acme.b", "kernel.data"])

    assert {(violation.pointer, violation.code) for violation in raised.value.violations} == {
        ("/change_id", "invalid"),
        ("/put/0/version", "invalid"),
        ("/put/0/previous/digest", "invalid"),
        ("/drop/1", "invalid"),
        ("/put", "duplicate_item"),
    }


async def test_a_plugin_cannot_be_put_and_dropped_at_once() -> None:
    with pytest.raises(InvalidRequest, match="acme.crm stands 2 times"):
        await NOWHERE.change("one", 0, [crm()], ["acme.crm"])


async def test_the_longest_texts_are_kept(desired) -> None:
    await desired.change("x" * 100, 0, [LONGEST])
    found = await desired.read()

    assert found.change_id == "x" * 100
    assert [as_given(plugin) for plugin in found.plugins] == [LONGEST]


async def test_the_tables_hold_to_the_same_bounds(notes, desired) -> None:
    await desired.change("one", 0, [crm(previous=OLDER)])
    before = await rows_of(notes)
    for field, value in WRONG:
        for column in [field] if field in ("id", "leaving") else [field, f"previous_{field}"]:
            with pytest.raises(asyncpg.CheckViolationError):
                await notes.administrator(f"update pk.plugin set {column} = $1 returning 1", value)

    assert await rows_of(notes) == before


async def test_a_previous_version_is_there_whole_or_not_at_all(notes, desired) -> None:
    await desired.change("one", 0, [crm(previous=OLDER)])
    with pytest.raises(asyncpg.CheckViolationError, match="plugin_previous"):
        await notes.administrator("update pk.plugin set previous_digest = null")


async def test_there_are_at_most_so_many_plugins(notes, desired) -> None:
    many = [crm(f"acme.n{number}", previous=OLDER) for number in range(PLUGINS_MAX)]
    with pytest.raises(InvalidRequest, match=f"at most {PLUGINS_MAX}"):
        await desired.change("one", 0, [*many, crm()])
    await desired.change("one", 0, many)
    before = await rows_of(notes)
    with pytest.raises(LimitReached, match=f"at most {PLUGINS_MAX} plugins, there would be {PLUGINS_MAX + 1}"):
        await desired.change("two", 1, [crm()])

    assert await rows_of(notes) == before
    assert await desired.change("two", 1, [crm()], ["acme.n0"]) == 2
    assert len((await desired.read()).plugins) == PLUGINS_MAX


# ------------------------------------------------------------------------------------------------------- outages


async def waiting(notes, for_what: str = "relation") -> int | None:
    """The process of the server that waits for a lock, or sleeps; None while there is none."""
    rows = await notes.administrator(
        "select pid from pg_stat_activity where wait_event = $1 and datname = current_database()", for_what
    )
    return rows[0]["pid"] if rows else None


async def kill(notes, *, for_what: str) -> None:
    await until(lambda: waiting(notes, for_what), f"a session waits: {for_what}")
    await notes.administrator("select pg_terminate_backend($1)", await waiting(notes, for_what))


async def test_a_session_that_is_killed_in_the_middle_changes_nothing(notes, desired) -> None:
    await desired.change("one", 0, [crm("acme.a"), crm("acme.b")])
    before = await rows_of(notes)
    blocker = await asyncpg.connect(notes.dsn)
    try:
        # The change has recorded itself, and waits before the plugins are touched.
        await blocker.execute("begin; lock table pk.plugin in share mode")
        change = asyncio.create_task(desired.change("two", 1, [crm("acme.a", version="2.0.0")], ["acme.b"]))
        await kill(notes, for_what="relation")
        with pytest.raises(StoreUnavailable) as raised:
            await change
    finally:
        await blocker.close()

    assert not isinstance(raised.value, CommitUnknown)
    assert await rows_of(notes) == before
    assert await desired.change("two", 1, [crm("acme.a", version="2.0.0")], ["acme.b"]) == 2
    assert [plugin.version for plugin in (await desired.read()).plugins] == ["2.0.0"]


SLEEPY_COMMIT = """
create function pk.slow() returns trigger language plpgsql as 'begin perform pg_sleep(60); return null; end';
create constraint trigger slow after insert on pk.plugin_change deferrable initially deferred
  for each row execute function pk.slow();
"""


async def test_a_session_that_is_killed_in_its_commit_is_told_as_unknown(notes) -> None:
    desired = AsyncpgDesiredState(notes.dsn, statement_timeout_ms=60_000)
    await notes.administrator(SLEEPY_COMMIT)
    before = await rows_of(notes)
    change = asyncio.create_task(desired.change("one", 0, [crm()]))
    await kill(notes, for_what="PgSleep")
    with pytest.raises(CommitUnknown, match="same change id"):
        await change
    await notes.administrator("drop trigger slow on pk.plugin_change")

    assert await rows_of(notes) == before
    assert await desired.change("one", 0, [crm()]) == 1


@pytest.fixture
async def deaf(notes, tmp_path) -> AsyncIterator[tuple[AsyncpgDesiredState, asyncio.Event]]:
    """The same desired state over a line that hands a commit on and is cut before its answer, unless the event is set."""
    folder = notes.dsn.partition("host=")[2].partition("&")[0]
    mended = asyncio.Event()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.5432")
        lost = asyncio.Event()
        ways = (forward(reader, back, lost), backward(there, writer, lost))
        tasks.update(asyncio.create_task(way) for way in ways)

    async def forward(reader, back, lost) -> None:
        while data := await reader.read(65_536):
            if b"commit\0" in data and not mended.is_set():
                lost.set()
            back.write(data)
        back.close()

    async def backward(there, writer, lost) -> None:
        while data := await there.read(65_536):
            if lost.is_set():
                break  # the server has answered, so it is done; nobody will hear of it
            writer.write(data)
        writer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / ".s.PGSQL.5432")
    yield AsyncpgDesiredState(notes.dsn.replace(folder, quote(str(tmp_path), safe="/"))), mended
    server.close()
    await asyncio.gather(*tasks)
    await server.wait_closed()


async def test_a_change_whose_answer_was_lost_is_done_once(notes, desired, deaf) -> None:
    over_wire, mended = deaf
    with pytest.raises(CommitUnknown):
        await over_wire.change("one", 0, [crm()])
    done = await rows_of(notes)
    mended.set()

    assert await over_wire.change("one", 0, [crm()]) == 1
    assert await rows_of(notes) == done
    assert (await desired.read()).change_id == "one"


async def test_a_lock_that_others_hold_is_waited_for_only_so_long(notes) -> None:
    desired = AsyncpgDesiredState(notes.dsn, lock_timeout_ms=50)
    blocker = await asyncpg.connect(notes.dsn)
    try:
        await blocker.execute("begin; lock table pk.plugin_change in share row exclusive mode")
        with pytest.raises(Unavailable, match="in the way"):
            await desired.change("one", 0, [crm()])
        assert (await desired.read()).sequence == 0
    finally:
        await blocker.close()

    assert await desired.change("one", 0, [crm()]) == 1


async def test_a_worker_that_stops_in_a_change_does_not_keep_the_others_out(notes, desired) -> None:
    stopped = AsyncpgDesiredState(notes.dsn, transaction_timeout_ms=200)
    async with stopped._connected() as connection:
        await connection.execute(stopped._begin)
        await connection.execute(storage.LOCK_PLUGINS)

        assert await desired.change("one", 0, [crm()]) == 1


async def test_a_change_that_is_cancelled_while_it_waits_changes_nothing(notes, desired) -> None:
    blocker = await asyncpg.connect(notes.dsn)
    try:
        await blocker.execute("begin; lock table pk.plugin_change in share row exclusive mode")
        change = asyncio.create_task(desired.change("one", 0, [crm()]))
        await until(lambda: waiting(notes), "it waits")
        change.cancel()
        with pytest.raises(asyncio.CancelledError):
            await change
    finally:
        await blocker.close()

    assert await desired.change("two", 0, [crm()]) == 1


async def test_a_server_that_is_too_slow_is_an_outage(notes) -> None:
    desired = AsyncpgDesiredState(notes.dsn, statement_timeout_ms=50)
    blocker = await asyncpg.connect(notes.dsn)
    try:
        await blocker.execute("begin; lock table pk.plugin in access exclusive mode")
        with pytest.raises(StoreUnavailable, match="did not answer"):
            await desired.read()
    finally:
        await blocker.close()


async def test_a_database_that_is_away_is_an_outage(tmp_path: Path) -> None:
    desired = AsyncpgDesiredState(f"postgresql:///none?host={tmp_path}")
    for call in (desired.read(), desired.change("one", 0, [crm()])):
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await call


async def test_no_connection_stays_open(notes, desired) -> None:
    await desired.change("one", 0, [crm()])
    await desired.read()
    with pytest.raises(Conflict):
        await desired.change("two", 0, [crm()])

    async def are_gone() -> bool:
        rows = await notes.administrator(
            "select 1 from pg_stat_activity where usename = 'kernel' and datname = current_database()"
            " and pid <> pg_backend_pid()"
        )
        return not rows

    await until(are_gone, "the administrator's sessions have ended")


# -------------------------------------------------------------------------------------------- who may, and upgrades


@pytest.mark.parametrize(
    "sql", ["select 1 from pk.{}", "delete from pk.{}", "insert into pk.{} default values", "lock pk.{}"]
)
async def test_a_plugins_role_cannot_reach_the_tables(notes, desired, sql: str) -> None:
    await desired.change("one", 0, [crm()])
    before = await rows_of(notes)
    for table in TABLES:
        tx = await notes.begin()
        with pytest.raises(KernelBug, match="permission denied"):
            await tx.execute(sql.format(table))
        await tx.rollback()

    assert await rows_of(notes) == before


async def test_nobody_but_the_administrator_is_granted_anything(notes) -> None:
    granted = await notes.administrator(
        "select c.relname from pg_class c cross join aclexplode(c.relacl) g"
        " where c.relname like 'plugin%' and c.relnamespace = 'pk'::regnamespace and g.grantee <> c.relowner"
        " union all select t.typname from pg_type t"
        " where t.typname like 'plugin\\_%' and t.typtype = 'd' and has_type_privilege('x_acme_notes', t.oid, 'usage')"
    )
    domains = await notes.administrator("select 1 from pg_type where typname like 'plugin\\_%' and typtype = 'd'")

    assert [] == granted
    assert len(domains) == 5


async def test_a_database_of_before_is_brought_up_to_date(make_database, tmp_path: Path) -> None:
    folder = tmp_path / "bootstrap"
    folder.mkdir()
    shutil.copy(BOOTSTRAP / "0001_kernel.sql", folder)
    dsn = await make_database()
    migrator = AsyncpgMigrator(dsn, kernel_version="test", lock_timeout_ms=3_000, statement_timeout_s=30)
    desired = AsyncpgDesiredState(dsn)
    before = await migrator.bootstrap(folder)
    with pytest.raises(KernelBug, match="plugin"):
        await desired.read()
    opened = await asyncio.gather(*(open_database(dsn, migrator, Settings(pool_size=1)) for _ in range(4)))
    for database in opened:
        await database.close()

    assert await migrator.bootstrap(BOOTSTRAP) == before
    files = sorted(int(file.name[:4]) for file in BOOTSTRAP.glob("*.sql"))
    assert [applied.number for applied in await migrator.applied("pk")] == files
    assert await desired.read() == DesiredPlugins(0, "", ())
    assert await desired.change("one", 0, [crm()]) == 1


async def test_the_kernels_plugin_provides_it(open_kernel, make_database) -> None:
    dsn = await make_database()
    kernel = await open_kernel(["data"], {"postgres": dsn})
    desired = kernel.table.services[DESIRED_STATE.name].implementation
    name = uuid4().hex

    assert await desired.change(name, 0, [crm()]) == 1
    assert (await AsyncpgDesiredState(dsn).read()).change_id == name
