"""The migrations that `docs/how-to/upgrade-a-plugin.md` shows run over tables with rows, and do what it says."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import uuid4

from host.migrations import ALL_PHASES, EXPAND_ONLY, migrate
from tests.conftest import Opened

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "upgrade-a-plugin.md"
FIRST = ROOT / "docs" / "examples" / "acme-notes" / "acme_notes" / "migrations" / "0001_notes.sql"
SCHEMA = "x_acme_memo"


async def test_a_column_is_renamed_in_two_versions(
    open_notes: Callable[..., Awaitable[Opened]], tmp_path: Path
) -> None:
    shown = re.findall(r"^```sql\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    opened = await open_notes()

    async def upgrade(number: int, text: str) -> list[str]:
        (tmp_path / f"{number:04d}_step.sql").write_text(text)
        phases = EXPAND_ONLY if number > 1 else ALL_PHASES
        return await migrate(opened.migrator, "acme.memo", SCHEMA, tmp_path, phases=phases, may_be_older=True)

    async def write(column: str, text: str) -> None:
        tx = await opened.begin(schema=SCHEMA)
        await tx.execute(f"insert into notes (id, {column}) values ($1, $2)", uuid4(), text)
        await tx.commit()

    async def read(what: str) -> list[str]:
        tx = await opened.begin(schema=SCHEMA)
        found = [row["text"] for row in await tx.fetch(f"select {what} as text from notes order by 1")]
        await tx.rollback()
        return found

    expand, contract = shown
    await upgrade(1, FIRST.read_text())
    await write("text", "by 1.0.0")
    assert await upgrade(2, expand) == ["0002_step.sql"]
    await write("text", "by 1.0.0, later")
    assert await read("coalesce(body, text)") == ["by 1.0.0", "by 1.0.0, later"]
    assert await read("body is not null") == [False, True]

    assert await upgrade(3, contract) == [], "it waits"
    await write("body", "by 1.2.0, early")
    assert await migrate(opened.migrator, "acme.memo", SCHEMA, tmp_path) == ["0003_step.sql"]
    await write("body", "by 1.2.0, late")
    assert await read("body") == ["by 1.0.0", "by 1.0.0, later", "by 1.2.0, early", "by 1.2.0, late"]
