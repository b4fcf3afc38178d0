"""What `pk doctor` reads out of the metrics: how quick the kernel is, what waits, what is broken."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from host.checks import Check
from host.totals import Family

LAG_WARN_S: Final = 0.1
BEHIND_WARN_S: Final = 60.0
OUTBOX_WARN_S: Final = 30.0
NAMED_MAX: Final = 5
"""Consumers, queues or breakers that one line names."""


class Vitals(Struct, frozen=True):
    """Numbers of the whole kernel, as `pk doctor --json` shows them; seconds unless they say otherwise."""

    loop_lag_p99_s: float | None
    """99 of 100 turns of the workers' loops since the kernel started were not later; None before the first. The upper
    bound of a bucket."""
    pools: dict[str, dict[str, float]]
    """`database`, `cache`: `size in_use waiting`, and of the database `waits wait_seconds` since the start."""
    outbox_events: float | None
    """None while no worker of this kernel measures: another one leads the relay, or nobody yet."""
    outbox_seconds: float | None
    consumers: dict[str, float]
    """Consumers that are behind, by the age of the oldest event that they have not passed."""
    queues: dict[str, float]
    """Queues with a job that is due, by how long the oldest has been."""
    dead_letters: dict[str, float]
    """By consumer, as far as it has any."""
    dead_jobs: dict[str, float]
    """By queue, as far as it has any."""
    stalls: dict[str, float]
    """By plugin."""
    breakers: dict[str, float]
    """Breakers that are not closed, by their labels; what the number means is its metric's business, 0 is closed."""
    tracing: dict[str, Any]
    """`on exported dropped waiting failures`."""


class _Read:
    """Families by name, for looking things up."""

    def __init__(self, families: Sequence[Family]) -> None:
        self.families = {family.name: family for family in families}

    def number(self, name: str) -> float | None:
        """The sum of all series; None when there are none."""
        family = self.families.get(name)
        return sum(s.value for s in family.samples) if family is not None and family.samples else None

    def by(self, name: str, label: str, keep: Callable[[float, float], float]) -> dict[str, float]:
        """What is above 0 by one label; of several series `keep` makes one."""
        found: dict[str, float] = {}
        for sample in self.families[name].samples if name in self.families else ():
            if sample.value > 0:
                key = sample.labels.get(label) or "nobody's code"
                found[key] = keep(found.get(key, 0.0), sample.value)
        return dict(sorted(found.items(), key=lambda one: -one[1]))


def read_vitals(families: Sequence[Family]) -> Vitals:
    """Read them out of what a scrape shows."""
    read = _Read(families)
    return Vitals(
        loop_lag_p99_s=quantile(read.families.get("pk_loop_lag_seconds"), 0.99),
        pools={"database": _pool(read, "data"), "cache": _pool(read, "cache")},
        outbox_events=read.number("pk_eventbus_outbox_events"),
        outbox_seconds=read.number("pk_eventbus_outbox_seconds"),
        consumers=read.by("pk_eventbus_consumer_behind_seconds", "consumer", max),
        queues=read.by("pk_eventbus_due_jobs_seconds", "queue", max),
        dead_letters=read.by("pk_eventbus_dead_letters", "consumer", _plus),
        dead_jobs=read.by("pk_eventbus_dead_jobs", "queue", _plus),
        stalls=read.by("pk_plugin_stalls_total", "plugin", _plus),
        breakers=_breakers(families),
        tracing=_tracing(read),
    )


def _plus(one: float, other: float) -> float:
    return one + other


def _pool(read: _Read, area: str) -> dict[str, float]:
    figures = {
        "size": f"pk_{area}_pool_size",
        "in_use": f"pk_{area}_pool_in_use",
        "waiting": f"pk_{area}_pool_waiting",
        "waits": f"pk_{area}_pool_waits_total",
        "wait_seconds": f"pk_{area}_pool_wait_seconds_total",
    }
    found = {figure: read.number(name) for figure, name in figures.items()}
    return {figure: value for figure, value in found.items() if value is not None}


def _breakers(families: Sequence[Family]) -> dict[str, float]:
    """Whoever keeps breakers shows a gauge `..._breaker_state`, 0 for each that is closed."""
    samples = [s for family in families if family.name.endswith("breaker_state") for s in family.samples]
    return {" ".join(f"{name}={s.labels[name]}" for name in sorted(s.labels)): s.value for s in samples if s.value}


def _tracing(read: _Read) -> dict[str, Any]:
    names = {
        "exported": "pk_spans_exported_total",
        "dropped": "pk_spans_dropped_total",
        "waiting": "pk_spans_waiting",
        "failures": "pk_span_export_failures_total",
    }
    counts = {key: read.number(name) or 0.0 for key, name in names.items()}
    return {"on": bool(read.number("pk_tracing_workers")), **counts}


