"""One trace from a request through a plugin that another plugin calls, the outbox, a consumer and a job; sent to a real collector."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from plugin_api.testing import KernelProcess, Tenant, until
from plugin_api.testing.kernel import run_apart
from tests.host.collector import Collector, Received, collecting
from tests.plugins.conftest import Recipe, run_pk

TELLER = """
    @operation("POST /words", permission="word.read", status=200)
    async def tell(self, call: Call, request: Word) -> Said:
        \"\"\"Tell a word.\"\"\"
        (await call.tx()).emit(Event("word.told.v1", request.word, {"word": request.word}))
        return Said(text=call.trace.traceparent)
"""
TELLER_TOP = """from plugin_api import Event

class Word(Struct, frozen=True, forbid_unknown_fields=True):
    word: str
"""
EAR_TOP = """from plugin_api import on
from plugin_api.events import EventEnvelope
from plugin_api.ports.job_queue import Job

class Word(Struct, frozen=True, forbid_unknown_fields=True):
    word: str
"""
EAR = """
    def __init__(self, services, log, jobs):
        self.services, self.log, self.jobs = services, log, jobs

    @operation("POST /relays", permission="word.read", status=200)
    async def relay(self, call: Call, request: Word) -> Said:
        \"\"\"Have another plugin tell it.\"\"\"
        self.log.info("a word is relayed", word=request.word)
        teller = self.services.get(ServiceKey("acme.teller"))
        answer = await teller.tell(call, Word(word=request.word))
        return Said(text=answer.text)

class Reactions:
    def __init__(self, log, jobs):
        self.log, self.jobs = log, jobs

    @on("acme.teller.word.told.v1")
    async def hear(self, call: Call, event: EventEnvelope) -> None:
        \"\"\"Hear it, and note it down later.\"\"\"
        self.log.info("a word was heard", word=event.data["word"], told=event.traceparent)
        await self.jobs.put(call, Job("note", {"word": event.data["word"]}))
        if event.data["word"].startswith("bad"):
            raise RuntimeError("a bad word")
"""
EAR_PLUGIN = """from plugin_api import Registrar, hookimpl
from .operations import Operations, Reactions

class Plugin:
    @hookimpl
    def pk_register(self, registrar: Registrar) -> None:
        async def note(call, job):
            registrar.log.info("a word was noted", word=job.data["word"])

        registrar.operations(Operations(registrar.services, registrar.log, registrar.jobs))
        registrar.reactions(Reactions(registrar.log, registrar.jobs))
        registrar.worker("note", note)

