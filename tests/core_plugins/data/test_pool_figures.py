"""What the pool shows of itself while calls wait for it."""

from __future__ import annotations

import asyncio
import time
from uuid import uuid4

import pytest

from plugin_api.errors import StoreUnavailable
from plugin_api.testing import until


async def test_who_waits_is_shown_while_and_counted_after(open_notes) -> None:
    notes = await open_notes(pool_size=1)
    pool, waited = notes.database.pool, []
    pool.waited = waited.append
    tenant = uuid4()
    holding = await notes.begin(tenant)
    await holding.execute("insert into notes (id, body) values ($1, 'x')", uuid4())

    waiting = asyncio.create_task(notes.begin(tenant))
    await until(lambda: pool.figures()["waiting"] == 1, "it waits")
    full = pool.figures()
    await holding.commit()
    await (await waiting).commit()

    assert (full["size"], full["open"], full["lent"]) == (1, 1, 1)
    assert 1 == len(waited) and 0 < waited[0] < 60
    assert (0, 0) == (pool.figures()["waiting"], pool.figures()["lent"])


async def test_who_waited_in_vain_is_counted_too(open_notes) -> None:
    notes = await open_notes(pool_size=1)
    pool, waited = notes.database.pool, []
    pool.waited = waited.append
    holding = await pool.acquire(time.monotonic() + 30)

    with pytest.raises(StoreUnavailable):
        await pool.acquire(time.monotonic() + 0.05)
    pool.release(holding)

    assert 1 == len(waited) and waited[0] >= 0.04
