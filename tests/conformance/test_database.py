"""The promises of the port `Database`, over every driver."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import msgspec
import pytest

from plugin_api import Event
from plugin_api.errors import Conflict, DeadlinePassed, KernelBug, StoreUnavailable, Unavailable, UniqueViolation
from plugin_api.testing import until

INSERT = "insert into notes (id, body) values ($1, $2)"
BODIES = "select body from notes order by body"


async def write(notes, *bodies: str, tenant: UUID | None = None) -> None:
    tx = await notes.begin(tenant)
    for body in bodies:
        await tx.execute(INSERT, uuid4(), body)
    await tx.commit()


async def read(notes, tenant: UUID | None = None) -> list[str]:
    tx = await notes.begin(tenant)
    rows = await tx.fetch(BODIES)
    await tx.commit()
    return [row["body"] for row in rows]


# ------------------------------------------------------------------------------------------------ the ordinary


async def test_a_commit_keeps_and_a_rollback_does_not(notes) -> None:
    await write(notes, "kept")
    tx = await notes.begin()
    await tx.execute(INSERT, uuid4(), "undone")
    await tx.rollback()

    assert await read(notes) == ["kept"]


async def test_nothing_is_seen_before_the_commit(notes) -> None:
    tx = await notes.begin()
    await tx.execute(INSERT, uuid4(), "a")

    assert await read(notes) == []
    await tx.commit()
    assert await read(notes) == ["a"]


async def test_values_come_back_as_python_types(notes) -> None:
    moment = datetime(2026, 5, 4, 3, 2, 1, 987654, tzinfo=UTC)
    given = {
        "uuid": uuid4(), "timestamptz": moment, "bigint": 2**53 - 1, "text": "ü\n", "bytea": b"\0\xff", "boolean": True,
        "jsonb": {"a": [1, None, "x"]}, "json": [1.5, {"b": False}], "numeric": Decimal("1.50"), "float8": 0.1,
        "interval": timedelta(days=2), "uuid[]": [uuid4(), uuid4()], "text[]": ["a", "b"], "jsonb[]": [{"a": 1}, 2],
    }  # fmt: skip
    tx = await notes.begin()
    columns = ", ".join(f'${number}::{name} as "{name}"' for number, name in enumerate(given, 1))
    row = await tx.fetch_one(f"select {columns}", *given.values())
    await tx.commit()

    assert row is not None
    assert given == {name: row[name] for name in row.keys()}  # noqa: SIM118 - a row is no dict
    assert all(type(given[name]) is type(row[name]) for name in given)
    assert row["timestamptz"].tzinfo is not None
    assert msgspec.json.encode([row["uuid"], row["uuid[]"]])
    assert row.get("absent") is None


async def test_nulls_stay_none(notes) -> None:
    tx = await notes.begin()
    row = await tx.fetch_one("select $1::uuid u, $2::jsonb j, $3::timestamptz t, 'null'::jsonb n", None, None, None)
    await tx.commit()

    assert [row[name] for name in "ujtn"] == [None, None, None, None]


async def test_execute_counts_the_rows_it_touched(notes) -> None:
    await write(notes, "a", "b", "c")
    tx = await notes.begin()
    counts = [
        await tx.execute("update notes set version = version + 1 where body <= $1", "b"),
        await tx.execute("update notes set version = 0 where false"),
        await tx.execute(
            "insert into notes (id, body) select gen_random_uuid(), 'x' || n from generate_series(1, 4) n"
        ),
        await tx.execute("delete from notes"),
        await tx.execute("with gone as (delete from notes returning 1) select from gone"),
    ]
    await tx.commit()

    assert counts == [2, 0, 4, 7, 0]


async def test_fetch_one_takes_the_first_row_or_none(notes) -> None:
    await write(notes, "b", "a")
    tx = await notes.begin()
    first, none = await tx.fetch_one(BODIES), await tx.fetch_one("select 1 as one where false")
    returned = await tx.fetch_one(
        "insert into notes (id, body) values ($1, 'c'), ($2, 'd') returning body", uuid4(), uuid4()
    )
    await tx.commit()

    assert (first["body"], none, returned["body"]) == ("a", None, "c")
    assert await read(notes) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("sql", ["select 1; select 2", "delete from notes; select 1"])
async def test_one_statement_at_a_time(notes, sql: str) -> None:
    await write(notes, "a")
    tx = await notes.begin()
    with pytest.raises(KernelBug):
        await tx.execute(sql)
    await tx.rollback()

    assert await read(notes) == ["a"]


async def test_a_readonly_transaction_does_not_write(notes) -> None:
    await write(notes, "a")
    tx = await notes.begin(readonly=True)
    assert len(await tx.fetch(BODIES)) == 1
    with pytest.raises(KernelBug):
        await tx.execute(INSERT, uuid4(), "b")
    await tx.rollback()


async def test_a_transaction_that_has_ended_does_nothing_more(notes) -> None:
    tx = await notes.begin()
    await tx.commit()
    for use in (tx.commit(), tx.fetch("select 1"), tx.execute("select 1")):
        with pytest.raises(KernelBug, match="has ended"):
            await use
    await tx.rollback()
    await tx.rollback()


async def test_ping_answers(notes) -> None:
    await notes.database.ping()


# ---------------------------------------------------------------------------------------------------- tenants


async def test_tenants_do_not_see_one_another(notes) -> None:
    one, other, same = uuid4(), uuid4(), uuid4()
    for tenant in (one, other):
        tx = await notes.begin(tenant)
        await tx.execute(INSERT, same, f"of {tenant}")
        await tx.commit()

    assert await read(notes, one) == [f"of {one}"]
    assert await read(notes, other) == [f"of {other}"]


async def test_without_a_tenant_no_row_is_seen_and_none_is_written(notes) -> None:
    await write(notes, "a")
    for sql in (
        BODIES,
        "select count(*) from notes",
        "delete from notes",
        "insert into notes (id, body) values (gen_random_uuid(), 'b')",
    ):
        tx = await notes.database.begin("x_acme_notes", None, deadline=time.monotonic() + 5)
        with pytest.raises(KernelBug):
            await tx.fetch(sql)
        await tx.rollback()

    assert await read(notes) == ["a"]


async def test_without_a_tenant_nothing_is_emitted(notes) -> None:
    tx = await notes.database.begin("x_acme_notes", None, deadline=time.monotonic() + 5)
    with pytest.raises(KernelBug, match="belongs to a tenant"):
        tx.emit(Event(type="note.touched.v1", subject="x", data={}))
    await tx.rollback()


@pytest.mark.parametrize(
    "schema", ["pk", "public", 'x"; drop', "X_ACME", "pg_catalog", "", "x_acme_notes:owner", "none", "a" * 64]
)
async def test_a_schema_that_is_no_plugins_is_refused(notes, schema: str) -> None:
    with pytest.raises(KernelBug):
        await notes.database.begin(schema, uuid4(), deadline=time.monotonic() + 5)


async def test_a_schema_that_does_not_exist_is_told(notes) -> None:
    with pytest.raises(KernelBug, match="x_nobody"):
        await notes.database.begin("x_nobody", uuid4(), deadline=time.monotonic() + 5)
    assert await read(notes) == []


# ----------------------------------------------------------------------------------------------------- errors


async def test_a_unique_violation_names_its_constraint_and_no_value(notes) -> None:
    await write(notes, "secret-value")
    tx = await notes.begin()
    with pytest.raises(UniqueViolation) as raised:
        await tx.execute(INSERT, uuid4(), "secret-value")
    await tx.rollback()

    assert raised.value.constraint == "notes_body_key"
    assert "secret-value" not in raised.value.detail


@pytest.mark.parametrize("body", ["forbidden", None])
async def test_other_constraints_are_conflicts(notes, body: str | None) -> None:
    tx = await notes.begin()
    with pytest.raises(Conflict) as raised:
        await tx.execute(INSERT, uuid4(), body)
    await tx.rollback()

    assert not isinstance(raised.value, UniqueViolation)


@pytest.mark.parametrize(
    ("sql", "arguments"),
    [
        ("select nonsense", ()),
        ("selec", ()),
        ("select $1::int", ("no number",)),
        ("select $1::int / 0", (1,)),
        ("select 1", (2,)),
    ],
)
async def test_a_wrong_statement_is_our_bug_and_keeps_its_cause(notes, sql: str, arguments: tuple) -> None:
    tx = await notes.begin()
    with pytest.raises(KernelBug):
        await tx.fetch(sql, *arguments)
    await tx.rollback()

    assert await read(notes) == []


async def test_a_caught_failure_cannot_be_committed(notes) -> None:
    await write(notes, "a")
    tx = await notes.begin()
    await tx.execute(INSERT, uuid4(), "b")
    with pytest.raises(UniqueViolation):
        await tx.execute(INSERT, uuid4(), "a")
    with pytest.raises(KernelBug):
        await tx.commit()

    assert await read(notes) == ["a"]


async def test_a_wrong_argument_leaves_the_transaction_as_it_was(notes) -> None:
    """Nothing was sent, so what came before may still be committed."""
    tx = await notes.begin()
    await tx.execute(INSERT, uuid4(), "a")
    with pytest.raises(KernelBug):
        await tx.execute(INSERT, "no uuid", "b")
    await tx.commit()

    assert await read(notes) == ["a"]


async def test_a_deadlock_can_be_tried_again(notes) -> None:
    await write(notes, "a", "b")
    update = "update notes set version = version + 1 where body = $1"
    one, other = await notes.begin(), await notes.begin()
    await one.execute(update, "a")
    await other.execute(update, "b")
    ends = await asyncio.gather(one.execute(update, "b"), other.execute(update, "a"), return_exceptions=True)
    await one.rollback()
    await other.rollback()

    assert sorted(type(end) for end in ends if isinstance(end, Exception)) == [Unavailable]


# -------------------------------------------------------------------------------------------------- deadlines


async def test_a_statement_ends_at_the_deadline(notes) -> None:
    begun = time.monotonic()
    tx = await notes.begin(for_s=0.3)
    with pytest.raises(DeadlinePassed):
        await tx.fetch("select pg_sleep(30)")
    await tx.rollback()

    assert 0.25 < time.monotonic() - begun < 2
    assert await read(notes) == []


@pytest.mark.parametrize(("for_s", "idle_s"), [(20.0, 60), (300.0, 300)])
async def test_whoever_has_long_may_be_idle_as_long(notes, for_s: float, idle_s: int) -> None:
    """A job that works elsewhere for minutes does not lose its transaction meanwhile."""
    tx = await notes.begin(for_s=for_s)
    sql = "select setting::integer from pg_settings where name = 'idle_in_transaction_session_timeout'"
    (row,) = await tx.fetch(sql)
    await tx.rollback()

    assert idle_s * 1000 - 5_000 < row["setting"] <= idle_s * 1000 + 1


async def test_a_later_statement_ends_soon_after_the_deadline(notes) -> None:
    begun = time.monotonic()
    tx = await notes.begin(for_s=1.5)
    await tx.fetch("select pg_sleep(0.3)")
    with pytest.raises((DeadlinePassed, StoreUnavailable)):
        await tx.fetch("select pg_sleep(30)")
    await tx.rollback()

    assert 1.45 < time.monotonic() - begun < 3.6


async def test_after_the_deadline_nothing_is_begun_or_committed(notes) -> None:
    tx = await notes.begin(for_s=0.2)
    await tx.execute(INSERT, uuid4(), "late")
    await until(lambda: time.monotonic() > tx._deadline, "the deadline has passed")
    with pytest.raises(DeadlinePassed):
        await tx.fetch("select 1")
    with pytest.raises(DeadlinePassed):
        await tx.commit()
    with pytest.raises((DeadlinePassed, StoreUnavailable)):
        await notes.begin(for_s=0)

    assert await read(notes) == []


async def test_waiting_for_a_connection_ends_at_the_deadline(open_notes) -> None:
    notes = await open_notes(pool_size=2)
    held = [await notes.begin(), await notes.begin()]
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable, match="busy"):
        await notes.begin(for_s=0.2)
    waited = time.monotonic() - begun
    for tx in held:
        await tx.rollback()

    assert 0.15 < waited < 1
    assert await read(notes) == []


# ------------------------------------------------------------------------------------------------ cancellation


async def test_a_cancelled_statement_lets_go_of_its_locks_at_once(notes) -> None:
    await write(notes, "a")
    update = "update notes set version = version + 1 where body = 'a'"
    tx = await notes.begin()
    await tx.execute(update)
    task = asyncio.create_task(tx.fetch("select pg_sleep(30)"))
    await until(lambda: _is_sleeping(notes), "it sleeps")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await tx.rollback()
    begun = time.monotonic()
    other = await notes.begin()
    await other.execute(update)
    await other.commit()

    assert time.monotonic() - begun < 1


async def _is_sleeping(notes) -> bool:
    found = await notes.administrator(
        "select 1 from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()"
    )
    return bool(found)


# ------------------------------------------------------------------------------------------------- generations


async def test_a_changed_schema_meets_a_new_generation_unharmed_and_an_old_one_once(notes) -> None:
    """A prepared `select *` of before the migration cannot run after it; it is told to come again, and then can."""
    await write(notes, "a")
    for generation in (1, 1):
        tx = await notes.begin(generation=generation)
        await tx.fetch("select * from notes")
        await tx.commit()
    await notes.administrator("alter table x_acme_notes.notes add column colour text default 'red'")
    fresh = await notes.begin(generation=2)
    row = await fresh.fetch_one("select * from notes")
    await fresh.commit()
    old = await notes.begin(generation=1)
    with pytest.raises(Unavailable) as raised:
        await old.fetch("select * from notes")
    await old.rollback()
    again = await notes.begin(generation=1)
    second = await again.fetch_one("select * from notes")
    await again.commit()

    assert (row["colour"], raised.value.code, second["colour"]) == ("red", "schema_changed", "red")
