"""What may never be: judged from what was told and what has had its effect."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Effect(NamedTuple):
    """An event that has had its effect, or was read."""

    entity: Hashable
    sequence: int


@dataclass(frozen=True)
class Verdict:
    """How many of each."""

    lost: int
    doubled: int
    inverted: int


def judge(told: Iterable[Effect], had_effect: Sequence[Effect]) -> Verdict:
    """Compare what was told (in any order) with what had its effect (in the order of the effects)."""
    counted = Counter(had_effect)
    last: dict[Hashable, int] = defaultdict(int)
    inverted = 0
    for entity, sequence in had_effect:
        inverted += sequence < last[entity]
        last[entity] = max(last[entity], sequence)
    return Verdict(len(set(told) - counted.keys()), sum(times - 1 for times in counted.values()), inverted)


def gaps(offsets: Iterable[tuple[Hashable, int]]) -> int:
    """Holes in the offsets of partitions, from 0."""
    seen: dict[Hashable, list[int]] = defaultdict(list)
    for partition, offset in offsets:
        seen[partition].append(offset)
    return sum(sorted(each) != list(range(len(each))) for each in seen.values())
