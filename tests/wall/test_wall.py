"""The tenant wall: everything that a plugin's role might try, and the proof that each layer is needed.

`leaks` runs every attack as the role of the plugin `acme.notes` in the tenant of Alice, after Bob has stored a canary. It
must come back empty; with any one layer removed it must not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from plugin_api.errors import KernelError, UniqueViolation

CANARY = "canary-of-bob"
SCHEMA, OTHER = "x_acme_notes", "x_acme_other"
TABLE, VIEW = f"{SCHEMA}.notes", f"{SCHEMA}.note_bodies"
OTHER_TABLE = """-- phase: expand
-- up
create table ledger (
  tenant_id uuid not null default pk.tenant_id(), id uuid not null, body text not null, primary key (tenant_id, id));
select pk.protect('ledger');
-- down
drop table ledger;
"""
WITH_VIEW = """-- phase: expand
-- up
create view note_bodies with (security_invoker = true) as select tenant_id, body from notes;
grant select on note_bodies to x_acme_notes;
-- down
drop view note_bodies;
"""


@dataclass
class Scene:
    """Alice and Bob in one database, two plugins."""

    opened: Any
    alice: UUID
    bob: UUID
    bobs_note: UUID
    bobs_context: str


@pytest.fixture
async def scene(open_notes: Callable[..., Awaitable[Any]], tmp_path: Path) -> AsyncIterator[Scene]:
    """Alice and Bob with a note each; Bob's context was overheard, on the very connection that Alice will use."""
    opened = await open_notes(pool_size=1)
    await opened.administrator(f'set role "{await owner_of(opened)}"; set search_path = {SCHEMA}, pk; {up(WITH_VIEW)}')
    await opened.add_schema(OTHER, tmp_path / "other", OTHER_TABLE)
    alice, bob, bobs_note = uuid4(), uuid4(), uuid4()
    for tenant, body in ((alice, "note of alice"), (bob, CANARY)):
        tx = await opened.begin(tenant)
        await tx.execute("insert into notes (id, body) values ($1, $2)", bobs_note if tenant == bob else uuid4(), body)
        await tx.commit()
        tx = await opened.begin(tenant, schema=OTHER)
        await tx.execute("insert into ledger (id, body) values ($1, $2)", uuid4(), CANARY)
        await tx.commit()
    tx = await opened.begin(bob)
    context = (await tx.fetch("select current_setting('pk.ctx') as it"))[0]["it"]
    await tx.rollback()
    await opened.administrator(f"analyze {TABLE}")
    yield Scene(opened, alice, bob, bobs_note, context)
    # Roles belong to the whole cluster, and outlive this test's database.
    await opened.administrator(f"alter role {SCHEMA} nobypassrls; revoke {OTHER} from {SCHEMA}")


async def owner_of(opened: Any) -> str:
    rows = await opened.administrator(
        f"select pg_get_userbyid(nspowner) as it from pg_namespace where nspname = '{SCHEMA}'"
    )
    return str(rows[0]["it"])


def up(migration: str) -> str:
    return migration.split("-- up")[1].split("-- down", maxsplit=1)[0]


# ------------------------------------------------------------------------------------------------ attacks

