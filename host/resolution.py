"""Which plugins start, in which order, and why the others do not: capabilities that are needed meet those provided."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from heapq import heapify, heappop, heappush

from host.discovery import Found
from host.services import HOST_ONLY
from plugin_api.manifest import Manifest
from plugin_api.version_range import VersionRange, split_requirement

_KERNEL = "kernel."


@dataclass(frozen=True)
class Resolution:
    """What to start and what not."""

    order: tuple[Found, ...]
    """In start order: whatever a plugin requires comes before it."""
    blocked: Mapping[str, str]
    """Id -> why it cannot start, in words for an operator."""
    disabled: tuple[str, ...]
    """Ids that settings switch off."""
    left_out: tuple[str, ...]
    """Ids that `only` leaves out."""


class UnknownPlugin(ValueError):
    """A name in `only` or `disabled` is no known plugin; the text names the nearest one."""


@dataclass(frozen=True)
class _Need:
    """One entry of `requires` or `after`."""

    name: str
    wanted: VersionRange
    is_hard: bool

    def __str__(self) -> str:
        return f"{self.name} {self.wanted}".rstrip()


@dataclass(frozen=True)
class _Offer:
    """A capability at a version, and the plugin that provides it."""

    plugin_id: str
    version: str


@dataclass(frozen=True)
class _Off:
    """A plugin that is switched off."""

    manifest: Manifest
    reason: str
    """Empty when an operator did it."""


def resolve(
    found: Iterable[Found],
    only: Collection[str] = (),
    disabled: Collection[str] = (),
    reasons: Mapping[str, str] | None = None,
    elsewhere: Collection[str] = (),
) -> Resolution:
    """Order plugins by what they require and come after; equal input gives equal output.

    `only` (ids, or `money` for `kernel.money`; empty: everything) starts those and what they require. A plugin whose
    need is missing is blocked, its dependents with it, and the rest goes on; a circle blocks its members. `reasons` tells
    of those disabled that no operator switched off why they are. Nothing is started or missed for a capability that another
    kernel serves (`elsewhere`).

    Raises:
        UnknownPlugin: `only` names what is not installed.
    """
    known = sorted(found, key=lambda one: (one.id, one.distribution))
    blocked = _broken(known)
    sound = {one.id: one for one in known if one.problem is None}
    off_ids = {plugin_id for name in disabled if (plugin_id := _find_id(name, sound)) is not None}
    switched_off = {i: _Off(sound[i].manifest, (reasons or {}).get(i, "")) for i in off_ids}
    manifests = {i: one.manifest for i, one in sound.items() if i not in switched_off}
    chosen = _chosen(manifests, only, blocked, elsewhere)
    left_out = tuple(i for i in manifests if i not in chosen)
    starting = {i: manifests[i] for i in manifests if i in chosen}
    blocked |= _block(starting, manifests, switched_off, elsewhere)
    order = _order({i: m for i, m in starting.items() if i not in blocked})
    return Resolution(tuple(sound[i] for i in order), blocked, tuple(sorted(switched_off)), left_out)


def _broken(known: Sequence[Found]) -> dict[str, str]:
    """Reasons of those that discovery found a problem with; a sound namesake of the kernel's own counts first."""
    sound = {one.id for one in known if one.problem is None}
    broken: dict[str, str] = {}
    for one in known:
        if one.problem is not None and one.id not in sound:
            broken[one.id] = (
                f"{broken[one.id]}\n{one.problem}"
                if one.id in broken and broken[one.id] != one.problem
                else one.problem
            )
    return broken


def _find_id(name: str, known: Collection[str]) -> str | None:
    return next((candidate for candidate in (name, f"{_KERNEL}{name}") if candidate in known), None)


# ------------------------------------------------------------------------------------------------ choice


def _chosen(
    manifests: Mapping[str, Manifest], only: Collection[str], blocked: Mapping[str, str], elsewhere: Collection[str]
) -> set[str]:
    if not only:
        return set(manifests)
    waiting = [_named(name, {*manifests, *blocked}) for name in sorted(only)]
    offers, chosen = _offers(manifests), set[str]()
    while waiting:
        plugin_id = waiting.pop()
        if plugin_id in chosen or plugin_id not in manifests:
            continue
        chosen.add(plugin_id)
        needed = [need.name for need in _needs(manifests[plugin_id]) if need.is_hard]
        waiting += [offers[name].plugin_id for name in needed if name in offers and name not in elsewhere]
    return chosen


