"""A storm of changes: one plugin is upgraded and rolled back over and over while 32 callers ask it without a pause.

Broken versions are mixed in. No call fails, nobody hears a version that was never good, nobody hears the former version
after a change was answered, every former generation is gone, and the workers do not grow. 60 changes, or 300 with
PK_SOAK=1; PK_SEED repeats an earlier order.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Generator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

from plugin_api.testing import KernelProcess, until
from plugin_api.testing.kernel import run_apart
from plugin_api.testing.plugin import FreshKernel
from tests.plugins.conftest import Plant, Recipe, plugins_of

CHANGES, BROKEN = (300, 60) if os.environ.get("PK_SOAK") else (60, 12)
CALLERS = 32
PAUSE_S = 0.03
"""Of each caller after an answer: the changes are to have a part of the machine too."""
LIMIT_S = 120.0
BLOCKS_PER_SWAP_MAX = 40
"""Allocated blocks by which a worker may grow with each swap. A generation that stays has more than a thousand."""
LEFT_BEHIND = "a stopped plugin left something behind"


def _hook(name: str, *lines: str) -> dict[str, str]:
    body = "".join(f"        {line}\n" for line in lines)
    return {"hooks": f"    @hookimpl\n    async def {name}(self):\n{body}"}


BROKEN_VERSIONS: dict[str, Mapping[str, Any]] = {
    "raises in pk_register": {"register": "raise RuntimeError('no licence')"},
    "fails in pk_enable": _hook("pk_enable", "raise RuntimeError('no licence')"),
    "is ill": _hook("pk_health", "from plugin_api.hooks import Health", "return Health(False, 'no licence')"),
    "cannot be parsed": {"files": {"plugin.py": "def broken(:\n"}},
    "cannot be imported": {"top": "import nobody_has_this"},
    "fails on the second worker": _hook("pk_enable", "import os", "assert os.getpid() != {second}, 'no licence'"),
}
TRIED_ON = {"fails in pk_enable": 1, "is ill": 1, "fails on the second worker": 2}
"""How many workers have brought a broken version up, or have tried to; none where it did not come so far."""
SAID = {"cannot be parsed": "plugin.py", "cannot be imported": "nobody_has_this"}
"""What is told of those that do not say it themselves."""
LEAKS = {
    "thread": _hook("pk_enable", "import threading", "threading.Thread(target=plugin.wait, daemon=True).start()"),
    "task": _hook("pk_enable", "import asyncio", "asyncio.create_task(plugin.sleep())"),
    "atexit": _hook("pk_enable", "__import__('atexit').register(plugin.wait)"),
    "logging_handler": _hook(
        "pk_enable",
        "import logging",
        "class Own(logging.Handler): pass",
        "logging.getLogger('asyncio').addHandler(Own())",
    ),
    "monkeypatch": _hook("pk_enable", "import colorsys", "vars(colorsys).update(hsv_to_rgb=plugin.wait)"),
    "module_reference": _hook(
        "pk_enable", "import colorsys, sys", "vars(colorsys).update(seen=[sys.modules[__name__]])"
    ),
}
WAITING = """
    def wait(self, *_):
        import threading
        threading.Event().wait()

    async def sleep(self):
        import asyncio
        await asyncio.sleep(86_400)
"""

GAUGE = """
    @operation("GET /size", permission="word.read")
    async def size(self, call: Call, request: Ask) -> Size:
        \"\"\"How much this worker holds.\"\"\"
        gc.collect()
        pages = int(open("/proc/self/statm").read().split()[1])
        return Size(os.getpid(), sys.getallocatedblocks(), len(gc.get_objects()), len(sys.modules), pages * 4096)
"""
GAUGE_TOP = """import gc
import os
import sys

from msgspec import Struct as Plain

class Size(Plain, frozen=True):
    pid: int
    blocks: int
    objects: int
    modules: int
    rss: int