ATTACKS: dict[str, Sequence[str]] = {
    "read everything": ["select * from notes"],
    "or true": ["select * from notes where id is null or true"],
    "count": ["select body from notes order by body limit 10"],
    "a leaky cast": ["select body::integer from notes"],
    "as one document": ["select json_agg(n)::text as it from notes n"],
    "by a query in text": [
        "select ts_stat.word from ts_stat('select to_tsvector(body) from x_acme_notes.notes') ts_stat"
    ],
    "through the view": ["select * from note_bodies"],
    "row security off": ["select set_config('row_security', 'off', true)", "select * from notes"],
    "no context": ["select set_config('pk.ctx', '', true)", "select * from notes"],
    "a context with another tenant": [
        "select set_config('pk.ctx', replace(current_setting('pk.ctx'), '{alice}', '{bob}'), true)",
        "select * from notes",
    ],
    "an overheard context": ["select set_config('pk.ctx', '{overheard}', true)", "select * from notes"],
    "the other plugin's role": ["select set_config('role', '{other}', true)", "select * from {other}.ledger"],
    "the other plugin's table": ["select * from {other}.ledger"],
    "no role": ["select set_config('role', 'none', true)", "select * from {schema}.notes"],
    "the owner's role": ["select set_config('role', '{owner}', true)", "select * from {schema}.notes"],
    "the administrator's role": ["select set_config('role', 'kernel', true)", "select * from {schema}.notes"],
    "statistics": ["select histogram_bounds::text, most_common_vals::text from pg_stats where tablename = 'notes'"],
    "statistics behind the view": ["select stavalues1::text from pg_statistic"],
    "the keys": ["select encode(inner_pad, 'hex') || '{canary}' as it from pk.context_key"],
    "a server file": ["select pg_read_file('PG_VERSION') || '{canary}' as it"],
    "a program": ["copy (select 1) to program 'cat'", "select '{canary}' as it"],
    "another database": ["select dblink('', 'select 1')::text || '{canary}' as it"],
    "disable the policy": ["alter table notes disable row level security", "select * from notes"],
    "a policy of my own": ["create policy mine on notes using (true)", "select * from notes"],
    "a shadow": ["create temporary table notes (body text)", "select '{canary}' as it"],
    "a function of my own": [
        "create function {schema}.mine() returns int language sql as 'select 1'",
        "select '{canary}' as it",
    ],
    "into another tenant": ["insert into notes (tenant_id, id, body) values ('{bob}', gen_random_uuid(), 'planted')"],
    "move to another tenant": ["update notes set tenant_id = '{bob}', body = 'planted'"],
    "change everything": ["update notes set body = body || ' planted'"],
    "delete everything": ["delete from notes"],
    "truncate": ["truncate notes"],
}


async def attempt(scene: Scene, statements: Sequence[str]) -> str:
    """Run statements as Alice and commit; everything that came back, errors included, as one text."""
    names = {
        "alice": scene.alice.hex, "bob": scene.bob.hex, "overheard": scene.bobs_context, "schema": SCHEMA, "other": OTHER,
        "owner": await owner_of(scene.opened), "canary": CANARY,
    }  # fmt: skip
    tx = await scene.opened.begin(scene.alice)
    seen: list[str] = []
    try:
        for statement in statements:
            seen += [str(dict(row)) for row in await tx.fetch(statement.format(**names))]
        await tx.commit()
    except KernelError as error:
        await tx.rollback()
        seen += [str(error), repr(error.__cause__)]
    return "\n".join(seen)


async def tells_of_foreign_ids(scene: Scene) -> bool:
    """Whether Alice can find out that Bob has a note with this id, by trying to use it herself."""
    tx = await scene.opened.begin(scene.alice)
    try:
        await tx.execute("insert into notes (id, body) values ($1, $2)", scene.bobs_note, f"probe {uuid4()}")
    except UniqueViolation:
        return True
    finally:
        await tx.rollback()
    return False


async def catalog_faults(scene: Scene) -> list[str]:
    """What the catalog says is missing, where no attack of a plugin's role can show it."""
    rows = await scene.opened.administrator(
        """select c.relname || ': row security is not forced' as fault from pg_class c
             join pg_namespace n on n.oid = c.relnamespace
            where n.nspname like 'x\\_%' and c.relkind in ('r', 'p') and not (c.relrowsecurity and c.relforcerowsecurity)
           union all select rolname || ': may bypass row security' from pg_roles
            where (rolbypassrls or rolsuper) and rolname <> 'kernel' and rolname !~ '^pg_'
           union all select m.rolname || ': is a member of more than the log-in needs' from pg_auth_members a
             join pg_roles m on m.oid = a.member where m.rolname like 'x\\_%'
           union all select c.relname || ': belongs to the plugin itself' from pg_class c
             join pg_namespace n on n.oid = c.relnamespace
            where n.nspname like 'x\\_%' and pg_get_userbyid(c.relowner) = n.nspname
           union all select rolname || ': may make temporary tables' from pg_roles
            where rolname like 'x\\_%' and has_database_privilege(rolname, current_database(), 'TEMP')"""
    )
    return [str(row["fault"]) for row in rows]


