"""The operator's side of events and jobs: `pk events` and `pk jobs` at a real kernel, its metrics, and what a removal takes."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
import urllib.request
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from plugin_api.testing import KernelProcess, Tenant, until
from tests.plugins.conftest import Pk, Plant, Ran, Recipe
from tests.plugins.test_remote import pk_at

LIMIT_S = 60.0

PK = Path(sys.executable).parent / "pk"
HEARD = """-- phase: expand
-- up
create table heard (tenant_id uuid not null default pk.tenant_id(), id uuid not null, word text not null,
  primary key (tenant_id, id));
select pk.protect('heard');
create table mood (tenant_id uuid not null default pk.tenant_id(), deaf boolean not null, primary key (tenant_id));
select pk.protect('mood');
-- down
drop table heard, mood;
"""
MORE = '''
    def __init__(self, jobs):
        self.jobs = jobs

    @operation("POST /words", permission="word.read", status=200)
    async def tell(self, call: Call, request: Word) -> Said:
        """Tell a word."""
        (await call.tx()).emit(Event("word.told.v1", request.word, {"word": request.word}))
        return Said(text=request.word)

    @operation("POST /mood", permission="word.read", status=200)
    async def change_mood(self, call: Call, request: Mood) -> Said:
        """Hear from now on, or not."""
        await (await call.tx()).execute(
            "insert into mood (deaf) values ($1) on conflict (tenant_id) do update set deaf = $1", request.deaf)
        return Said(text=str(request.deaf))

    @operation("GET /heard", permission="word.read")
    async def list_heard(self, call: Call, request: Ask) -> Said:
        """What was heard."""
        return Said(text=" ".join(row["word"] for row in await (await call.tx()).fetch("select word from heard order by id")))

    @operation("POST /work", permission="word.read", status=200)
    async def put(self, call: Call, request: Word) -> Said:
        """Put a job down for a far day."""
        job = Job("far", {"word": request.word}, run_at=datetime(2999, 1, 1, tzinfo=timezone.utc))
        return Said(text=str(await self.jobs.put(call, job)))

class Reactions:
    @on("{area}.word.told.v1")
    async def hear(self, call: Call, event: EventEnvelope) -> None:
        """Hear it, unless the tenant is deaf."""
        tx = await call.tx()
        await tx.execute("insert into heard (id, word) values ($1, $2)", event.id, event.data["word"])
        if await tx.fetch_one("select deaf from mood where deaf"):
            raise RuntimeError("cannot hear")

    @job("0 0 1 1 *", per_tenant=True)
    async def greet(self, call: Call) -> None:
        """Greet the new year."""
'''
TOP = """from datetime import datetime, timezone
from plugin_api import Event, job, on
from plugin_api.events import EventEnvelope
from plugin_api.ports.job_queue import Job

class Word(Struct, frozen=True, forbid_unknown_fields=True):
    word: str

class Mood(Struct, frozen=True, forbid_unknown_fields=True):
    deaf: bool
"""
NEEDS = """requires = ["data >=1", "eventbus >=1", "jobs >=1"]
[events]
emits = ["word.told.v1"]
consumes = ["{area}.word.told.v1"]
"""
PLUGIN = """from plugin_api import Registrar, hookimpl
from .operations import Operations, Reactions

async def work(call, job):
    pass

class Plugin:
    @hookimpl
    def pk_register(self, registrar: Registrar) -> None:
        registrar.operations(Operations(registrar.jobs))
        registrar.reactions(Reactions())
        registrar.worker("far", work)
        registrar.gauge("ears", "Ears that it has.", ["side"], lambda: {("left",): 1, ("right",): 1})