"""


class Line:
    """One keep-alive connection. It is never opened again: that the server ends it is a failure."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Self]:
        """Connect, and hang up afterwards."""
        parts = urlsplit(url)
        line = cls(*await asyncio.open_connection(parts.hostname, parts.port))
        try:
            yield line
        finally:
            line._writer.close()
            await line._writer.wait_closed()

    async def ask(self, method: str, path: str, token: str, body: bytes = b"") -> tuple[int, Any]:
        """Status and document of the answer. OSError or EOFError when none comes."""
        head = f"{method} {path} HTTP/1.1\r\nHost: kernel\r\nAuthorization: Bearer {token}\r\n"
        if body:
            kind = "json" if body.startswith(b"{") else "octet-stream"
            head += f"Content-Type: application/{kind}\r\nContent-Length: {len(body)}\r\n"
        self._writer.write(f"{head}\r\n".encode() + body)
        async with asyncio.timeout(LIMIT_S):
            told = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(told.partition("\r\ncontent-length:")[2].partition("\r\n")[0])
            return int(told[9:12]), json.loads(await self._reader.readexactly(length))


@dataclass
class History:
    """The words of the versions in the order in which they serve, from the first; the last one may be under way."""

    words: list[str]
    answered: int = 0
    """Place of the word that everybody hears now."""

    def place(self, word: str, since: int) -> int | None:
        """Where a word stands that was heard by one who had heard, or been told of, the word at `since`."""
        return next((at for at in range(since, len(self.words)) if self.words[at] == word), None)


@dataclass
class Callers:
    """Ask for the word over and over, each on its connection."""

    url: str
    path: str
    history: History
    token: str
    asked: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    _stopping: bool = False

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """All of them, while the body runs."""
        self._stopping = False
        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(self._ask_on())
            try:
                yield
            finally:
                self._stopping = True

    async def _ask_on(self) -> None:
        since = 0
        try:
            async with Line.open(self.url) as line:
                while not self._stopping:
                    since = max(since, self.history.answered)
                    status, document = await line.ask("GET", self.path, self.token)
                    self.asked += 1
                    since = self._judge(status, document, since)
                    await asyncio.sleep(PAUSE_S)
        except (OSError, EOFError) as error:
            self.failed[f"{type(error).__name__}: {error}"] += 1

    def _judge(self, status: int, document: Any, since: int) -> int:
        if status != 200:
            self.failed[f"{status}: {document}"] += 1
            return since
        at = self.history.place(document["text"], since)
        if at is None:
            self.wrong[f"{document['text']} after {self.history.words[since]}"] += 1
            return since
        return at


@dataclass
class Operator:
    """Changes one plugin over a keep-alive connection, and keeps the history of what it says."""

    line: Line
    token: str
    recipe: Recipe
    folder: Path
    history: History
    second: int = 0
    """Process id of the second worker."""
    took_s: list[float] = field(default_factory=list)
    generations: tuple[int, ...] = (1, 1)
    """The number of the generation that serves, in each worker."""
    _given: list[int] = field(default_factory=lambda: [1, 1])
    """The number that each worker gave last, also to versions that never served."""
    _versions: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _former: str = ""

    async def install(self, recipe: Recipe) -> None:
        """Any plugin."""
        body = recipe.wheel(self.folder).read_bytes()
        status, document = await self.line.ask("POST", "/api/v1/plugins", self.token, body)
        assert status == 201, document

    async def run(self, steps: Iterable[str]) -> None:
        """Make changes, one after the other."""
        for step in steps:
            if step == "upgrade":
                await self.upgrade()
            elif step == "rollback":
                await self._change("rollback", self._former, b"{}")
            else:
                await self._try_broken(step)

    async def upgrade(self, **changes: Any) -> None:
        """To a sound version that says a word of its own."""
        newer = self._newer("word", **changes)
        await self._change("upgrade", newer.word, newer.wheel(self.folder).read_bytes())

    def _newer(self, word: str, **changes: Any) -> Recipe:
        version = f"1.0.{next(self._versions)}"
        return replace(self.recipe, version=version, word=f"{word} {version}", **changes)

    async def _change(self, verb: str, word: str, body: bytes) -> None:
        history = self.history
        self._former = history.words[history.answered]
        history.words.append(word)
        status, document = await self._send(verb, body)
        assert status == 200, document
        history.answered = len(history.words) - 1
        self._count(2)
        self.generations = tuple(self._given)

    def _count(self, workers: int) -> None:
        for worker in range(workers):
            self._given[worker] += 1

    async def _try_broken(self, how: str) -> None:
        """A version that is refused; what it would say is in no history."""
        changes = {name: _filled(value, self.second) for name, value in BROKEN_VERSIONS[how].items()}
        broken = self._newer("broken", **changes)
        status, document = await self._send("upgrade", broken.wheel(self.folder).read_bytes())
        assert status == 422, f"{broken.version}, which {how}: {document}"
        assert SAID.get(how, "no licence") in document["detail"]
        self._count(TRIED_ON.get(how, 0))

    async def _send(self, verb: str, body: bytes) -> tuple[int, Any]:
        begun = time.monotonic()
        answer = await self.line.ask("POST", f"/api/v1/plugins/{self.recipe.plugin_id}/{verb}", self.token, body)
        self.took_s.append(time.monotonic() - begun)
        return answer


