"""Plugins whose code does harm are refused: told whose, what and the remedy; nothing of them stays, neighbours never notice."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Generator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from plugin_api.testing import Answer, KernelProcess, Tenant
from plugin_api.testing.kernel import run_apart
from plugin_api.testing.people import Person
from tests.plugins.conftest import Recipe, run_pk

OCTETS = {"Content-Type": "application/octet-stream"}
CHANGE_LIMIT_S = 120.0
CALLERS = 3
NEIGHBOUR = Recipe("acme.neighbour")


@pytest.fixture(scope="module")
def neighbour(kernel_process: KernelProcess, tmp_path_factory: pytest.TempPathFactory) -> Generator[Recipe]:
    """A plugin that serves while others are refused."""
    wheel = NEIGHBOUR.wheel(tmp_path_factory.mktemp("neighbour"))
    run_apart(run_pk(kernel_process, "plugins", "install", wheel))
    yield NEIGHBOUR
    run_apart(run_pk(kernel_process, "plugins", "remove", NEIGHBOUR.plugin_id))


@pytest.fixture
def operator(kernel: KernelProcess) -> Person:
    """Changes plugins."""
    person = run_apart(kernel.operator())
    person.limit_s = CHANGE_LIMIT_S
    return person


def hook(name: str, *lines: str) -> str:
    """A hook of these statements; async where that is what it does."""
    kind = "" if name in ("pk_register", "pk_configure") else "async "
    return f"    @hookimpl\n    {kind}def {name}(self):\n" + "".join(f"        {line}\n" for line in lines)


def migrations(*statements: str) -> dict[str, str]:
    """A file of migrations for each."""
    return {
        f"migrations/{number:04}_step.sql": f"-- phase: expand\n-- up\n{statement}\n-- down\n"
        for number, statement in enumerate(statements, 1)
    }


TABLE = """create table notes (
  tenant_id uuid not null default pk.tenant_id(), id uuid not null, primary key (tenant_id, id));