plugin = Plugin()
"""


@dataclass
class Ear:
    """The plugin in a running kernel, as one tenant and the operator see it."""

    kernel: KernelProcess
    tenant: Tenant
    recipe: Recipe
    wheel: Path
    pk: Pk

    @property
    def area(self) -> str:
        """Of its names."""
        return self.recipe.plugin_id

    @property
    def consumer(self) -> str:
        """Its one consumer."""
        return f"{self.area}.hear"

    async def post(self, path: str, **body: Any) -> str:
        """Call one of its operations."""
        return str((await self.tenant.owner.post(f"/api/v1/x/{self.area}{path}", body)).expect(200)["text"])

    async def heard(self) -> list[str]:
        """The words that had their effect."""
        return str((await self.tenant.owner.get(f"/api/v1/x/{self.area}/heard")).expect(200)["text"]).split()

    async def letters(self) -> list[Any]:
        """`pk events dlq`."""
        items: list[Any] = (await self.run("events", "dlq", "--consumer", self.consumer)).document["items"]
        return items

    async def run(self, *words: object, status: int = 0) -> Ran:
        """Run `pk WORDS --json`."""
        return await self.pk(self.kernel, *words, status=status)

    async def text(self, *words: object) -> str:
        """What `pk WORDS` prints for people."""
        process = await asyncio.create_subprocess_exec(
            PK, *map(str, words), "--data-dir", str(self.kernel.data_dir), stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(LIMIT_S):
            stdout, _ = await process.communicate()
        assert process.returncode == 0
        return stdout.decode()

    async def events(self, *words: object) -> list[Any]:
        """`pk events tail --no-follow --json`."""
        told = await self.run("events", "tail", "--no-follow", "--tenant", self.tenant.id, *words)
        return [json.loads(line) for line in told.stdout.splitlines()]

    async def query(self, sql: str, *arguments: Any) -> list[Any]:
        """Ask its database."""
        run = self.kernel.data_dir / "run" / "postgres"
        connection = await asyncpg.connect(f"postgresql://kernel@/postgres?host={run}&port=5432")
        try:
            return list(await connection.fetch(sql, *arguments))
        finally:
            await connection.close()

    def metric(self, name: str, label: str) -> float | None:
        """A series of a metric in a scrape, by a label's value."""
        with urllib.request.urlopen(f"{self.kernel.management_url}/metrics", timeout=LIMIT_S) as answer:
            text = answer.read().decode()
        found = re.search(rf'^{name}{{[^}}]*"{re.escape(label)}"[^}}]*}} (\S+)$', text, re.MULTILINE)
        return float(found[1]) if found else None


@pytest.fixture
async def ear(kernel: KernelProcess, tenant: Tenant, pk: Pk, plant: Plant, tmp_path: Path) -> Ear:
    """Installed, with a tenant that nobody else has."""
    recipe = plant("ear")
    area = recipe.plugin_id
    recipe = Recipe(
        area,
        manifest=NEEDS.replace("{area}", area),
        files={"migrations/0001_heard.sql": HEARD, "plugin.py": PLUGIN},
        operations_top=TOP,
        more=MORE.replace("{area}", area),
    )
    wheel = recipe.wheel(tmp_path)
    await pk(kernel, "plugins", "install", wheel)
    return Ear(kernel, tenant, recipe, wheel, pk)


async def fail(ear: Ear, *words: str) -> list[Any]:
    """Tell words to a deaf tenant, each when the one before is parked; its letters, the oldest first."""
    await ear.post("/mood", deaf=True)
    letters: list[Any] = []
    for number, word in enumerate(words, 1):
        await ear.post("/words", word=word)
        letters = await until(partial(_letters, ear, number), f"{word} is a dead letter", LIMIT_S)
    return letters[::-1]


async def _letters(ear: Ear, wanted: int) -> list[Any]:
    """All of them, the newest first, once there are so many."""
    letters = await ear.letters()
    return letters if len(letters) == wanted else []


