"""Whatever dies at whichever step of a change of plugins: afterwards the old state is there or the new one, whole, and
repeating the command ends with the new one.

The steps are not listed here: `programs/dying_kernel.py` notes every moment at which a change waits, in the parent and in
both workers, while the changes run once unharmed; then each of them is the last of its process. What waits several times
at one place (lines read of a child, rows of a table) dies the first and the last time. `make test` takes a few moments of
each change, PK_SOAK=1 all of them; PK_SEED repeats the choice of an earlier run.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, cycle, zip_longest
from pathlib import Path
from typing import Any, Final, Literal

import asyncpg
import pytest

from host.store import Store
from plugin_api.manifest import names_of
from plugin_api.testing import Client, KernelProcess, Tenant, Unreachable, until
from plugin_api.testing.people import log_in
from plugin_api.testing.processes import end, processes_within
from tests.plugins.conftest import Plant, Ran, Recipe, plugins_of, run_pk, words_heard

PROGRAM: Final = Path(__file__).parent / "programs" / "dying_kernel.py"
WORKERS: Final = 2
SETTLED_S: Final = 60.0
IS_SOAK: Final = bool(os.environ.get("PK_SOAK"))
LONG_LIMIT_S: Final = 4 * 3_600
OTHERS_IN_SOAK: Final = 6
LINES_SHOWN: Final = 30
NEAR: Final = {
    "host.changes.prepare": ("_answer",),
    "host.trial": ("watch",),
    "postgres": ("_order", "read", "change", "_migrate", "dispose"),
}
"""Who else is killed, by a part of its command line or its name among the servers, and in which functions."""
SAMPLE: Final = ("host.changes.prepare", "worker", "parent", "worker", "postgres", "parent", "host.trial", "worker")
"""Who dies in each change in `make test`."""

NOTES: Final = """-- phase: expand
-- up
create table notes (tenant_id uuid not null default pk.tenant_id(), id integer not null, primary key (tenant_id, id));
select pk.protect('notes');
-- down
drop table notes;
"""
BODY: Final = """-- phase: expand
-- up
alter table notes add column body text;
-- down
alter table notes drop column body;
"""
WRITE: Final = '''
    @operation("POST /notes", permission="word.read")
    async def write(self, call: Call, request: Ask) -> Said:
        """Keep a note."""
        tx = await call.tx()
        await tx.execute("insert into notes (id) values ($1) on conflict do nothing", request.ms)
        return Said(text="kept")
'''


# ------------------------------------------------------------------------------------------- what is changed

FIRST: Final = Recipe("acme.mortal", more=WRITE, files={"migrations/0001_notes.sql": NOTES})
SECOND: Final = replace(FIRST, version="1.1.0", word="Hi", files={**FIRST.files, "migrations/0002_body.sql": BODY})
WORDS: Final = {recipe.version: recipe.word for recipe in (FIRST, SECOND)}
ID: Final = FIRST.plugin_id
SCHEMA: Final = names_of(ID).schema


@dataclass(frozen=True)
class Stand:
    """How the plugin stands, for whoever looks from outside."""

    version: str = ""
    """Empty: it is not there."""
    serves: bool = True
    previous: str = ""
    data: Literal["kept", "none", "gone"] = "kept"
    """Its note is there; there may be a table, and nothing in it; nothing in the database is of it."""


@dataclass(frozen=True)
class Move:
    """One change, from one stand to another."""

    words: tuple[str, ...]
    old: Stand
    new: Stand

    @property
    def verb(self) -> str:
        """Its name in messages."""
        return " ".join(word for word in self.words if word != ID and not word.endswith(".whl"))


def moves(folder: Path, endings: Sequence[str]) -> list[Move]:
    """Every kind of change, each beginning where the one before ends, the first where the last one ends.

    `endings`: what becomes of the data at each removal after the one that keeps it.
    """
    first, second = (str(recipe.wheel(folder)) for recipe in (FIRST, SECOND))
    absent, emptied, left = Stand(data="none"), Stand(data="gone"), Stand()
    empty, fresh, newer = Stand("1.0.0", data="none"), Stand("1.0.0"), Stand("1.1.0", previous="1.0.0")
    back = Stand("1.0.0", previous="1.1.0")
    off = replace(back, serves=False)
    found = [
        Move(("install", first), absent, empty),
        Move(("upgrade", ID, second), fresh, newer),
        Move(("rollback", ID), newer, back),
        Move(("disable", ID), back, off),
        Move(("enable", ID), off, back),
        Move(("remove", ID, "--data", "keep"), back, left),
    ]
    for data in endings:
        again = (left, fresh) if found[-1].new == left else (absent, empty)
        found += [Move(("install", first), *again), Move(("remove", ID, "--data", data), fresh, emptied)]
    return found


# -------------------------------------------------------------------------------------- the kernel that dies


@dataclass(frozen=True)
class Moment:
    """When who is killed."""

    who: str
    """The process whose step it is."""
    step: str
    nth: int = 1
    victim: str = "self"

    def __str__(self) -> str:
        return f"{self.victim} of {self.who} at step {self.step!r}, time {self.nth}"


class MortalKernel(KernelProcess):
    """A kernel whose processes can be told when to die."""

    @property
    def _place(self) -> Path:
        return self.data_dir.parent

    def _command(self) -> list[str]:
        options = {"data_dir": str(self.data_dir), "workers": WORKERS, "demo": False}
        ports = dict.fromkeys(("http_port", "grpc_port", "management_port"), 0)
        return [sys.executable, "-P", str(PROGRAM), "up", json.dumps({"options": {**options, **ports}, "settings": {}})]

    def doom(self, moment: Moment) -> None:
        """From now on this is to come."""
        draft = self._place / "doom.draft"
        told = {"who": moment.who, "step": moment.step, "nth": moment.nth, "victim": moment.victim}
        draft.write_text(json.dumps(told))
        draft.replace(self._place / "doom.json")

    def escaped(self) -> bool:
        """Whether what was told has not come; it is not to come any more."""
        try:
            (self._place / "doom.json").unlink()
        except FileNotFoundError:
            return False
        return True

    def forget_steps(self) -> None:
        """Begin to note them anew."""
        for file in (self._place / "steps").glob("*"):
            file.unlink()

    def moments(self) -> list[Moment]:
        """Those of the last change at which its processes may die: in the parent at every step, in a worker where it goes on.

        In a worker steps with the same innermost place count as one.
        """
        found: dict[tuple[str, ...], list[Moment]] = {}
        for file in sorted((self._place / "steps").glob("*.jsonl")):
            times: Counter[str] = Counter()
            for step in map(json.loads, file.read_text().splitlines()):
                times[step] += 1
                place = step if file.stem == "parent" else f"{step.partition(':')[0]} {step.rpartition(' > ')[2]}"
                if file.stem == "parent" or step.endswith("answered"):
                    found.setdefault((file.stem, place), []).append(Moment(file.stem, step, times[step]))
        return [moment for times in found.values() for moment in dict.fromkeys((times[0], times[-1]))]

    def doings(self) -> str:
        """The end of what it wrote, but for the requests."""
        lines = self.log_file.read_text(errors="replace").splitlines()
        return "\n".join([line for line in lines if '"msg":"request"' not in line][-LINES_SHOWN:])

    def has_ended(self) -> bool:
        """Whether the parent is gone."""
        return self._process is not None and self._process.poll() is not None


# ------------------------------------------------------------------------------------------- what is to hold


Data = tuple[set[str], set[int], int]
"""Columns of its table, migrations that are recorded, notes."""


class Onlooker:
    """Looks at the plugin from every side: the list, the route, the disk, the database."""

    def __init__(self, kernel: MortalKernel, client: Client) -> None:
        self.kernel = kernel
        self.client = client

    async def write_note(self) -> None:
        """What must not be lost."""
        (await self.client.post(f"{FIRST.route.removesuffix('/word')}/notes", {"ms": 7})).expect(200)

    async def faults(self, *stands: Stand) -> list[str]:
        """Why it stands like none of these; empty when it stands like one of them, whole."""
        listed, heard, data = await self._listed(), await self._heard(), await self._data()
        stored = self._stored()
        of_each = [
            [
                *_faults_of_list(stand, listed),
                *_faults_of_words(stand, heard),
                *_faults_of_store(stand, stored),
                *_faults_of_data(stand, data),
            ]
            for stand in stands
        ]
        faults = [] if [] in of_each else min(of_each, key=len)
        return [*faults, *self._leftovers()]

    async def _listed(self) -> dict[str, Any] | None:
        ran = await run_pk(self.kernel, "plugins", "list", status=None)
        if ran.status != 0:
            return {"state": f"not told: {ran.stderr}"}
        return next((one for one in ran.document["items"] if one["id"] == ID), None)

    async def hears(self, *stands: Stand) -> bool:
        """Whether the route says the same on every connection, as one of these; a connection may be lost with a worker."""
        heard = await until(self._heard, "somebody takes every connection")
        return any(not list(_faults_of_words(stand, heard)) for stand in stands)

    async def _heard(self) -> set[str | int]:
        try:
            return await words_heard(self.client, FIRST, 12)
        except Unreachable:
            return set()

    def _stored(self) -> set[str]:
        """Versions in the store."""
        folder = self.kernel.data_dir / "plugins" / ID
        return {entry.name.rpartition("-")[0] for entry in folder.iterdir()} if folder.exists() else set()

    def _leftovers(self) -> Iterator[str]:
        plugins = self.kernel.data_dir / "plugins"
        packages = {f"{place.parent.name}-{place.name}.json" for place in plugins.glob("*.*/*-*") if place.is_dir()}
        notes = {file.name for file in plugins.rglob("*.json") if file.parent.name.startswith(".")}
        if packages != notes:
            yield f"notes {notes} of the packages {packages}"
        for folder in (plugins / ".drafts", self.kernel.data_dir / "exports"):
            left = [entry.name for entry in folder.glob("*") if folder.name == ".drafts" or entry.name[0] == "."]
            if left:
                yield f"{folder.name} holds {left}"

    async def _data(self) -> Data:
        """What cannot be read now is nothing."""
        run = self.kernel.data_dir / "run" / "postgres"
        try:
            connection = await asyncpg.connect(f"postgresql://kernel@/postgres?host={run}&port=5432")
        except (OSError, asyncpg.PostgresError):
            return {"no database"}, set(), 0
        try:
            return await _read_data(connection)
        finally:
            connection.terminate()


async def _read_data(connection: Any) -> Data:
    columns = await connection.fetch(
        "select column_name as name from information_schema.columns where table_schema = $1 and table_name = 'notes'",
        SCHEMA,
    )
    ran = await connection.fetch("select number from pk.migrations where schema = $1", SCHEMA)
    count = await connection.fetchval(f"select count(*) from {SCHEMA}.notes") if columns else 0
    return {row["name"] for row in columns}, {row["number"] for row in ran}, count


def _faults_of_list(stand: Stand, listed: dict[str, Any] | None) -> Iterator[str]:
    if not stand.version:
        if listed is not None:
            yield f"it is listed as {listed['state']}"
        return
    if listed is None:
        yield "it is not listed"
        return
    state = "active" if stand.serves else "stopped"
    for one in (listed, *listed.get("workers", ())):
        seen = (one.get("version"), one["state"])
        if seen != (stand.version, state):
            yield f"it is listed as {seen} ({listed.get('last_error') or listed.get('reason')})"
    if len(listed.get("workers", ())) != WORKERS or (listed.get("previous") or "") != stand.previous:
        yield f"it is listed with {listed.get('workers')} and the version {listed.get('previous')} before it"


def _faults_of_words(stand: Stand, heard: set[str | int]) -> Iterator[str]:
    expected = {WORDS[stand.version] if stand.version and stand.serves else 404}
    if heard != expected:
        yield f"its route says {heard}, not {expected}"


def _faults_of_store(stand: Stand, stored: set[str]) -> Iterator[str]:
    expected = {version for version in (stand.version, stand.previous) if version}
    if stored != expected:
        yield f"stored is {stored}, not {expected}"


def _faults_of_data(stand: Stand, data: Data) -> Iterator[str]:
    """An upgrade may have added what the version before does not know; nothing else may differ."""
    columns, ran, notes = data
    whole: dict[frozenset[int], set[str]] = {
        frozenset(): set(),
        frozenset({1}): {"tenant_id", "id"},
        frozenset({1, 2}): {"tenant_id", "id", "body"},
    }
    if whole.get(frozenset(ran)) != columns:
        yield f"its table has {columns} after the migrations {ran}"
    if notes != (1 if stand.data == "kept" else 0):
        yield f"{notes} notes are there, and the data should be {stand.data}"
    if stand.version and not ran:
        yield "its migrations have not run"
    if stand.data == "gone" and columns:
        yield f"its table is still there with {columns}"


# --------------------------------------------------------------------------------------------- one death


@dataclass
class Matrix:
    """The changes, one after the other, in one data folder; who dies in them, and what was wrong afterwards."""

    kernel: MortalKernel
    tenant: Tenant
    told: str
    """What repeats this run."""
    deaths: Counter[str] = field(default_factory=Counter)
    """By verb; those included that came too late."""
    escapes: Counter[str] = field(default_factory=Counter)

    @property
    def onlooker(self) -> Onlooker:
        """Of the kernel as it is now."""
        return Onlooker(self.kernel, self.kernel.client(self.tenant.owner.token))

    async def log_in(self) -> None:
        """Tokens do not last for a long count."""
        owner = self.tenant.owner
        address = self.kernel.new_source_address()
        self.tenant.owner = await log_in(self.kernel.url, address, owner.tenant, owner.email, owner.password)

    async def make(self, move: Move, moment: Moment | None = None) -> None:
        """Make one change, cut off at a moment; when this returns it has been made, whatever happened."""
        if moment is not None:
            self.kernel.doom(moment)
        ran = await self._run(move)
        if moment is not None:
            try:
                ran = await self._after(move, moment, ran)
            except AssertionError as error:
                raise AssertionError(f"{move.verb}, {moment}, {self.told}: {error}") from None
        assert ran.status == 0, ran
        assert await self.onlooker.hears(move.new), f"{move.verb} answered, and the route does not"
        await self._settles("it stands as it should after the change", move.new)
        if move.new.data == "none":
            await self.onlooker.write_note()

    async def _run(self, move: Move) -> Ran:
        return await run_pk(self.kernel, "plugins", *move.words, status=None)

    async def _after(self, move: Move, moment: Moment, ran: Ran) -> Ran:
        """See that what is there is whole, and repeat the change."""
        has_escaped = self.kernel.escaped()
        self.deaths[move.verb] += 1
        self.escapes[move.verb] += has_escaped
        stands = (move.new,) if ran.status == 0 else (move.old,)
        if not has_escaped and (moment.who, moment.victim) == ("parent", "self"):
            await self._start_again()
            stands = (move.old, move.new)
        if moment.victim != "postgres":  # without it nobody is told anything
            assert await self.onlooker.hears(*stands), f"right after {ran} the route does not say as in {stands}"
        await self._settles(f"it is as in {stands} after {ran}", *stands)
        if ran.status == 0 or (not await self.onlooker.faults(move.new) and _is_not_repeated(move)):
            return Ran(0, "", "")
        return await self._run(move)

    async def _start_again(self) -> None:
        await until(self.kernel.has_ended, "the parent is gone")
        await self.kernel.start()

    async def _settles(self, what: str, *stands: Stand) -> None:
        """What is only to be cleared away may take a moment."""
        faults: list[str] = []

        async def stands_so() -> bool:
            faults[:] = await self.onlooker.faults(*stands)
            return not faults

        try:
            await until(stands_so, what, SETTLED_S)
        except AssertionError as error:
            raise AssertionError(f"{error}; {'; '.join(faults)}\n{self.kernel.doings()}") from None


def _is_not_repeated(move: Move) -> bool:
    """A rollback of a rollback goes forth again, and there is no removing what is not there."""
    return move.words[0] in ("rollback", "remove")


# ---------------------------------------------------------------------------------------------- the matrix


@pytest.mark.timeout(LONG_LIMIT_S if IS_SOAK else 900)
async def test_every_step_may_be_the_last(tmp_path: Path) -> None:
    seed = int(os.environ.get("PK_SEED") or random.randrange(2**32))
    chance = random.Random(seed)
    kernel = MortalKernel()
    try:
        await kernel.start()
        matrix = Matrix(kernel, await kernel.sign_up(), f"PK_SEED={seed}")
        changes = moves(tmp_path, chance.sample(("export", "purge"), 2 if IS_SOAK else 1))
        planned: list[Sequence[Moment]] = []
        for move, kind in zip(changes, cycle(SAMPLE), strict=False):
            kernel.forget_steps()
            await matrix.make(move)
            by_kind = kinds(kernel.moments())
            planned.append(all_of(by_kind, chance) if IS_SOAK else [chance.choice(by_kind[kind])])
        for moments in zip_longest(*planned):
            await matrix.log_in()
            for move, moment in zip(changes, moments, strict=True):
                await matrix.make(move, moment)
    finally:
        await kernel.close()
    print(f"PK_SEED={seed}: {dict(matrix.deaths)}; came too late: {dict(matrix.escapes)}")
    assert matrix.deaths.total() > matrix.escapes.total()


def kinds(moments: Sequence[Moment]) -> dict[str, list[Moment]]:
    """Who can die at these: the process itself, or one that the step has to do with."""
    found: dict[str, list[Moment]] = {"parent": [], "worker": [], **{victim: [] for victim in NEAR}}
    for moment in moments:
        found["parent" if moment.who == "parent" else "worker"].append(moment)
        for victim, functions in NEAR.items():
            if any(f"{function}:" in moment.step for function in functions):
                found[victim].append(replace(moment, victim=victim))
    return found


def all_of(by_kind: dict[str, list[Moment]], chance: random.Random) -> list[Moment]:
    """Every step for whoever makes it, a few for the others."""
    others = [chance.sample(by_kind[victim], min(len(by_kind[victim]), OTHERS_IN_SOAK)) for victim in NEAR]
    return [*by_kind["parent"], *by_kind["worker"], *chain(*others)]


WHOLE: Final[dict[str, Any]] = {
    "version": "1.0.0", "state": "active", "previous": None,
    "workers": [{"worker": number, "version": "1.0.0", "state": "active"} for number in range(WORKERS)],
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "faults"),
    [
        ({}, 0),
        ({"version": "1.1.0"}, 1),
        ({"state": "quarantined"}, 1),
        ({"previous": "0.9.0"}, 1),
        ({"workers": WHOLE["workers"][:1]}, 1),
        ({"workers": [WHOLE["workers"][0], {"worker": 1, "version": "1.1.0", "state": "active"}]}, 1),
    ],
)
def test_a_list_that_is_not_whole_is_found(changes: dict[str, Any], faults: int) -> None:
    assert len(list(_faults_of_list(Stand("1.0.0"), {**WHOLE, **changes}))) == faults
    assert list(_faults_of_list(Stand(), {**WHOLE, **changes}))
    assert list(_faults_of_list(Stand("1.0.0"), None))


@pytest.mark.parametrize(
    ("stand", "whole", "broken"),
    [
        (Stand("1.0.0"), {"Hello"}, [{"Hi"}, {"Hello", 404}, {404}, {503}]),
        (Stand("1.0.0", serves=False), {404}, [{"Hello"}, {"Hello", 404}]),
        (Stand(), {404}, [{"Hello"}]),
    ],
)
def test_a_route_that_is_not_whole_is_found(stand: Stand, whole: set[str | int], broken: list[set[str | int]]) -> None:
    assert list(_faults_of_words(stand, whole)) == []
    assert all(list(_faults_of_words(stand, heard)) for heard in broken)


KEYS: Final = {"tenant_id", "id"}


@pytest.mark.parametrize(
    ("stand", "whole", "broken"),
    [
        (Stand("1.0.0"), (KEYS, {1}, 1), [(KEYS, {1}, 0), (KEYS, {1, 2}, 1), (set(), set(), 0), (KEYS, set(), 1)]),
        (Stand("1.1.0"), ({*KEYS, "body"}, {1, 2}, 1), [({*KEYS, "body"}, {1}, 1)]),
        (Stand(), (KEYS, {1}, 1), [(set(), set(), 0)]),
        (Stand(data="gone"), (set(), set(), 0), [(KEYS, {1}, 0), (set(), {1}, 0)]),
    ],
)
def test_data_that_is_not_whole_is_found(stand: Stand, whole: Data, broken: list[Data]) -> None:
    assert list(_faults_of_data(stand, whole)) == []
    assert all(list(_faults_of_data(stand, data)) for data in broken)


# ------------------------------------------------------------------------------------------ what goes with it

PREPARING: Final = """
import asyncio, sys
from pathlib import Path
from host.changes.installer import Installer
from host.store import Sources