plugin = Plugin()
"""


TABLE = """-- phase: expand
-- up
create table words (tenant_id uuid not null default pk.tenant_id(), id uuid not null, primary key (tenant_id, id));
select pk.protect('words');
-- down
drop table words;
"""
MIGRATIONS = {"migrations/0001_words.sql": TABLE}


def teller() -> Recipe:
    """Tells words."""
    manifest = (
        'provides = ["acme.teller 1.0"]\nrequires = ["data >=1", "eventbus >=1"]\n[events]\nemits = ["word.told.v1"]\n'
    )
    return Recipe("acme.teller", manifest=manifest, more=TELLER, operations_top=TELLER_TOP, files=MIGRATIONS)


def ear() -> Recipe:
    """Hears words of the teller, and has it tell some."""
    manifest = (
        'requires = ["data >=1", "eventbus >=1", "jobs >=1", "acme.teller >=1"]\n'
        '[events]\nconsumes = ["acme.teller.word.told.v1"]\n'
    )
    top = f"from plugin_api import ServiceKey\n{EAR_TOP}"
    return Recipe(
        "acme.ear", manifest=manifest, more=EAR, operations_top=top, files={"plugin.py": EAR_PLUGIN, **MIGRATIONS}
    )


@dataclass
class Scene:
    """A kernel with both plugins, a tenant in it, and the collector that it sends to."""

    kernel: KernelProcess
    tenant: Tenant
    collector: Collector

    async def relay(self, word: str, *, sampled: bool | None) -> tuple[str, str, str]:
        """Have a word told; (trace id, span id that was sent, traceparent inside the teller)."""
        trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
        sent = {} if sampled is None else {"traceparent": f"00-{trace_id}-{span_id}-0{int(sampled)}"}
        answer = await self.tenant.owner.post("/api/v1/x/acme.ear/relays", {"word": word}, headers=sent)
        return trace_id, span_id, str(answer.expect(200)["text"])

    def lines(self, word: str) -> list[dict[str, Any]]:
        """Log lines about a word."""
        found = [json.loads(line) for line in self.kernel.log_file.read_text().splitlines() if line.startswith("{")]
        return [line for line in found if line.get("word") == word]

    async def noted(self, word: str) -> dict[str, dict[str, Any]]:
        """Wait for the job's line; the lines about the word by message."""
        await until(lambda: any(line["msg"] == "a word was noted" for line in self.lines(word)), f"{word} was noted")
        return {line["msg"]: line for line in self.lines(word)}

    async def spans(self, trace_id: str, count: int) -> dict[str, Received]:
        """Wait for so many spans of a trace; by name."""
        await until(lambda: len(self.collector.of(trace_id)) >= count, f"{count} spans of {trace_id}")
        return {span.name: span for span in self.collector.of(trace_id)}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Tracing on, nothing sampled but what callers want."""
    with collecting() as collector:
        settings = {"PK_OBSERVE__OTLP_ENDPOINT": collector.url, "PK_OBSERVE__TRACE_RATIO": "0"}
        kernel = KernelProcess(["--no-demo"], settings)
        try:
            yield run_apart(prepare(kernel, collector, tmp_path_factory.mktemp("wheels")))
        finally:
            run_apart(kernel.close())


async def prepare(kernel: KernelProcess, collector: Collector, folder: Path) -> Scene:
    """Start it, with both plugins and a tenant."""
    await kernel.start()
    for recipe in (teller(), ear()):
        await run_pk(kernel, "plugins", "install", recipe.wheel(folder))
    return Scene(kernel, await kernel.sign_up(), collector)


async def test_one_trace_from_the_request_to_the_job(scene: Scene) -> None:
    trace_id, sent, told = await scene.relay("tree", sampled=True)

    lines = await scene.noted("tree")
    spans = await scene.spans(trace_id, 4)

    names = ("POST /api/v1/x/acme.ear/relays", "acme.teller.tell", "react acme.ear.hear", "job acme.ear.note")
    request, inner, heard, noted = (spans[name] for name in names)
    assert ["server", "internal", "consumer", "consumer"] == [one.kind for one in (request, inner, heard, noted)]
    assert [sent, request.span_id, inner.span_id, heard.span_id] == [
        one.parent_id for one in (request, inner, heard, noted)
    ]
    assert told == f"00-{trace_id}-{inner.span_id}-01" == lines["a word was heard"]["told"]
    assert {trace_id} == {line["trace_id"] for line in lines.values()}
    assert {scene.tenant.id} == {one.attributes["tenant.id"] for one in spans.values()}
    assert ["acme.ear", "acme.teller", "acme.ear", "acme.ear"] == [
        one.attributes["pk.plugin"] for one in (request, inner, heard, noted)
    ]
    assert {"platform-kernel"} == {one.resource["service.name"] for one in spans.values()}
    assert "tree" not in str(spans)  # what people write is in no span


async def test_what_nobody_samples_is_not_sent_and_hangs_together_all_the_same(scene: Scene) -> None:
    trace_id, sent, told = await scene.relay("leaf", sampled=False)
    _, _, made = await scene.relay("twig", sampled=None)

    leaf, twig = await scene.noted("leaf"), await scene.noted("twig")
    sampled = (await scene.relay("root", sampled=True))[0]
    await scene.spans(sampled, 4)

    received = {span.trace_id for span in scene.collector.spans}  # those of other tests may come late
    assert sampled in received
    assert not {trace_id, made.split("-")[1]} & received
    assert told == f"00-{trace_id}-{sent}-00"
    assert {trace_id} == {line["trace_id"] for line in leaf.values()}
    assert {made.split("-")[1]} == {line["trace_id"] for line in twig.values()}


async def test_an_attempt_that_fails_is_a_span_of_its_own(scene: Scene) -> None:
    trace_id = (await scene.relay("bad word", sampled=True))[0]

    def attempts_of() -> list[Received]:
        return [span for span in scene.collector.of(trace_id) if span.name == "react acme.ear.hear"]

    await until(lambda: len(attempts_of()) >= 4, "four attempts")

    attempts = attempts_of()
    assert 4 == len(attempts) == len({span.span_id for span in attempts})
    assert all(span.failed and span.attributes["error.type"] == "RuntimeError" for span in attempts)


async def test_a_collector_that_is_away_costs_one_line_and_no_request_and_no_span_at_the_end(fresh_kernel: Any) -> None:
    with collecting() as collector:
        collector.stop()
        settings = {"PK_OBSERVE__OTLP_ENDPOINT": collector.url, "PK_OBSERVE__TRACE_RATIO": "1"}
        kernel: KernelProcess = await fresh_kernel(environment=settings)
        tenant = await kernel.sign_up()
        for _ in range(50):
            (await tenant.owner.get("/api/v1/iam/me")).expect(200)
        text = kernel.log_file.read_text
        await until(lambda: "the collector takes no spans" in text(), "it is told")
        collector.start(collector.port)

        await until(
            lambda: any(span.name == "GET /api/v1/iam/me" for span in collector.spans), "they come when it is back"
        )
        last = secrets.token_hex(16)
        (await tenant.owner.get("/api/v1/iam/me", headers={"traceparent": f"00-{last}-{'1' * 16}-01"})).expect(200)
        status = await kernel.stop()

    assert (0, 1) == (status, len(collector.of(last)))  # what was under way is sent before the end
    assert 1 == text().count("the collector takes no spans")
    assert "opentelemetry" not in text()
