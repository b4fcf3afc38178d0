"""What an unpacked wheel declares: one plugin, whose manifest holds and agrees with the wheel about who it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import importlib_metadata
import msgspec
from importlib_metadata import EntryPoint
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from host.discovery import GROUP, MANIFEST_BYTES_MAX, MANIFEST_NAME, OWN_DISTRIBUTION
from host.store.wheels import Wheel
from plugin_api.errors import InvalidRequest
from plugin_api.manifest import Manifest, ManifestError, PluginId, read_manifest

_KERNEL: Final = "kernel."
_TARGET: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\Z", re.ASCII)


@dataclass(frozen=True)
class Declared:
    """The plugin of a wheel."""

    manifest: Manifest
    target: str
    """`package:attribute`."""


def read_declaration(wheel: Wheel, folder: Path) -> Declared:
    """Read the entry point and the manifest of a wheel that was unpacked to `folder`.

    Raises:
        InvalidRequest: `no_plugin`, `several_plugins`, `id_reserved`.
        ManifestError: the manifest is missing, does not hold, or names another id or version.
    """
    found = declared_plugins(wheel, folder)
    if not found:
        raise no_plugin(f"{wheel.label} declares no plugin: it has no entry point in the group {GROUP}")
    if len(found) > 1:
        names = " and ".join(sorted(entry.name for entry in found))
        said = f"{wheel.label} declares {len(found)} plugins, {names}; a distribution carries one, so split it"
        raise InvalidRequest(said, code="several_plugins")
    (entry,) = found
    _check_id(entry.name, wheel)
    manifest = _manifest(entry, wheel, folder)
    return Declared(manifest, entry.value.strip())


def declared_plugins(wheel: Wheel, folder: Path) -> list[EntryPoint]:
    """The entry points of an unpacked wheel in our group.

    Raises:
        InvalidRequest: `no_plugin`, its entry points cannot be read.
    """
    try:
        distribution = importlib_metadata.Distribution.at(folder / wheel.info_folder)
        return list(distribution.entry_points.select(group=GROUP))
    except Exception as error:
        raise no_plugin(f"{wheel.label} has an entry_points.txt that cannot be read: {error}") from error


def no_plugin(why: str) -> InvalidRequest:
    """The refusal of what carries no plugin."""
    return InvalidRequest(
        f'{why}; a plugin has one, `"acme.crm" = "acme_crm:plugin"` below [project.entry-points."{GROUP}"]',
        code="no_plugin",
    )


def _check_id(plugin_id: str, wheel: Wheel) -> None:
    if plugin_id.startswith(_KERNEL) or wheel.key == canonicalize_name(OWN_DISTRIBUTION):
        raise InvalidRequest(
            f"the id {plugin_id} belongs to {OWN_DISTRIBUTION}, and {wheel.label} claims it; choose your own",
            code="id_reserved",
        )
    try:
        msgspec.convert(plugin_id, PluginId)
    except msgspec.ValidationError:
        raise ManifestError(
            f"{wheel.label} names its entry point {plugin_id[:80]!r}, which is no plugin's id; write two or more words "
            'of lower-case letters and digits joined by dots, at most 60 characters, like "acme.crm"'
        ) from None


def _manifest(entry: EntryPoint, wheel: Wheel, folder: Path) -> Manifest:
    target = entry.value.strip()
    if not _TARGET.match(target):
        raise no_plugin(f"{wheel.label}: the entry point {entry.name} is {target[:200]!r}, not package:attribute")
    place = target.partition(":")[0].replace(".", "/")
    if not (folder / place / "__init__.py").is_file():
        raise no_plugin(f"{wheel.label}: {entry.name} is {target}, and the wheel has no {place}/__init__.py")
    manifest = _read(folder, f"{place}/{MANIFEST_NAME}", entry.name)
    if manifest.id != entry.name:
        raise ManifestError(
            f"{place}/{MANIFEST_NAME}: `id` is {manifest.id!r}, and the entry point of {wheel.label} is named "
            f"{entry.name!r}; make them equal"
        )
    if not _is_same(manifest.version, wheel.version):
        raise ManifestError(
            f"{place}/{MANIFEST_NAME}: {manifest.id} has the `version` {manifest.version!r}, and its wheel is "
            f"{wheel.label}; make them equal"
        )
    return manifest


def _read(folder: Path, place: str, plugin_id: str) -> Manifest:
    file = folder / place
    if not file.is_file():
        raise ManifestError(f"{plugin_id}: the wheel has no {place}; put it beside __init__.py as package data")
    if file.stat().st_size > MANIFEST_BYTES_MAX:
        raise ManifestError(f"{plugin_id}: {place} has more than {MANIFEST_BYTES_MAX} bytes; shorten it")
    try:
        return read_manifest(file.read_text("utf-8"), place)
    except UnicodeDecodeError as error:
        raise ManifestError(f"{plugin_id}: {place} is no UTF-8: {error}") from error
    except ManifestError as error:
        if plugin_id in error.detail:
            raise
        raise ManifestError(f"{plugin_id}: {error.detail}", violations=error.violations) from error


def _is_same(manifest_version: str, wheel_version: str) -> bool:
    """Semantic versions and those of wheels spell pre-releases differently: `1.0.0-rc.1` and `1.0.0rc1`."""
    try:
        return Version(manifest_version) == Version(wheel_version)
    except InvalidVersion:
        return False