asyncio.run(Installer(Path(sys.argv[1]), Sources()).prepare(sys.argv[2], lambda doing: None))
"""
BACKEND: Final = """
import os, time

def build_wheel(*_, **__):
    with open(os.environ["TOLD"], "w") as told:
        told.write(f"{os.getpid()} {os.getppid()}")
    time.sleep(1000)
"""


async def test_nothing_goes_on_preparing_for_a_parent_that_is_gone(tmp_path: Path) -> None:
    """It would put its package into a store that the next kernel has swept already."""
    store, told, project = tmp_path / "plugins", tmp_path / "told", tmp_path / "project"
    os.mkfifo(told)
    project.mkdir()
    (project / "backend.py").write_text(BACKEND)
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "acme-slow"\nversion = "1.0.0"\n'
    )
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", PREPARING, store, project),
        cwd=tmp_path,
        env={**os.environ, "TOLD": str(told)},
    )
    await asyncio.to_thread(told.read_text)
    assert any("host.changes.prepare" in process.command for process in processes_within(tmp_path))
    parent.kill()
    await parent.wait()

    try:
        await until(lambda: not processes_within(tmp_path), "all of them have ended", 30.0)
    finally:
        for process in processes_within(tmp_path):
            end(process)
    assert [draft for draft in Store(store).sweep([]) if not draft.startswith(".drafts/")] == []


async def test_what_could_not_be_brought_up_is_listed_as_before(
    kernel: KernelProcess, plant: Plant, tmp_path: Path
) -> None:
    bar = tmp_path / "bar"
    hooks = (
        "    @hookimpl\n    async def pk_enable(self):\n"
        f"        if os.path.exists({str(bar)!r}):\n            raise RuntimeError('no licence')\n"
    )
    recipe = plant("barred", top="import os\n", hooks=hooks)
    bar.touch()
    assert "no licence" in (await run_pk(kernel, "plugins", "install", recipe.wheel(tmp_path), status=1)).stderr
    assert recipe.plugin_id not in await plugins_of(kernel)
    bar.unlink()
    await run_pk(kernel, "plugins", "install", recipe.wheel(tmp_path))
    await run_pk(kernel, "plugins", "disable", recipe.plugin_id)
    bar.touch()
    await run_pk(kernel, "plugins", "enable", recipe.plugin_id, status=1)

    listed = (await plugins_of(kernel))[recipe.plugin_id]
    assert listed["state"] == "stopped"
    assert "no licence" in listed["last_error"]
    await run_pk(kernel, "plugins", "remove", recipe.plugin_id)