async def leaks(scene: Scene) -> list[str]:
    """Every attack that told or changed something of Bob's."""
    found = [name for name, statements in ATTACKS.items() if CANARY in await attempt(scene, statements)]
    bobs = await scene.opened.administrator(f"select body from {TABLE} where tenant_id = $1", scene.bob)
    if [row["body"] for row in bobs] != [CANARY]:
        found.append("Bob's notes have changed")
    if await tells_of_foreign_ids(scene):
        found.append("a foreign id is told")
    return found + await catalog_faults(scene)


async def test_no_attack_leaks(scene: Scene) -> None:
    assert [] == await leaks(scene)


async def test_the_attacks_do_reach_the_database(scene: Scene) -> None:
    """What Alice may see, they see: an empty result would prove nothing if they never ran."""
    assert "note of alice" in await attempt(scene, ATTACKS["read everything"])
    assert "note of alice" in await attempt(scene, ATTACKS["through the view"])
    assert "note of alice" in await attempt(scene, ATTACKS["as one document"])


# ------------------------------------------------------------------------------- each layer, removed in turn


async def without(scene: Scene, part: str) -> None:
    """Cut a line out of `pk.tenant_id()`."""
    rows = await scene.opened.administrator("select pg_get_functiondef('pk.tenant_id()'::regprocedure) as it")
    definition = str(rows[0]["it"])
    assert part in definition
    await scene.opened.administrator(definition.replace(part, "true"))


MAC = """sha256(decode(left(context, 64), 'hex'))
       = sha256(sha256(k.outer_pad || sha256(k.inner_pad || convert_to(substr(context, 65), 'UTF8'))))"""
LAYERS: dict[str, Callable[[Scene], Awaitable[Any]]] = {
    "row level security": lambda s: s.opened.administrator(f"alter table {TABLE} disable row level security"),
    "forced for the owner": lambda s: s.opened.administrator(f"alter table {TABLE} no force row level security"),
    "the tenant policy": lambda s: s.opened.administrator(
        f"drop policy tenant on {TABLE}; create policy tenant on {TABLE} using (true) with check (true)"
    ),
    "the policy's check of writes": lambda s: s.opened.administrator(
        f"drop policy tenant on {TABLE};"
        f"create policy tenant on {TABLE} using (tenant_id = (select pk.tenant_id())) with check (true)"
    ),
    "a role without BYPASSRLS": lambda s: s.opened.administrator(f"alter role {SCHEMA} bypassrls"),
    "the context's mac": lambda s: without(s, MAC),
    "the context's transaction": lambda s: without(s, "substr(context, 71, 19)::bigint = currval('pk.turn')"),
    "the context's role": lambda s: without(s, "substr(context, 132) = current_setting('role')"),
    "security_invoker": lambda s: s.opened.administrator(f"alter view {VIEW} set (security_invoker = false)"),
    "tenant_id in the primary key": lambda s: s.opened.administrator(
        f"alter table {TABLE} drop constraint notes_pkey; alter table {TABLE} add primary key (id)"
    ),
    "one role for each plugin": lambda s: s.opened.administrator(f"grant {OTHER} to {SCHEMA}"),
    "keys for nobody": lambda s: s.opened.administrator(
        f"grant usage on schema pk to {SCHEMA}; grant select on pk.context_key to {SCHEMA}"
    ),
    "an owner that nobody becomes": lambda s: hand_over(s),
    "no temporary tables": lambda s: s.opened.administrator(
        f"do $$ begin execute format('grant temporary on database %I to {SCHEMA}', current_database()); end $$"
    ),
}


async def hand_over(scene: Scene) -> None:
    await scene.opened.administrator(f"alter table {TABLE} owner to {SCHEMA}")


@pytest.mark.parametrize("layer", LAYERS)
async def test_without_a_layer_something_leaks(scene: Scene, layer: str) -> None:
    await LAYERS[layer](scene)

    assert await leaks(scene), f"nothing noticed that {layer} is missing"