def _filled(value: Any, second: int) -> Any:
    return value.replace("{second}", str(second)) if isinstance(value, str) else value


async def sizes(kernel: KernelProcess, gauge: Recipe, token: str, workers: int = 2) -> dict[int, dict[str, int]]:
    """How much each worker holds, by its process id, while nobody else asks anything."""
    seen: dict[int, dict[str, int]] = {}

    async def look() -> bool:
        async with Line.open(kernel.url) as line:
            path = gauge.route.replace("/word", "/size")
            told = [await line.ask("GET", path, token) for _ in range(3)]  # the first ones warm caches up
        assert all(status == 200 for status, _ in told), told
        seen[told[-1][1].pop("pid")] = told[-1][1]
        return len(seen) == workers

    await until(look, "every worker has told its size", LIMIT_S)
    return seen


def growth(before: Mapping[int, Mapping[str, int]], after: Mapping[int, Mapping[str, int]], swaps: int) -> float:
    """Blocks by which the worker that grew most has grown with each swap."""
    assert before.keys() == after.keys(), "a worker was replaced"
    return max(after[pid]["blocks"] - before[pid]["blocks"] for pid in before) / swaps


def order_of(chance: random.Random, changes: int, broken: int, workers: int) -> list[str]:
    """What to do: upgrades and rollbacks in turn, and every kind of broken version in between."""
    kinds = [how for how in BROKEN_VERSIONS if TRIED_ON.get(how, 0) <= workers]
    steps = [kinds[number % len(kinds)] for number in range(broken)]
    steps += [""] * (changes - broken)
    chance.shuffle(steps)
    sound = itertools.cycle(("upgrade", "upgrade", "rollback"))
    return [step or next(sound) for step in steps]


@pytest.fixture(scope="module")
def pair() -> Generator[KernelProcess]:
    """A kernel with two workers for the tests of this file; each has plugins of its own."""
    process = KernelProcess(["--no-demo", "--workers", "2"])
    try:
        run_apart(process.start())
        yield process
    finally:
        run_apart(process.close())


@asynccontextmanager
async def operating(kernel: KernelProcess, recipe: Recipe, folder: Path) -> AsyncIterator[Operator]:
    """Somebody who has just installed a plugin."""
    person = await kernel.operator()
    async with Line.open(kernel.url) as line:
        history = History([recipe.word])
        operator = Operator(line, person.token or "", recipe, folder, history, kernel.pids().get("worker1", 0))
        await operator.install(recipe)
        yield operator


def times_left_behind(kernel: KernelProcess, recipe: Recipe) -> int:
    """How often a worker has told that a generation of a plugin left something behind."""
    with kernel.log_file.open() as lines:
        return sum(LEFT_BEHIND in line and recipe.plugin_id in line for line in lines)


async def workers_of(kernel: KernelProcess, recipe: Recipe) -> list[dict[str, Any]]:
    """How the plugin is in each worker."""
    found: list[dict[str, Any]] = (await plugins_of(kernel))[recipe.plugin_id]["workers"]
    return found