def quantile(family: Family | None, share: float) -> float | None:
    """The bound of the bucket in which a histogram's quantile lies; infinite past the last, None when it is empty."""
    counted = [s for s in family.samples if s.name.endswith("_bucket")] if family is not None else []
    buckets = sorted((float(s.labels["le"].replace("+Inf", "inf")), s.value) for s in counted)
    if not buckets or buckets[-1][1] == 0:
        return None
    wanted = share * buckets[-1][1]
    return next(bound for bound, reached in buckets if reached >= wanted)


# ------------------------------------------------------------------------------------------------- checks


def vital_checks(vitals: Vitals) -> Iterator[Check]:
    """The same for people."""
    yield _lag(vitals.loop_lag_p99_s)
    for name, setting in (("database", "data"), ("cache", "cache")):
        yield from _pool_check(f"{name} pool", setting, vitals.pools[name])
    yield _outbox(vitals)
    yield _waiting("consumers", vitals.consumers, "no event waits for its consumer", "see the log, and `pk events dlq`")
    yield _waiting("job queues", vitals.queues, "no job is overdue", "see `pk jobs list`; more workers do more at once")
    yield _broken("dead letters", vitals.dead_letters, "none", "`pk events dlq` says why")
    yield _broken("dead jobs", vitals.dead_jobs, "none", "`pk jobs dead` says why")
    yield _broken("stalls", vitals.stalls, "no plugin has held up an event loop", "`pk plugins list` says where")
    yield _broken(
        "breakers", vitals.breakers, "none is open", "what is behind an open one fails; it is tried again by itself"
    )
    yield _tracing_check(vitals.tracing)


def _lag(seconds: float | None) -> Check:
    if seconds is None:
        return Check("loop lag", "ok", "not measured yet")
    bound = "more than 10 s" if math.isinf(seconds) else f"at most {_time(seconds)}"
    told = f"99 of 100 turns were late by {bound} since the start"
    if seconds <= LAG_WARN_S:
        return Check("loop lag", "ok", told)
    return Check("loop lag", "warn", told, "code blocks the loop, or the machine is too slow: see stalls, and its load")


def _time(seconds: float) -> str:
    return f"{seconds * 1000:g} ms" if seconds < 1 else f"{seconds:.0f} s"


def _pool_check(name: str, setting: str, pool: Mapping[str, float]) -> Iterator[Check]:
    if "size" not in pool:
        return
    told = f"{pool['in_use']:.0f} of {pool['size']:.0f} connections in use, {pool['waiting']:.0f} calls wait"
    if pool.get("waits"):
        mean = pool["wait_seconds"] / pool["waits"]
        told += f"; {pool['waits']:.0f} have waited since the start, {_time(round(mean, 4))} on average"
    full = pool["waiting"] > 0 or pool["in_use"] >= pool["size"]
    remedy = f"raise {setting}.pool_size, or look for what holds transactions open" if full else ""
    yield Check(name, "warn" if full else "ok", told, remedy)


def _outbox(vitals: Vitals) -> Check:
    if vitals.outbox_events is None or vitals.outbox_seconds is None:
        return Check("outbox", "ok", "measured by whoever leads the relay: not this kernel, or not yet")
    told = f"{vitals.outbox_events:.0f} events are not in the log yet, the oldest for {_time(vitals.outbox_seconds)}"
    if vitals.outbox_seconds <= OUTBOX_WARN_S:
        return Check("outbox", "ok", told)
    return Check("outbox", "warn", told, "the relay does not get on; see the kernel's log")


def _waiting(name: str, found: Mapping[str, float], well: str, remedy: str) -> Check:
    if not found:
        return Check(name, "ok", well)
    told = "longest: " + _named({key: _time(seconds) for key, seconds in found.items()})
    is_late = max(found.values()) > BEHIND_WARN_S
    return Check(name, "warn" if is_late else "ok", told, remedy if is_late else "")


def _broken(name: str, found: Mapping[str, float], well: str, remedy: str) -> Check:
    if not found:
        return Check(name, "ok", well)
    return Check(name, "warn", _named({key: f"{value:g}" for key, value in found.items()}), remedy)


def _named(found: Mapping[str, str]) -> str:
    shown = [f"{key} {value}" for key, value in list(found.items())[:NAMED_MAX]]
    more = len(found) - NAMED_MAX
    return ", ".join(shown) + (f", and {more} more" if more > 0 else "")


def _tracing_check(tracing: Mapping[str, Any]) -> Check:
    if not tracing["on"]:
        return Check("tracing", "ok", "off; observe.otlp_endpoint switches it on")
    told = f"on, {tracing['exported']:.0f} spans sent, {tracing['dropped']:.0f} dropped, {tracing['waiting']:.0f} wait"
    if not tracing["dropped"] and not (tracing["failures"] and tracing["waiting"]):
        return Check("tracing", "ok", told)
    return Check(
        "tracing", "warn", told, "the collector is away or refuses spans: see the log, and observe.otlp_endpoint"
    )