async def test_dead_letters_are_listed_counted_and_replayed(ear: Ear) -> None:
    first, second = await fail(ear, "ada", "bob")
    assert [one["event"]["subject"] for one in (first, second)] == ["ada", "bob"]
    assert (first["consumer"], first["attempts"], first["reason"]) == (ear.consumer, 4, "RuntimeError: cannot hear")
    shown = await ear.text("events", "dlq", "--consumer", ear.consumer)
    assert shown.split("\n")[0].split() == ["LETTER", "CONSUMER", "ENTITY", "ATTEMPTS", "AGE", "REASON"]
    assert f"{ear.area} ada" in shown
    (page,) = (await ear.run("events", "dlq", "--consumer", ear.consumer, "--limit", 1)).document["items"]
    assert page["id"] == second["id"]
    await until(lambda: ear.metric("pk_eventbus_dead_letters", ear.consumer) == 2, "a scrape shows both", 30)
    assert ear.metric("pk_eventbus_events_parked_total", ear.consumer) == 2

    await ear.post("/mood", deaf=False)
    assert (await ear.run("events", "replay", "--letter", first["id"])).document == {"letters": 1}
    await until(lambda: _is(ear.heard, ["ada"]), "it has its effect", LIMIT_S)
    refused = await ear.run("events", "replay", "--letter", first["id"], status=1)
    assert f"there is no dead letter {first['id']}" in refused.stderr
    assert (await ear.run("events", "replay", "--consumer", ear.consumer)).document == {"letters": 1}
    await until(lambda: _is(ear.heard, ["ada", "bob"]), "the other too", LIMIT_S)
    assert await ear.letters() == []
    assert (await ear.run("events", "replay", "--all")).document == {"letters": 0}
    await until(lambda: ear.metric("pk_eventbus_dead_letters", ear.consumer) == 0, "and none at last", 30)
    assert ear.metric("pk_eventbus_consumer_behind_events", ear.consumer) == 0
    assert ear.metric(f"pk_{ear.area.replace('.', '_')}_ears", "left") == 1


async def _is(ask: Any, wanted: Any) -> bool:
    return bool(await ask() == wanted)


async def test_a_consumer_hears_again_from_a_time_or_an_offset_on(ear: Ear) -> None:
    await ear.post("/words", word="ada")
    await until(lambda: _is(ear.heard, ["ada"]), "it was heard", LIMIT_S)
    await ear.query(f"delete from x_{ear.area.replace('.', '_')}.heard")
    line = (
        await ear.text("events", "tail", "--no-follow", "--from", "beginning", "--tenant", ear.tenant.id)
    ).splitlines()
    (place,) = [re.findall(r"at=(\S+)", one)[0] for one in line if " ada " in one]
    topic, partition, offset = place.split("/")

    beyond = f"{topic}/{partition}/{int(offset) + 1_000}"
    refused = await ear.run("events", "replay", "--consumer", ear.consumer, "--offset", beyond, status=1)
    assert f"give one from 0 to {int(offset) + 1}" in refused.stderr
    nobody = await ear.run("events", "replay", "--consumer", "acme.nobody.hear", "--offset", place, status=1)
    assert "there is no consumer acme.nobody.hear here; known:" in nobody.stderr
    assert ear.consumer in nobody.stderr
    foreign = f"platform.money.events/{partition}/0"
    refused = await ear.run("events", "replay", "--consumer", ear.consumer, "--offset", foreign, status=1)
    assert f"that reads platform.money.events/{partition}" in refused.stderr

    await ear.query("delete from pk.inbox where consumer = $1", ear.consumer)  # else it has no second effect
    assert (await ear.run("events", "replay", "--consumer", ear.consumer, "--offset", place)).document == {
        "partitions": 1
    }
    await until(lambda: _is(ear.heard, ["ada"]), "it is heard again", LIMIT_S)
    told = await ear.run("events", "replay", "--consumer", ear.consumer, "--since", "2026-01-01T00:00:00Z")
    assert told.document == {"partitions": 12}
    await ear.post("/words", word="bob")
    await until(lambda: _is(ear.heard, ["ada", "bob"]), "what has had its effect has none again", LIMIT_S)


