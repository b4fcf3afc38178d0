"""From what an operator wants to what is to be done: which package to bring up, what to write down, what to take away."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from msgspec import ValidationError, convert
from msgspec.structs import replace
from packaging.version import InvalidVersion, Version

from host.changes.orders import Change, Data, Outcome
from host.store.packages import Package
from plugin_api.errors import Conflict, InvalidRequest, NotFound
from plugin_api.ports.desired_state import DesiredPlugin, DesiredPlugins, PreviousVersion, ThirdPartyId

_KERNEL: Final = "kernel."


class Asked(Protocol):
    """What plans ask the coordinator for."""

    async def prepare(self, what: str) -> tuple[Package, list[str]]:
        """A package that has survived its trial, and warnings."""
        ...

    async def dependents(self, plugin_id: str) -> list[str]:
        """Who cannot serve without it."""
        ...

    async def survey(self, plugin_id: str) -> dict[str, Any]:
        """What there is of it."""
        ...


@dataclass(frozen=True)
class Plan:
    """One change, ready to be carried out."""

    desired: DesiredPlugins
    """What was desired when it was made."""
    outcome: Outcome
    is_done: bool = False
    """Nothing is to do: it is so already."""
    stage: DesiredPlugin | None = None
    """What to bring up on every worker before anything is written."""
    is_first: bool = False
    """There is nothing of it in the database: should it fail, what it has made there goes with it."""
    put: Sequence[DesiredPlugin] = ()
    uninstall: Mapping[str, Data] = field(default_factory=dict)
    leaving: Data | None = None
    """What becomes of the data of the plugin that leaves."""
    lifts: str = ""
    """The plugin whose quarantine ends with it."""

    @property
    def plugin_id(self) -> str:
        """Whom it is about."""
        return self.outcome.plugin_id


async def plan_of(change: Change, desired: DesiredPlugins, asked: Asked) -> Plan:
    """Make the plan of a change.

    Raises:
        KernelError: it cannot be; the detail says why and what to do.
    """
    if change.plugin_id:
        _check_id(change.plugin_id)
    return await _PLANS[change.verb](change, desired, asked)


def _check_id(plugin_id: str) -> None:
    """Refuse what no third party's plugin can be called, before anybody looks for it."""
    if plugin_id.startswith(_KERNEL):
        told = f"{plugin_id} comes with the kernel and changes with it; the setting host.disabled switches one off"
        raise Conflict(told, code="kernel_plugin")
    try:
        convert(plugin_id, ThirdPartyId)
    except ValidationError:
        told = f"{plugin_id!r} is no plugin's id, so no such plugin is installed here; `pk plugins list` shows what is"
        raise NotFound(told, code="unknown_plugin") from None


def _find(desired: DesiredPlugins, plugin_id: str) -> DesiredPlugin | None:
    return next((plugin for plugin in desired.plugins if plugin.id == plugin_id), None)


async def _known(desired: DesiredPlugins, plugin_id: str, asked: Asked) -> DesiredPlugin:
    """What is desired of a plugin; one of the kernel's environment may be nothing yet, and is there all the same."""
    plugin = _find(desired, plugin_id)
    if plugin is None:
        of_environment = (await asked.survey(plugin_id)).get("environment")
        plugin = convert(of_environment, DesiredPlugin) if of_environment is not None else None
    if plugin is None:
        raise NotFound(f"{plugin_id} is not installed here; `pk plugins list` shows what is", code="unknown_plugin")
    return plugin


async def _staying(change: Change, desired: DesiredPlugins, asked: Asked) -> DesiredPlugin:
    """What is desired of the plugin of a change, unless it is being removed."""
    plugin = await _known(desired, change.plugin_id, asked)
    if plugin.leaving:
        told = f"{plugin.id} is being removed, and something cut that off; `pk plugins remove {plugin.id}` ends it"
        raise Conflict(f"{told}, installing it again brings it back", code="leaving")
    return plugin


# --------------------------------------------------------------------------------------- install, upgrade


async def _install(change: Change, desired: DesiredPlugins, asked: Asked) -> Plan:
    package, warnings = await asked.prepare(change.what)
    present = _find(desired, package.plugin_id)
    if present is None:
        there = await asked.survey(package.plugin_id)
        made = _new(desired, package, warnings, None, "install")
        return dataclasses.replace(made, is_first=not there.get("tables") and "environment" not in there)
    if present.digest == package.digest and present.enabled and not present.leaving:
        return _same(desired, present, "install")
    if present.leaving:
        return _new(desired, package, warnings, None, "install")
    told = f"{present.id} {present.version} is installed already; `pk plugins upgrade {present.id} WHAT` replaces it"
    raise Conflict(told, code="already_installed")


async def _upgrade(change: Change, desired: DesiredPlugins, asked: Asked) -> Plan:
    present = await _staying(change, desired, asked)
    package, warnings = await asked.prepare(change.what or present.distribution)
    _check_successor(present, package)
    if present.digest == package.digest:
        return _same(desired, present, "upgrade")
    return _new(desired, package, warnings, present, "upgrade")