def _named(name: str, known: Collection[str]) -> str:
    plugin_id = _find_id(name, known)
    if plugin_id is not None:
        return plugin_id
    short = {candidate.removeprefix(_KERNEL) for candidate in known}
    near = get_close_matches(name, sorted(short | set(known)), n=1)
    remedy = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(short)) or 'none'}"
    raise UnknownPlugin(f"there is no plugin {name} here; {remedy}")


# ---------------------------------------------------------------------------------------------- blocking


def _block(
    starting: Mapping[str, Manifest],
    all_known: Mapping[str, Manifest],
    switched_off: Mapping[str, _Off],
    elsewhere: Collection[str],
) -> dict[str, str]:
    """Who cannot start and why; repeated until nobody new is found, because dependents go with what they need."""
    blocked = {**_double_offers(starting), **_overreaching(starting)}
    while True:
        alive = {i: m for i, m in starting.items() if i not in blocked}
        lacking = dict(_lacking(alive, blocked, starting, all_known, switched_off, elsewhere))
        lacking = lacking or _circles(alive)
        if not lacking:
            return blocked
        blocked |= lacking


def _double_offers(starting: Mapping[str, Manifest]) -> dict[str, str]:
    first: dict[str, str] = {}
    blocked: dict[str, str] = {}
    for plugin_id, manifest in sorted(starting.items(), key=lambda pair: (not pair[0].startswith(_KERNEL), pair[0])):
        for name in _provided(manifest):
            owner = first.setdefault(name, plugin_id)
            if owner != plugin_id:
                blocked[plugin_id] = (
                    f"{plugin_id} provides {name}, which {owner} provides already; disable one of the two"
                )
    return blocked


def _overreaching(starting: Mapping[str, Manifest]) -> dict[str, str]:
    """Others' plugins that ask for what is the host's alone."""
    wanted = {
        plugin_id: sorted({need.name for need in _needs(manifest)} & HOST_ONLY)
        for plugin_id, manifest in starting.items()
        if not plugin_id.startswith(_KERNEL)
    }
    return {
        plugin_id: f"{plugin_id} asks for {', '.join(names)}, which only the kernel's own plugins may use; leave it out"
        for plugin_id, names in wanted.items()
        if names
    }


def _lacking(
    alive: Mapping[str, Manifest],
    blocked: Mapping[str, str],
    starting: Mapping[str, Manifest],
    all_known: Mapping[str, Manifest],
    switched_off: Mapping[str, _Off],
    elsewhere: Collection[str],
) -> Iterator[tuple[str, str]]:
    offers = _offers(alive)
    for plugin_id, manifest in alive.items():
        for need in _needs(manifest):
            offer = offers.get(need.name)
            if offer is not None and need.wanted.allows(offer.version):
                continue
            if offer is not None and need.is_hard:
                said = f"{plugin_id} needs {need}, and {offer.plugin_id} provides {need.name} {offer.version}"
                yield plugin_id, f"{said}; install versions that fit"
                break
            if need.is_hard and need.name not in elsewhere:
                yield (
                    plugin_id,
                    _missing(plugin_id, need, blocked, starting, all_known, switched_off),
                )
                break


def _missing(
    plugin_id: str,
    need: _Need,
    blocked: Mapping[str, str],
    starting: Mapping[str, Manifest],
    all_known: Mapping[str, Manifest],
    switched_off: Mapping[str, _Off],
) -> str:
    said = f"{plugin_id} needs {need}"
    owner = next((i for i, m in {**all_known, **starting}.items() if need.name in _provided(m)), None)
    if owner is not None and owner in blocked:
        return f"{said}, and {owner}, which provides it, cannot start: {blocked[owner]}"
    off = next((i for i, one in switched_off.items() if need.name in _provided(one.manifest)), None)
    if off is not None and switched_off[off].reason:
        return f"{said}, and {off}, which provides it, is {switched_off[off].reason}"
    if off is not None or f"{_KERNEL}{need.name}" in switched_off:
        return f"{said}, and its plugin is disabled; enable it, or disable {plugin_id} too"
    offered = {name: version for m in all_known.values() for name, version in _provided(m).items()}
    near = get_close_matches(need.name, sorted(offered), n=1)
    nearest = f"the nearest is {near[0]} {offered[near[0]]}; " if near else ""
    return f"{said}, which nothing here provides; {nearest}install a plugin that does"


