"""Every statement of the plugin. What is kept is in the kernel's own schema, and only these functions reach it."""

from __future__ import annotations

from base64 import b64encode
from typing import Literal, cast

from core_plugins.gateway.settings import BreakerMode
from plugin_api.ports.database import Row, Transaction, Tx

Outcome = Literal["new", "done", "other", "busy"]
SWEEP_LEASE = "gateway:sweep"


async def claim_key(tx: Tx, scope: bytes, request: bytes) -> tuple[Outcome, bytes]:
    """Claim a key for the transaction, in its tenant and plugin; what came of it, and the kept answer when it is `done`."""
    row = await tx.fetch_one("select outcome, answer from pk.claim_key($1, $2)", scope, request)
    assert row is not None, "a function answers one row"
    return row["outcome"], row["answer"] or b""


def keep_answer(transaction: Transaction, scope: bytes, request: bytes, answer: bytes, keep_s: int) -> None:
    """Keep an answer under a claimed key with the commit of its effect."""
    transaction.at_commit("pk.keep_answer", scope.hex(), request.hex(), b64encode(answer).decode(), str(keep_s))


async def claim_sweep(tx: Tx, owner: str, every_s: float) -> bool:
    """Whether it is the turn of this owner, who was never asked for before, and nobody else's for so long."""
    return (
        await tx.fetch_one("select from pk.take_leases(array[$1], $2, $3, 1)", SWEEP_LEASE, owner, every_s) is not None
    )


async def sweep(tx: Tx, most: int) -> int:
    """Forget answers of all tenants whose time is over; how many went."""
    return _count(await tx.fetch_one("select pk.sweep_answers($1) as gone", most))


async def erase(tx: Tx, most: int) -> int:
    """Forget answers of the transaction's tenant; how many went."""
    return _count(await tx.fetch_one("select pk.erase_answers($1) as gone", most))


async def set_breaker_mode(tx: Tx, service: str, mode: str) -> None:
    """Set what the breaker of a service does."""
    await tx.execute("select set_breaker_mode($1, $2)", service, mode)


async def breaker_modes(tx: Tx) -> dict[str, BreakerMode]:
    """What operators have set, by service."""
    rows = await tx.fetch("select service, mode from list_breaker_modes()")
    return {row["service"]: row["mode"] for row in rows}


def _count(row: Row | None) -> int:
    assert row is not None, "a function answers one row"
    return cast("int", row["gone"])