def _same(desired: DesiredPlugins, present: DesiredPlugin, verb: str) -> Plan:
    """It is desired already, and need not serve: what was missing or damaged of its package has just been made anew."""
    outcome = Outcome(plugin_id=present.id, verb=verb, version=present.version, changed=False)
    return Plan(desired, outcome, stage=present if present.enabled else None)


def _check_successor(present: DesiredPlugin, package: Package) -> None:
    if package.plugin_id != present.id:
        raise InvalidRequest(
            f"that is {package.plugin_id}, not {present.id}; `pk plugins install` installs another plugin"
        )
    if _version(package.version) < _version(present.version):
        told = f"{present.id} {package.version} is older than {present.version}, which serves"
        raise Conflict(
            f"{told}; `pk plugins rollback {present.id}` goes back to the version before", code="older_version"
        )


def _version(text: str) -> Version:
    try:
        return Version(text)
    except InvalidVersion:
        return Version("0")


def _new(
    desired: DesiredPlugins, package: Package, warnings: list[str], present: DesiredPlugin | None, verb: str
) -> Plan:
    wanted = DesiredPlugin(
        package.plugin_id,
        package.version,
        package.digest,
        package.distribution,
        package.target,
        package.requirement,
        enabled=present.enabled if present is not None else True,
        previous=_previous(present) if present is not None else None,
    )
    outcome = Outcome(
        plugin_id=wanted.id,
        verb=verb,
        version=wanted.version,
        former=present.version if present is not None else "",
        warnings=warnings,
    )
    staged = wanted if wanted.enabled else None
    return Plan(desired, outcome, stage=staged, put=[wanted], lifts=wanted.id)


def _previous(plugin: DesiredPlugin) -> PreviousVersion | None:
    if not plugin.digest:
        return None  # of the environment: there is no package to go back to
    return PreviousVersion(plugin.version, plugin.digest, plugin.distribution, plugin.target, plugin.requirement)


async def _rollback(change: Change, desired: DesiredPlugins, asked: Asked) -> Plan:
    present = await _staying(change, desired, asked)
    previous = present.previous
    if previous is None:
        told = f"{present.id} {present.version} has no version before it here; `pk plugins upgrade` takes any other"
        raise Conflict(told, code="nothing_to_roll_back")
    wanted = replace(
        present,
        version=previous.version,
        digest=previous.digest,
        distribution=previous.distribution,
        target=previous.target,
        requirement=previous.requirement,
        previous=_previous(present),
    )
    outcome = Outcome(plugin_id=present.id, verb="rollback", version=wanted.version, former=present.version)
    return Plan(desired, outcome, stage=wanted if wanted.enabled else None, put=[wanted], lifts=present.id)


# --------------------------------------------------------------------------------- enable, disable, remove


async def _enable(change: Change, desired: DesiredPlugins, asked: Asked) -> Plan:
    present = await _staying(change, desired, asked)
    outcome = Outcome(plugin_id=present.id, verb="enable", version=present.version)
    wanted = replace(present, enabled=True)
    return Plan(desired, outcome, stage=wanted, put=[wanted], lifts=present.id)


async def _disable(change: Change, desired: DesiredPlugins, asked: Asked) -> Plan:
    present = await _staying(change, desired, asked)
    others = await _with_dependents(change, asked)
    put = [replace(await _known(desired, one, asked), enabled=False) for one in (present.id, *others)]
    outcome = Outcome(
        plugin_id=present.id, verb="disable", version=present.version, changed=present.enabled, disabled=others
    )
    return Plan(desired, outcome, is_done=not present.enabled, put=put)


async def _with_dependents(change: Change, asked: Asked) -> list[str]:
    others = await asked.dependents(change.plugin_id)
    if others and not change.cascade and not change.dry_run:
        told = f"{', '.join(others)} cannot serve without {change.plugin_id}"
        raise Conflict(f"{told}; disable them first, or ask for the cascade, which disables them too", code="needed")
    return others


async def _remove(change: Change, desired: DesiredPlugins, asked: Asked) -> Plan:
    present = await _known(desired, change.plugin_id, asked)
    if not present.digest:
        told = f"{present.id} belongs to the kernel's own environment ({present.distribution})"
        raise Conflict(f"{told}; uninstall it there and restart, or disable it", code="environment_plugin")
    data = present.leaving or change.data
    others = [] if present.leaving else await _with_dependents(change, asked)
    removed = {"package": f"{present.version}-{present.digest[:12]}", "data": data, **await asked.survey(present.id)}
    outcome = Outcome(plugin_id=present.id, verb="remove", former=present.version, disabled=others, removed=removed)
    put = [replace(await _known(desired, one, asked), enabled=False) for one in others]
    put.append(replace(present, enabled=False, leaving=data))
    return Plan(desired, outcome, put=put, uninstall={present.id: data}, leaving=data, lifts=present.id)


_PLANS: Final[Mapping[str, Callable[[Change, DesiredPlugins, Asked], Awaitable[Plan]]]] = {
    "install": _install,
    "upgrade": _upgrade,
    "rollback": _rollback,
    "enable": _enable,
    "disable": _disable,
    "remove": _remove,
}
