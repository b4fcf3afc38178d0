"""What all workers count, summed, so that a scrape sees one kernel; and Prometheus' text for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
SAMPLES_MAX: Final = 200_000
"""Samples kept of workers that are gone; a further series is dropped."""

_GROWING: Final = ("counter", "histogram")
Key = tuple[str, tuple[tuple[str, str], ...]]


class Sample(Struct, frozen=True):
    """One number of a series."""

    name: str
    labels: dict[str, str]
    value: float


class Family(Struct, frozen=True):
    """One metric with all its series."""

    name: str
    type: str
    help: str
    samples: list[Sample]


class _Sum:
    def __init__(self, family: Family) -> None:
        self.family = family
        self.values: dict[Key, float] = {}

    def add(self, samples: Iterable[Sample]) -> None:
        for sample in samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            if key in self.values or len(self.values) < SAMPLES_MAX:
                self.values[key] = self.values.get(key, 0.0) + sample.value

    def result(self) -> Family:
        samples = [Sample(name, dict(labels), value) for (name, labels), value in self.values.items()]
        return Family(self.family.name, self.family.type, self.family.help, samples)


def add_up(reports: Iterable[Sequence[Family]]) -> list[Family]:
    """The sum of several reports, sample by sample; the first one's help and type count."""
    sums: dict[str, _Sum] = {}
    for report in reports:
        for family in report:
            sums.setdefault(family.name, _Sum(family)).add(family.samples)
    return [one.result() for one in sums.values()]


class Totals:
    """The counts of the living workers, and of those that are gone.

    Without the latter a counter would fall when a worker is replaced, and a scraper would take what is left for growth.
    """

    def __init__(self) -> None:
        self._last: dict[int, list[Family]] = {}
        self._gone: list[Family] = []

    def report(self, worker: int, families: Any) -> None:
        """Take what a worker counts now; `worker` is its pid.

        Raises:
            msgspec.ValidationError: it is not a list of families.
        """
        self._last[worker] = msgspec.convert(families, list[Family])

    def retire(self, worker: int) -> None:
        """Keep what a worker that is gone had counted by its last report."""
        last = [family for family in self._last.pop(worker, []) if family.type in _GROWING]
        self._gone = add_up([self._gone, last])

    def families(self, own: Sequence[Family]) -> list[Family]:
        """All of it, with the parent's own."""
        return add_up([own, self._gone, *self._last.values()])


def single(name: str, kind: str, text: str, value: float) -> Family:
    """A family of one series without labels."""
    return Family(name, kind, text, [Sample(name, {}, value)])


def show(families: Iterable[Family]) -> str:
    """Prometheus' text format."""
    lines: list[str] = []
    for family in families:
        lines.append(f"# HELP {family.name} {_escape(family.help)}")
        lines.append(f"# TYPE {family.name} {family.type}")
        lines += [f"{s.name}{_show_labels(s.labels)} {_show_number(s.value)}" for s in family.samples]
    return "\n".join(lines) + "\n"


def _show_labels(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    shown = (f'{name}="{_escape(value, quote=True)}"' for name, value in labels.items())
    return f"{{{','.join(shown)}}}"


def _escape(text: str, *, quote: bool = False) -> str:
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    return text.replace('"', r"\"") if quote else text


def _show_number(value: float) -> str:
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)
