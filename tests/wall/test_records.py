"""Records behind the tenant wall: nobody reads, forges, changes or deletes them but as their functions allow, and each of
those needs its condition."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from plugin_api.errors import KernelError
from plugin_api.testing import until

ROLE, PLUGIN = "x_acme_notes", "acme.notes"
CANARY = "canary-of-bob"
NOTHING = "-- phase: expand\n-- up\nselect 1;\n-- down\nselect 1;\n"
READ = "select * from pk.records(null, null, null, null, null, null, null, 100)"
RECORD = "select pk.record('{id}', 'acme.notes.note', '{actor}', '', null, '/notes', 'r-1', '')"
RECORD_FOR = (
    "select pk.record_for('{plugin}', '{outcome}', '{id}', '{plugin}.note', 'user:eve', '', null, '/', 'r-1', '')"
)


@dataclass
class Scene:
    """A record of Alice's and one of Bob's, and what it takes to act as a role in a tenant."""

    opened: Any
    alice: UUID
    bob: UUID

    async def run(self, role: str, tenant: UUID, *statements: str) -> list[dict[str, Any]]:
        """Run statements as a role in a tenant, and commit; the rows of all."""
        tx = await self.opened.begin(tenant, schema=role)
        try:
            found = [dict(row) for statement in statements for row in await tx.fetch(statement)]
        except BaseException:
            await tx.rollback()
            raise
        await tx.commit()
        return found

    async def attempt(self, role: str, tenant: UUID, *statements: str) -> str:
        """Everything that came back, errors included, as one text."""
        try:
            return str(await self.run(role, tenant, *statements))
        except KernelError as error:
            return f"{error} {error.__cause__!r}"

    async def stored(self) -> list[Any]:
        """All records, as the administrator sees them."""
        return list(await self.opened.administrator("select * from pk.record order by at"))


def record(actor: str) -> str:
    return RECORD.format(id=uuid4(), actor=actor)


@pytest.fixture
async def scene(open_notes: Callable[..., Awaitable[Any]], tmp_path: Path) -> Scene:
    opened = await open_notes()
    await opened.add_schema("audit", tmp_path / "audit", NOTHING)
    made = Scene(opened, uuid4(), uuid4())
    await made.run(ROLE, made.alice, record("user:alice"))
    await made.run(ROLE, made.bob, record(CANARY))
    return made


async def test_a_record_is_of_its_transactions_tenant_and_plugin(scene: Scene) -> None:
    ofs = [
        (row["tenant_id"], row["plugin"], row["operation"], row["actor"], row["outcome"])
        for row in await scene.stored()
    ]

    assert ofs == [
        (scene.alice, PLUGIN, "acme.notes.note", "user:alice", "done"),
        (scene.bob, PLUGIN, "acme.notes.note", CANARY, "done"),
    ]
    assert [row["actor"] for row in await scene.run("audit", scene.alice, READ)] == ["user:alice"]


async def test_it_shares_the_fate_of_its_transaction(scene: Scene) -> None:
    tx = await scene.opened.begin(scene.alice)
    await tx.execute("insert into notes (id, body) values ($1, 'gone')", uuid4())
    await tx.execute(record("user:gone"))
    await tx.rollback()

    assert "user:gone" not in str(await scene.stored())


async def test_a_session_that_is_ended_before_its_commit_leaves_neither(scene: Scene) -> None:
    tx = await scene.opened.begin(scene.alice)
    await tx.execute("insert into notes (id, body) values ($1, 'gone')", uuid4())
    await tx.execute(record("user:gone"))
    ended = await scene.opened.administrator(
        "select pid, pg_terminate_backend(pid) from pg_stat_activity where usename = 'pk_app' and state like 'idle in%'"
        " and datname = current_database()"
    )
    with pytest.raises(KernelError):
        await tx.commit()

    async def is_gone() -> bool:
        sql = "select from pg_stat_activity where pid = any($1::integer[])"
        return not await scene.opened.administrator(sql, [row["pid"] for row in ended])

    await until(is_gone, "the session has ended")
    assert len(ended) == 1
    assert "user:gone" not in str(await scene.stored())
    assert await scene.opened.administrator("select * from x_acme_notes.notes where body = $1", "gone") == []


# ------------------------------------------------------------------------------------------------------ attacks

FORGERIES: dict[str, Sequence[str]] = {
    "another plugin's operation": ["select pk.record('{id}', 'iam.create_user', 'user:eve', '', null, '/', 'r', '')"],
    "an area that only begins so": ["select pk.record('{id}', 'acme.notesx.y', 'user:eve', '', null, '/', 'r', '')"],
    "for another plugin": [
        "select pk.record_for('kernel.iam', 'done', '{id}', 'x', 'user:eve', '', null, '/', 'r', '')"
    ],
    "a refusal": ["select pk.record_for('acme.notes', 'refused', '{id}', 'x', 'user:eve', '', null, '/', 'r', '')"],
    "as the role of audit": [
        "select set_config('role', 'audit', true)",
        "select pk.record_for('kernel.iam', 'done', '{id}', 'x', 'user:eve', '', null, '/', 'r', '')",
    ],
    "into another tenant's context": [
        "select set_config('pk.ctx', replace(current_setting('pk.ctx'), '{alice}', '{bob}'), true)",
        "select pk.record('{id}', 'acme.notes.x', 'user:eve', '', null, '/', 'r', '')",
    ],
    "in an altered context": [
        "select set_config('pk.ctx', replace(current_setting('pk.ctx'), 'x_acme_notes', 'x_acme_other'), true)",
        "select pk.record('{id}', 'acme.notes.x', 'user:eve', '', null, '/', 'r', '')",
    ],
    "by the table": [
        "insert into pk.record values ('{bob}', now(), '{id}', 'p', 'o', 'user:eve', '', null, '/', 'done', 'r', '')"
    ],
    "change": ["update pk.record set actor = 'user:eve'"],
    "delete": ["delete from pk.record"],
    "sweep": ["select pk.sweep_records(0, 1000)"],
    "erase": ["select pk.erase_records(1000)"],
    "read": [READ],
    "read the table": ["select * from pk.record"],
}


@pytest.mark.parametrize("how", FORGERIES)
async def test_a_plugins_role_can_only_tell_what_it_did_itself(scene: Scene, how: str) -> None:
    before = await scene.stored()
    names = {"id": uuid4(), "alice": scene.alice.hex, "bob": scene.bob.hex}
    with pytest.raises(KernelError) as refused:
        await scene.run(ROLE, scene.alice, *(statement.format(**names) for statement in FORGERIES[how]))

    assert getattr(refused.value.__cause__, "sqlstate", "") == "42501", (
        "refused for want of a right, and not by accident"
    )
    assert await scene.stored() == before


@pytest.mark.parametrize(
    "sql", ["update pk.record set actor = 'user:eve'", "delete from pk.record", "truncate pk.record"]
)
async def test_not_even_an_administrator_changes_records_by_mistake(scene: Scene, sql: str) -> None:
    before = await scene.stored()
    with pytest.raises(Exception, match="records are never changed") as refused:
        await scene.opened.administrator(sql)

    assert refused.value.sqlstate == "42501"  # type: ignore[attr-defined]
    assert await scene.stored() == before


@pytest.mark.parametrize(
    "fields",
    [
        {"target": "/a b"},
        {"target": "/a\\x1b[2J"},
        {"target": "/ü"},
        {"target": "x" * 501},
        {"actor": ""},
        {"actor": "x" * 201},
        {"operation": "acme.notes." + "x" * 190},
        {"request_id": "x" * 101},
        {"trace_id": "x" * 33},
        {"on_behalf_of": "x" * 201},
    ],
    ids=["blank", "escape", "no-ascii", "long-target", "no-actor", "long-actor", "long-operation", "long-request-id",
         "long-trace-id", "long-on-behalf-of"],
)  # fmt: skip
async def test_what_is_too_long_or_cannot_be_printed_is_no_record(scene: Scene, fields: dict[str, str]) -> None:
    good = {"operation": "acme.notes.x", "actor": "user:a", "on_behalf_of": "", "target": "/", "request_id": "r"}
    given = {**good, "trace_id": "", **fields}
    names = ("operation", "actor", "on_behalf_of")
    words = ", ".join(f"E'{given[name]}'" for name in names)
    after = ", ".join(f"E'{given[name]}'" for name in ("target", "request_id", "trace_id"))
    with pytest.raises(KernelError) as refused:
        await scene.run(ROLE, scene.alice, f"select pk.record('{uuid4()}', {words}, null, {after})")

    assert getattr(refused.value.__cause__, "sqlstate", "") == "23514"


# ---------------------------------------------------------------------------------------- what kernel.audit may


async def test_audit_sees_and_erases_its_transactions_tenant_alone(scene: Scene) -> None:
    assert CANARY not in await scene.attempt("audit", scene.alice, READ)
    rows = await scene.run("audit", scene.alice, "select pk.erase_records(1000) as gone", READ)

    assert rows == [{"gone": 1}]
    assert [row["tenant_id"] for row in await scene.stored()] == [scene.bob]


async def test_audit_records_for_others_in_its_transactions_tenant(scene: Scene) -> None:
    sql = RECORD_FOR.format(plugin="kernel.iam", outcome="refused", id=uuid4())
    await scene.run("audit", scene.alice, sql)

    newest = (await scene.stored())[-1]
    assert (newest["tenant_id"], newest["plugin"], newest["outcome"]) == (scene.alice, "kernel.iam", "refused")


@pytest.mark.parametrize(
    "statements",
    [
        ["select set_config('pk.ctx', replace(current_setting('pk.ctx'), '{alice}', '{bob}'), true)", READ],
        ["select set_config('pk.ctx', replace(current_setting('pk.ctx'), 'audit', 'audio'), true)", READ],
        ["select * from pk.record"],
        ["delete from pk.record"],
        ["update pk.record set actor = 'user:eve'"],
    ],
    ids=["another-tenant", "altered-context", "the-table", "delete", "change"],
)
async def test_audit_itself_has_nothing_but_its_functions(scene: Scene, statements: list[str]) -> None:
    names = {"alice": scene.alice.hex, "bob": scene.bob.hex}
    with pytest.raises(KernelError) as refused:
        await scene.run("audit", scene.alice, *(statement.format(**names) for statement in statements))

    assert getattr(refused.value.__cause__, "sqlstate", "") == "42501"


# ---------------------------------------------------------------------------------- each condition, removed in turn


async def without(scene: Scene, function: str, part: str, instead: str = "true") -> None:
    """Cut a condition out of a function."""
    rows = await scene.opened.administrator(f"select pg_get_functiondef('pk.{function}'::regproc) as it")
    definition = str(rows[0]["it"])
    assert part in definition
    await scene.opened.administrator(definition.replace(part, instead))


async def test_without_its_tenant_reading_would_leak(scene: Scene) -> None:
    await without(scene, "records", "r.tenant_id = tenant")

    assert CANARY in await scene.attempt("audit", scene.alice, READ)


async def test_without_its_role_reading_would_leak(scene: Scene) -> None:
    await without(scene, "need_audit", "not pk.entered() or current_setting('role') <> 'audit'", "false")

    assert "user:alice" in await scene.attempt(ROLE, scene.alice, READ)


async def test_without_its_tenant_erasing_would_destroy(scene: Scene) -> None:
    await without(scene, "erase_records", "w.tenant_id = tenant")
    await scene.run("audit", scene.alice, "select pk.erase_records(1000)")

    assert await scene.stored() == []


async def test_without_the_trigger_the_owner_could_change_records(scene: Scene) -> None:
    await scene.opened.administrator("drop trigger keep on pk.record; update pk.record set actor = 'user:eve'")

    assert {row["actor"] for row in await scene.stored()} == {"user:eve"}


async def test_without_its_area_a_plugin_would_tell_of_others(scene: Scene) -> None:
    await without(scene, "record", "not starts_with(operation, area || '.')", "false")
    await scene.run(ROLE, scene.alice, *(s.format(id=uuid4()) for s in FORGERIES["another plugin's operation"]))

    assert "iam.create_user" in {row["operation"] for row in await scene.stored()}