async def test_the_log_is_read_from_any_place_of_it(ear: Ear) -> None:
    for word in ("ada", "bob", "ada"):
        await ear.post("/words", word=word)
    told = f"{ear.area}.word.told.v1"

    async def all_three() -> list[Any]:
        events = await ear.events("--from", "beginning", "--type", told)
        return events if len(events) == 3 else []

    events = await until(all_three, "all are in the log", LIMIT_S)
    assert [(one["subject"], one["sequence"]) for one in events] == [("ada", "1"), ("bob", "1"), ("ada", "2")]
    assert (events[0]["specversion"], events[0]["tenantid"]) == ("1.0", str(ear.tenant.id))
    assert await ear.events("--from", "beginning", "--type", told, "--subject", "bob") == events[1:2]
    assert await ear.events("--from", "now") == []
    assert await ear.events("--from", "2999-01-01T00:00:00Z") == []
    assert (await ear.events("--from", "2020-01-01T00:00:00Z"))[-3:] == events
    ((position, appended_at),) = await ear.query(
        "select position, appended_at from eventbus.log where type = $1 and subject = 'bob'", told
    )
    assert await ear.events("--from", position) == events[1:]
    assert await ear.events("--from", appended_at.isoformat(), "--type", told) == events[1:]
    other = replace(ear, tenant=await ear.kernel.sign_up())
    await other.post("/words", word="eve")
    both = {str(ear.tenant.id), str(other.tenant.id)}

    async def has_both() -> bool:
        everybody = await ear.run("events", "tail", "--no-follow", "--from", "beginning")
        return both <= {json.loads(line)["tenantid"] for line in everybody.stdout.splitlines()}

    await until(has_both, "without a tenant all are shown", LIMIT_S)
    refused = await ear.run("events", "tail", "--from", position + 1_000_000, status=1)
    assert "the log ends at position" in refused.stderr