select pk.protect('notes');"""
BROKEN_TABLE = TABLE.replace("notes", "more").replace("id uuid not null, primary", "id no_such_type, primary")
FOREIGN = '''
    @operation("GET /api/v1/iam/users/all", permission="word.read")
    async def steal(self, call: Call, request: Ask) -> Said:
        """Answer in the place of another."""
        return Said(text="")
'''


@dataclass(frozen=True)
class Poison:
    """How a recipe differs from a sound one, and what its refusal says."""

    said: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    is_slow: bool = False


POISONS = {
    "raises at import": Poison("no licence", {"top": "raise RuntimeError('no licence')"}),
    "exits at import": Poison("SystemExit", {"top": "raise SystemExit(3)"}),
    "ends the process at import": Poison("exit status 7", {"top": "import os; os._exit(7)"}),
    "crashes at import": Poison("SIGSEGV", {"top": "import ctypes; ctypes.string_at(0)"}),
    "changes sys.path": Poison("sys.path", {"top": "import sys; sys.path.insert(0, '/nowhere')"}),
    "monkeypatches": Poison("colorsys", {"top": "import colorsys; colorsys.hsv_to_rgb = lambda *_: None"}),
    "leaves a thread": Poison(
        "thread", {"register": "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"}
    ),
    "leaves a task": Poison(
        "task",
        {
            "register": "import asyncio; self.task = asyncio.get_running_loop().create_task(self.idle())",
            "hooks": "    async def idle(self):\n        import asyncio\n        await asyncio.sleep(9)\n",
        },
    ),
    "has a hook with an argument too many": Poison(
        "pk_enable", {"hooks": "    @hookimpl\n    async def pk_enable(self, kernel):\n        pass\n"}
    ),
    "claims another's path": Poison("/api/v1/iam/users/all", {"more": FOREIGN}),
    "is not well": Poison(
        "the disk is on fire",
        {
            "hooks": hook(
                "pk_health", "from plugin_api.hooks import Health", "return Health(False, 'the disk is on fire')"
            )
        },
    ),
    "cancels itself in pk_enable": Poison(
        "pk_enable", {"hooks": hook("pk_enable", "import asyncio", "raise asyncio.CancelledError")}
    ),
    "interrupts in pk_enable": Poison("KeyboardInterrupt", {"hooks": hook("pk_enable", "raise KeyboardInterrupt")}),
    "spins in pk_register": Poison(
        "pk_register did not end within 20 s", {"register": "while True: pass"}, is_slow=True
    ),
    "waits in pk_register": Poison(
        "pk_register did not end within 20 s", {"register": "import threading; threading.Event().wait()"}, is_slow=True
    ),
    "migrates half way": Poison("no_such_type", {"files": migrations(TABLE, BROKEN_TABLE)}),
}


@asynccontextmanager
async def callers(tenant: Tenant, recipe: Recipe) -> AsyncIterator[Counter[int]]:
    """Ask a plugin all the while; what was answered, by status."""
    statuses: Counter[int] = Counter()

    async def ask() -> None:
        while True:
            statuses[(await tenant.owner.get(recipe.route)).status] += 1
            await asyncio.sleep(0.05)

    asking = [asyncio.create_task(ask()) for _ in range(CALLERS)]
    try:
        yield statuses
    finally:
        for task in asking:
            task.cancel()
        for done in await asyncio.gather(*asking, return_exceptions=True):
            assert isinstance(done, asyncio.CancelledError), f"a neighbour was not answered: {done!r}"


async def known(kernel: KernelProcess, operator: Person) -> tuple[Any, Any, list[str]]:
    """The API, the plugins with their versions and states, and what lies in the store."""
    plugins = (await operator.get("/api/v1/plugins")).expect(200)["items"]
    stored = sorted(str(place.relative_to(kernel.data_dir)) for place in (kernel.data_dir / "plugins").glob("[a-z]*/*"))
    listed = [(one["id"], one["version"], one["state"]) for one in plugins]
    return (await kernel.client().get("/api/v1/openapi.json")).expect(200).json, listed, stored


async def install(operator: Person, wheel: Path, verb: str = "") -> Answer:
    """Send a wheel, to be installed or for another verb of a plugin."""
    return await operator.request("POST", f"/api/v1/plugins{verb}", body=wheel.read_bytes(), headers=OCTETS)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.soak] if one.is_slow else []) for name, one in POISONS.items()]
)
async def test_poison_is_refused_and_nobody_notices(
    kernel: KernelProcess, tenant: Tenant, operator: Person, neighbour: Recipe, tmp_path: Path, name: str
) -> None:
    poison = POISONS[name]
    recipe = Recipe(f"acme.poison{list(POISONS).index(name)}", **poison.changes)
    before = await known(kernel, operator)
    async with callers(tenant, neighbour) as statuses:
        refused = (await install(operator, recipe.wheel(tmp_path))).expect(422)

    assert recipe.plugin_id in refused.json["detail"]
    assert poison.said in refused.json["detail"]
    assert statuses.keys() == {200}
    assert await known(kernel, operator) == before
    assert (await tenant.owner.get(recipe.route)).status == 404


async def test_a_corrected_version_is_installed_after_one_that_failed(
    kernel: KernelProcess, operator: Person, tmp_path: Path
) -> None:
    broken = Recipe(
        "acme.corrected", files=migrations(TABLE), hooks=hook("pk_enable", "raise RuntimeError('the first try')")
    )
    (await install(operator, broken.wheel(tmp_path))).expect(422)
    changed = replace(broken, hooks="", files=migrations(TABLE.replace("notes", "letters")))
    (await install(operator, changed.wheel(tmp_path))).expect(201)
    told = (await operator.delete(f"/api/v1/plugins/{broken.plugin_id}?data=purge")).expect(200)

    assert list(told["removed"]["tables"]) == ["letters"]


ENDS = '''
    @operation("GET /ends", permission="word.read")
    async def ends(self, call: Call, request: Ask) -> Said:
        """End whatever runs it."""
        raise (SystemExit, KeyboardInterrupt, asyncio.CancelledError)[request.ms]
'''
ENDING_TASK = """registrar.task("ends", self.end)"""
END = "    async def end(self):\n        raise SystemExit\n"


async def test_what_ends_a_process_ends_only_the_call(
    kernel: KernelProcess, tenant: Tenant, operator: Person, tmp_path: Path
) -> None:
    recipe = Recipe("acme.ends", more=ENDS, register=ENDING_TASK, hooks=END)
    (await install(operator, recipe.wheel(tmp_path))).expect(201)
    before = kernel.pids()["worker0"]
    answers = [await tenant.owner.get(recipe.route.replace("/word", f"/ends?ms={number}")) for number in range(3)]

    assert [answer.status for answer in answers] == [500] * 3
    assert (await tenant.owner.get(recipe.route)).expect(200)
    assert kernel.pids()["worker0"] == before
    (await operator.delete(f"/api/v1/plugins/{recipe.plugin_id}")).expect(200)