@pytest.mark.timeout(3_600)
async def test_changes_under_load(pair: KernelProcess, plant: Plant, tmp_path: Path) -> None:
    await make_a_storm(pair, 2, plant, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(3_600)
async def test_changes_under_load_with_one_worker(fresh_kernel: FreshKernel, plant: Plant, tmp_path: Path) -> None:
    await make_a_storm(await fresh_kernel("--workers", "1"), 1, plant, tmp_path)


async def make_a_storm(kernel: KernelProcess, workers: int, plant: Plant, folder: Path) -> None:
    """All of it, and what must hold."""
    seed = int(os.environ.get("PK_SEED") or random.randrange(2**32))
    told = f"PK_SEED={seed}"
    steps = order_of(random.Random(seed), CHANGES, BROKEN, workers)
    recipe, gauge = plant("storm", word="word 1.0.0"), plant("gauge", more=GAUGE, operations_top=GAUGE_TOP)
    tenant, third = await kernel.sign_up(), CHANGES // 3
    async with operating(kernel, recipe, folder) as operator:
        await operator.install(gauge)
        callers = Callers(kernel.url, recipe.route, operator.history, tenant.owner.token or "")
        async with callers.asking():
            await operator.run(steps[:third])
        before = await sizes(kernel, gauge, callers.token, workers)
        async with callers.asking():
            await operator.run(steps[third:])
        after = await sizes(kernel, gauge, callers.token, workers)

    took = sorted(operator.took_s)
    print(
        f"{CHANGES} changes, {callers.asked} calls; {took[len(took) // 2]:.2f} s for a change, {took[-1]:.2f} s at most;"
    )
    print(f"{growth(before, after, CHANGES - third):.1f} blocks for each; {told}")
    assert (callers.failed, callers.wrong) == ({}, {}), told
    assert callers.asked > CHANGES * CALLERS, told
    assert times_left_behind(kernel, recipe) == 0, told
    listed = [(one["state"], one["generation"], one["leaks"]) for one in await workers_of(kernel, recipe)]
    assert listed == [("active", number, []) for number in operator.generations[:workers]], told
    assert growth(before, after, CHANGES - third) < BLOCKS_PER_SWAP_MAX, f"{told} {before} {after}"


async def test_what_a_version_leaves_behind_is_named_when_it_has_gone(
    pair: KernelProcess, plant: Plant, tmp_path: Path
) -> None:
    recipe, gauge = plant("leaky"), plant("gauge", more=GAUGE, operations_top=GAUGE_TOP)
    tenant = await pair.sign_up()
    async with operating(pair, recipe, tmp_path) as operator:
        await operator.install(gauge)
        before = await sizes(pair, gauge, tenant.owner.token or "")
        expected: list[str] = []
        for kind, changes in LEAKS.items():
            await operator.upgrade(**{**changes, "hooks": changes["hooks"] + WAITING})
            assert [one["leaks"] for one in await workers_of(pair, recipe)] == [expected, expected]
            expected = [f"{kind}: {recipe.plugin_id}"]
        for left in (expected, []):
            await operator.upgrade()
            assert [one["leaks"] for one in await workers_of(pair, recipe)] == [left, left]
        after = await sizes(pair, gauge, tenant.owner.token or "")

    assert times_left_behind(pair, recipe) == 2 * len(LEAKS)
    assert growth(before, after, len(LEAKS)) > 10 * BLOCKS_PER_SWAP_MAX, "the storm's bound would not have seen it"


@pytest.mark.parametrize(
    ("status", "word", "is_told"),
    [(200, "new", ""), (200, "newer", ""), (200, "old", "wrong"), (200, "broken", "wrong"), (404, "", "failed")],
)
def test_the_callers_tell_what_must_not_be_heard(status: int, word: str, is_told: str) -> None:
    """`old` was replaced by `new`, which was answered; `newer` is under way."""
    callers = Callers("", "", History(["old", "new", "newer"], answered=1), "")

    callers._judge(status, {"text": word}, since=1)

    assert ["wrong"] * len(callers.wrong) + ["failed"] * len(callers.failed) == [is_told] * bool(is_told)


def test_who_has_heard_the_new_word_does_not_hear_the_old_one_again() -> None:
    callers = Callers("", "", History(["old", "new"], answered=0), "")

    since = callers._judge(200, {"text": "new"}, since=0)
    callers._judge(200, {"text": "old"}, since)

    assert callers.wrong == {"old after new": 1}
