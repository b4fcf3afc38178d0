"""What one borrower of a connection does never reaches the next one."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import nullcontext, suppress
from uuid import uuid4

import pytest

from core_plugins.data.drivers.asyncpg_pool import Pool
from plugin_api.errors import KernelBug, KernelError, StoreUnavailable

INSERT = "insert into notes (id, body) values ($1, $2)"
# What is left until the deadline is the kernel's own statement_timeout; jit is asyncpg's, when it first meets a type.
REMAINS = """
select array(select name || '=' || case name when 'statement_timeout' then (setting::int between 1 and 20000)::text
    else setting end from pg_settings where source = 'session' and name <> 'jit' order by 1) as settings,
  array(select name from pg_prepared_statements where name not like '\\_\\_asyncpg%') as prepared,
  array(select name from pg_cursors where name <> '') as cursors,
  array(select pg_listening_channels()) as channels,
  array(select locktype from pg_locks where pid = pg_backend_pid() and locktype = 'advisory') as locks,
  array(select relname from pg_class where relpersistence = 't') as temporary,
  current_setting('role') as role, coalesce(current_setting('x.left', true), '') as placeholder, current_setting('transaction_isolation') as isolation,
  current_setting('transaction_read_only') as readonly, current_setting('transaction_deferrable') as deferrable