def _circles(alive: Mapping[str, Manifest]) -> dict[str, str]:
    """Plugins on a circle of hard needs, with the circle."""
    offers = _offers(alive)
    after = {
        i: [offers[n.name].plugin_id for n in _needs(m) if n.is_hard and n.name in offers] for i, m in alive.items()
    }
    for start in sorted(after):
        circle = _circle_from(start, after)
        if circle:
            said = f"{' -> '.join(circle)} is a circle of requirements"
            said += "; one of them must do without the next, or name it in `after`"
            return dict.fromkeys(circle, said)
    return {}


def _circle_from(start: str, after: Mapping[str, Sequence[str]]) -> list[str]:
    """The shortest way from `start` back to itself, or nothing."""
    ways, seen = [[start]], set[str]()
    while ways:
        longer: list[list[str]] = []
        for way in ways:
            for following in sorted(set(after[way[-1]])):
                if following == start:
                    return [*way, start]
                if following not in seen:
                    seen.add(following)
                    longer.append([*way, following])
        ways = longer
    return []


# ------------------------------------------------------------------------------------------------- order


def _order(alive: Mapping[str, Manifest]) -> list[str]:
    """Hard needs first, then soft ones; a soft need that would close a circle is dropped, the last by id first."""
    offers = _offers(alive)
    named = {i: [n.name for n in _needs(m) if n.is_hard] for i, m in alive.items()}
    hard = {i: {offers[name].plugin_id for name in names if name in offers} - {i} for i, names in named.items()}
    soft = [
        (plugin_id, offers[need.name].plugin_id)
        for plugin_id, manifest in sorted(alive.items())
        for need in _needs(manifest)
        if not need.is_hard and need.name in offers
    ]
    before = {i: set(needed) for i, needed in hard.items()}
    for plugin_id, wanted in soft:
        if plugin_id != wanted and not _reaches(wanted, plugin_id, before):
            before[plugin_id].add(wanted)
    return _sorted(before)


def _reaches(start: str, goal: str, before: Mapping[str, Collection[str]]) -> bool:
    waiting, seen = [start], {start}
    while waiting:
        here = waiting.pop()
        if here == goal:
            return True
        fresh = [i for i in before[here] if i not in seen]
        seen.update(fresh)
        waiting += fresh
    return False


def _sorted(before: Mapping[str, Collection[str]]) -> list[str]:
    left = {plugin_id: len(needed) for plugin_id, needed in before.items()}
    dependents: dict[str, list[str]] = {plugin_id: [] for plugin_id in before}
    for plugin_id, needed in before.items():
        for other in needed:
            dependents[other].append(plugin_id)
    ready = [plugin_id for plugin_id, count in left.items() if count == 0]
    heapify(ready)
    order: list[str] = []
    while ready:
        plugin_id = heappop(ready)
        order.append(plugin_id)
        for dependent in dependents[plugin_id]:
            left[dependent] -= 1
            if left[dependent] == 0:
                heappush(ready, dependent)
    return order


# ------------------------------------------------------------------------------------------- manifest words


def _needs(manifest: Manifest) -> list[_Need]:
    hard = [_Need(*split_requirement(entry), True) for entry in manifest.requires]
    return hard + [_Need(*split_requirement(entry), False) for entry in manifest.after]


def _provided(manifest: Manifest) -> dict[str, str]:
    return dict(entry.split(" ", 1) for entry in manifest.provides)


def _offers(manifests: Mapping[str, Manifest]) -> dict[str, _Offer]:
    return {
        name: _Offer(plugin_id, version)
        for plugin_id, manifest in sorted(manifests.items(), reverse=True)
        for name, version in _provided(manifest).items()
    }