async def test_a_follower_goes_on_until_ctrl_c_and_ends_well(ear: Ear) -> None:
    process = await asyncio.create_subprocess_exec(
        PK, "events", "tail", "--data-dir", str(ear.kernel.data_dir), "--tenant", str(ear.tenant.id), "--json",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    seen: list[str] = []

    async def read() -> None:
        async for line in process.stdout or ():
            seen.append(json.loads(line)["subject"])

    reading = asyncio.create_task(read())

    async def tells() -> bool:
        await ear.post("/words", word=f"w{uuid4().hex[:8]}")
        return any(one.startswith("w") for one in seen)

    await until(tells, "what is told meanwhile comes", LIMIT_S)
    await ear.post("/words", word="last")
    await until(lambda: "last" in seen, "and goes on coming", LIMIT_S)
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(LIMIT_S):
        _, stderr = await asyncio.gather(process.wait(), process.stderr.read())  # type: ignore[union-attr]
    await reading
    assert (process.returncode, stderr) == (0, b"")


async def test_whoever_reads_no_more_ends_a_follower_quietly(ear: Ear) -> None:
    for number in range(3):
        await ear.post("/words", word=f"w{number}")
    command = f"{PK} events tail --no-follow --from beginning --data-dir {ear.kernel.data_dir} | head -n 1"
    process = await asyncio.create_subprocess_exec(
        "bash", "-o", "pipefail", "-c", command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(LIMIT_S):
        stdout, stderr = await process.communicate()
    assert (process.returncode, len(stdout.splitlines()), stderr) == (0, 1, b"")


async def test_queues_are_seen_and_jobs_cancelled_and_replayed(ear: Ear) -> None:
    queue = f"{ear.area}.far"
    stopped, dead = await ear.post("/work", word="a"), await ear.post("/work", word="b")
    (mine,) = [one for one in (await ear.run("jobs", "list")).document["items"] if one["queue"] == queue]
    assert (mine["waiting"], mine["running"], mine["dead"], mine["oldest"]) == (2, 0, 0, None)
    assert (await ear.run("jobs", "cancel", stopped)).document == {"was": "waiting"}
    await ear.query(
        "update pk.job set state = 'dead', ended_at = now(), attempt = 6, reason = 'no' where id = $1", dead
    )
    await ear.query("update pk.queue_gone set gone = gone + 1 where name = $1", queue)
    (found,) = (await ear.run("jobs", "dead", "--queue", queue)).document["items"]
    assert (found["id"], found["view"]["attempt"], found["view"]["reason"]) == (dead, 6, "no")
    assert dead in await ear.text("jobs", "dead", "--queue", queue)
    assert re.search(rf"^{re.escape(queue)} +0/10000 +0 +1 +-$", await ear.text("jobs", "list"), re.MULTILINE)
    await until(lambda: ear.metric("pk_eventbus_dead_jobs", queue) == 1, "a scrape shows it", 30)

    assert (await ear.run("jobs", "replay", "--job", dead)).document == {"jobs": 1, "left_over": 0}
    assert (await ear.run("jobs", "replay", "--queue", queue)).document == {"jobs": 0, "left_over": 0}
    await until(lambda: ear.metric("pk_eventbus_jobs_done_total", queue) == 1, "it is done this time", LIMIT_S)
    await until(lambda: ear.metric("pk_eventbus_dead_jobs", queue) == 0, "none is dead", 30)
    assert f"there is no dead job {dead}" in (await ear.run("jobs", "replay", "--job", dead, status=1)).stderr
    assert f"the job {dead} is done" in (await ear.run("jobs", "cancel", dead, status=1)).stderr
    nobodys = str(uuid4())
    assert f"there is no job {nobodys}" in (await ear.run("jobs", "cancel", nobodys, status=1)).stderr
    unknown = await ear.run("jobs", "dead", "--queue", "acme.nobody.far", status=1)
    assert "there is no queue acme.nobody.far here; known:" in unknown.stderr


async def test_an_operator_elsewhere_needs_his_key(ear: Ear) -> None:
    operator = await ear.kernel.operator()
    wanted = {"name": "watch", "permissions": ["platform.eventbus.*"]}
    key = str((await operator.post("/api/v1/iam/api-keys", wanted)).expect(201)["secret"])
    theirs = {"name": "export", "permissions": ["iam.user.read"]}
    foreign = str((await ear.tenant.owner.post("/api/v1/iam/api-keys", theirs)).expect(201)["secret"])
    (letter,) = await fail(ear, "ada")
    await ear.post("/mood", deaf=False)

    told, _ = await pk_at(ear.kernel, key, "dlq", "--consumer", ear.consumer, group="events")
    assert [one["id"] for one in told["items"]] == [letter["id"]]
    told, _ = await pk_at(ear.kernel, key, "replay", "--letter", letter["id"], group="events")
    assert told == {"letters": 1}
    told, _ = await pk_at(ear.kernel, key, "list", group="jobs")
    assert f"{ear.area}.far" not in [one["queue"] for one in told["items"]], "nothing was put"
    for group, word in (("events", "tail"), ("events", "dlq"), ("jobs", "list"), ("jobs", "dead")):
        _, refused = await pk_at(ear.kernel, foreign, word, group=group, status=1)
        assert "needs the permission platform.eventbus." in refused
    answer = await ear.tenant.owner.get("/api/v1/eventbus/events")
    assert answer.expect(403).code == "not_allowed"


async def test_what_was_heard_and_put_goes_with_the_data_and_not_before(ear: Ear) -> None:
    await fail(ear, "ada")
    await ear.post("/work", word="a")
    await ear.pk(ear.kernel, "plugins", "remove", ear.area, "--data", "keep")
    assert len(await ear.letters()) == 1
    await ear.pk(ear.kernel, "plugins", "install", ear.wheel)
    assert await kept(ear) == {"progress": 12, "letters": 1, "jobs": 1, "queues": 1, "schedules": 1, "entities": 1}
    await ear.pk(ear.kernel, "plugins", "remove", ear.area, "--data", "purge")
    assert set((await kept(ear)).values()) == {0}
    (event,) = await ear.events("--from", "beginning", "--type", f"{ear.area}.word.told.v1")
    assert event["subject"] == "ada", "what was told stays"

    await ear.pk(ear.kernel, "plugins", "install", ear.wheel)
    await ear.post("/words", word="ada")
    await until(lambda: _is(ear.heard, ["ada"]), "it begins afresh", LIMIT_S)
    (_, again) = await ear.events("--from", "beginning", "--type", f"{ear.area}.word.told.v1")
    assert again["sequence"] == "1"


async def kept(ear: Ear) -> dict[str, int]:
    """What there is of the plugin outside its own schema."""
    schema = f"x_{ear.area.replace('.', '_')}"
    asked = {
        "progress": ("eventbus.progress where consumer = $1", ear.consumer),
        "letters": ("eventbus.dead_letters where consumer = $1", ear.consumer),
        "jobs": ("pk.job where plugin = $1", schema),
        "queues": ("pk.queue where plugin = $1", schema),
        "schedules": ("eventbus.schedules where plugin = $1", schema),
        "entities": ("pk.entity where area = $1", ear.area),
    }
    return {
        name: (await ear.query(f"select count(*) as n from {where}", argument))[0]["n"]
        for name, (where, argument) in asked.items()
    }