"""

REFUSED = [
    "set statement_timeout = 0",
    "set session characteristics as transaction read only",
    "set role pk_app",
    "set session authorization pk_app",
    "reset role",
    "prepare left as select 1",
    "declare left cursor with hold for select 1",
    "listen x",
    "discard all",
    "deallocate all",
    "create temporary table notes (id int)",
    "do $$ begin perform pg_advisory_lock(1); end $$",
    "commit",
    "rollback and chain",
]
BY_FUNCTION = [
    "select set_config('x.left', 'here', false)",
    "select set_config('statement_timeout', '0', false)",
    "select set_config('search_path', 'pg_catalog', false)",
    "select set_config('role', 'none', false)",
    "select set_config('role', 'x_acme_other', false)",
    "select set_config('pk.ctx', 'forged', false)",
    "select set_config('row_security', 'off', false)",
    "select set_config('default_transaction_read_only', 'on', false)",
    "select set_config('default_transaction_isolation', 'serializable', false)",
    "select set_config('default_transaction_deferrable', 'on', false)",
    "select set_config('statement_timeout', '1', false)",
    "select set_config('lock_timeout', '1', false)",
    "select set_config('transaction_timeout', '1', false)",
    "select set_config('idle_in_transaction_session_timeout', '1', false)",
    "select set_config('idle_session_timeout', '1', false)",
    "select pk.open_session()",
    "select set_config('client_encoding', 'LATIN1', false)",
    "select set_config('TimeZone', 'Asia/Tokyo', false)",
    "select set_config('debug_parallel_query', 'on', false)",
    "select set_config('plan_cache_mode', 'force_custom_plan', false)",
    "select pg_advisory_lock(1)",
    "select pg_advisory_lock_shared(1, 2)",
    "select pg_try_advisory_lock(1)",
    "select lo_create(4242)",
    "select lo_from_bytea(0, 'x')",
    "select query_to_xml('declare left cursor with hold for select 1', true, true, '')",
    "select query_to_xml('set role x_acme_other', true, true, '')",
    "select * into temporary notes from generate_series(1, 3)",
    "select pg_advisory_xact_lock(1)",
    "select nextval('pk.turn')",
    "select setval('pk.turn', 1)",
    "select currval('pk.turn')",
]


@pytest.fixture
async def one_connection(open_notes):
    """A pool of one connection, so that the next borrower surely gets what the former one left."""
    notes = await open_notes(pool_size=1)
    await notes.migrator.prepare("x_acme_other")
    await fresh(notes)  # asyncpg looks up types that it sees for the first time, without just-in-time compilation
    return notes


async def fresh(notes):
    """What a session looks like that nobody has used."""
    tx = await notes.begin()
    row = await tx.fetch_one(REMAINS)
    await tx.commit()
    return dict(row)


@pytest.mark.parametrize("sql", REFUSED)
async def test_a_statement_that_would_stay_in_the_session_is_refused(one_connection, sql: str) -> None:
    before = await fresh(one_connection)
    tx = await one_connection.begin()
    with pytest.raises(KernelBug, match="allowed are"):
        await tx.execute(sql)
    await tx.execute(INSERT, uuid4(), "a")
    await tx.commit()

    assert await fresh(one_connection) == before


@pytest.mark.parametrize("end", ["commit", "rollback"])
@pytest.mark.parametrize("sql", BY_FUNCTION)
async def test_what_a_function_does_to_the_session_is_over_with_the_transaction(
    one_connection, sql: str, end: str
) -> None:
    before = await fresh(one_connection)
    tx = await one_connection.begin()
    try:
        await tx.execute(sql)
    except KernelBug:
        end = "rollback"
    with suppress(StoreUnavailable) if "_timeout', '1'" in sql else nullcontext():  # the server may be quicker than we
        await getattr(tx, end)()

    assert await fresh(one_connection) == before
    tx = await one_connection.begin()
    await tx.execute(INSERT, uuid4(), "a")
    await tx.commit()


@pytest.mark.parametrize(
    "sql",
    [
        "select pg_advisory_lock(1)", "select pg_try_advisory_lock_shared(1)", "select lo_create(1)", "select lo_get(1)",
        "select pg_terminate_backend(1)", "select pg_cancel_backend(1)", "select * from pg_stat_activity",
        "select * into temporary t from generate_series(1, 3)", "select * into t from generate_series(1, 3)",
        "select setval('pk.turn', 1)", "select nextval('pk.turn')", "select pk.open_session()", "select * from pk.turn", "select * from pk.login", "select * from pk.migrations",
    ],
)  # fmt: skip
async def test_what_could_reach_other_sessions_is_not_given_to_plugins(one_connection, sql: str) -> None:
    tx = await one_connection.begin()
    with pytest.raises(KernelBug, match="42501"):
        await tx.execute(sql)
    await tx.rollback()


async def test_no_function_can_commit(one_connection) -> None:
    """Half of an operation would stay."""
    await one_connection.administrator(
        """create procedure x_acme_notes.half() language plpgsql as $$ begin
             insert into x_acme_notes.notes (id, body) values (gen_random_uuid(), 'half'); commit; end $$;
           create function x_acme_notes.whole() returns void language plpgsql as $$ begin call x_acme_notes.half(); end $$"""
    )
    tx = await one_connection.begin()
    with pytest.raises(KernelBug, match="2D000"):
        await tx.execute("select whole()")
    await tx.rollback()
    tx = await one_connection.begin()

    assert await tx.fetch("select 1 from notes") == []
    await tx.rollback()


async def test_two_plugins_share_connections_but_no_prepared_statement(one_connection, tmp_path) -> None:
    """The same text, in turn as two roles: each finds its own table."""
    table = (
        "-- phase: expand\n-- up\ncreate table notes (tenant_id uuid not null default pk.tenant_id(), id uuid not null, "
        "body int not null, primary key (tenant_id, id));\nselect pk.protect('notes');\n-- down\ndrop table notes;\n"
    )
    await one_connection.add_schema("x_acme_other", tmp_path / "other", table)
    for turn in range(3):
        for schema, body in (("x_acme_notes", f"text {turn}"), ("x_acme_other", turn)):
            tx = await one_connection.begin(schema=schema)
            await tx.execute(INSERT, uuid4(), body)
            await tx.commit()
    for schema, expected in (("x_acme_notes", ["text 0", "text 1", "text 2"]), ("x_acme_other", [0, 1, 2])):
        tx = await one_connection.begin(schema=schema)
        assert [row["body"] for row in await tx.fetch("select body from notes order by body")] == expected
        await tx.commit()


# ------------------------------------------------------------------------------ many, mixed, cut off anywhere

CANARY = "canary: belongs to another tenant"


async def test_cancelled_mixed_transactions_never_meet(open_notes) -> None:
    """Hundreds of transactions of several tenants over few connections, each cut off at a random moment: no row of another
    tenant is ever seen, what was acknowledged is there, the pool is whole in the end."""
    await _storm(await open_notes(pool_size=4), count=600, seed=random.randrange(2**32))


@pytest.mark.soak
async def test_ten_thousand_cancelled_mixed_transactions_never_meet(open_notes) -> None:
    await _storm(await open_notes(pool_size=8), count=10_000, seed=random.randrange(2**32))


async def _storm(notes, *, count: int, seed: int) -> None:
    dice = random.Random(seed)
    tenants = [uuid4() for _ in range(5)]
    canary = uuid4()
    acknowledged: dict[str, object] = {}
    seen: list[str] = []

    async def one(number: int) -> None:
        tenant = tenants[number % len(tenants)]
        mark = f"{tenant} {number}"
        tx = await notes.begin(tenant, for_s=dice.choice([0.05, 20.0, 20.0, 20.0]), generation=dice.randrange(2))
        try:
            if dice.random() < 0.2:
                await tx.execute("select set_config('pk.ctx', 'forged', false), set_config('x.left', $1, false)", mark)
                raise LookupError
            await tx.execute(INSERT, uuid4(), mark)
            rows = await tx.fetch("select tenant_id, body, current_setting('x.left', true) as left_over from notes")
            seen.extend(
                row["body"] for row in rows if row["tenant_id"] != tenant or not row["body"].startswith(str(tenant))
            )
            seen.extend(row["left_over"] for row in rows if row["left_over"])
            if dice.random() < 0.1:
                await tx.fetch("select pg_sleep(0.05)")
            if dice.random() < 0.1:
                await tx.fetch("select 1/0")
        except BaseException:
            await tx.rollback()
            raise
        await tx.commit()
        acknowledged[mark] = tenant

    async def cut_off(number: int) -> None:
        task = asyncio.create_task(one(number))
        timer = asyncio.get_running_loop().call_later(dice.expovariate(1 / 0.02), task.cancel)
        await asyncio.wait([task])
        timer.cancel()
        if (
            not task.cancelled()
            and (error := task.exception()) is not None
            and not isinstance(error, (KernelError, LookupError))
        ):
            raise error

    tx = await notes.begin(canary)
    await tx.execute(INSERT, uuid4(), CANARY)
    await tx.commit()
    numbers = iter(range(count))
    await asyncio.gather(*(_work(numbers, cut_off) for _ in range(20)))

    assert seen == [], f"seed {seed}"
    await _check_whole(notes, tenants, acknowledged, seed)


async def _work(numbers, run) -> None:
    for number in numbers:
        await run(number)


async def _check_whole(notes, tenants, acknowledged, seed: int) -> None:
    pool: Pool = notes.database._pool
    present = set()
    for tenant in tenants:
        tx = await notes.begin(tenant)
        present |= {row["body"] for row in await tx.fetch("select body from notes")}
        await tx.commit()
    assert set(acknowledged) <= present, f"seed {seed}"
    async with asyncio.timeout(5):
        while pool._burials:
            await asyncio.wait(set(pool._burials))
    figures = pool.figures()
    assert (figures["open"], figures["lent"], figures["waiting"]) == (figures["idle"], 0, 0), f"seed {seed}: {figures}"
    deadline = time.monotonic() + 5
    taken = [await pool.acquire(deadline) for _ in range(figures["size"])]
    assert not any(link.connection.is_in_transaction() for link in taken)
    for link in taken:
        pool.release(link)
    assert pool.figures()["idle"] == figures["size"]
