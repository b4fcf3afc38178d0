"""Finding plugins without importing them: the entry points of installed distributions, and the manifest beside each."""

from __future__ import annotations

import re
import traceback
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import importlib_metadata
from importlib_metadata import EntryPoint, IDistribution

from plugin_api.manifest import Manifest, ManifestError, Names, names_of, read_manifest

GROUP: Final = "platform_kernel.plugins"
OWN_DISTRIBUTION: Final = "platform-kernel"
MANIFEST_NAME: Final = "manifest.toml"
MANIFEST_BYTES_MAX: Final = 262_144
_KERNEL: Final = "kernel."
_MODULE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*\Z")


class PluginLoadError(Exception):
    """A plugin's code could not be imported; the text names the plugin, the file and the line."""

    def __init__(self, plugin_id: str, reason: str) -> None:
        super().__init__(f"{plugin_id} cannot be imported: {reason}")
        self.plugin_id = plugin_id
        self.reason = reason


@dataclass(frozen=True)
class Found:
    """One plugin as its distribution declares it; none of its code has run."""

    manifest: Manifest
    """What it declares; while there is a problem, only its id and version mean something."""
    folder: Path
    """The package's folder, which holds the manifest."""
    package: str
    target: str
    """`package:attribute`, as the entry point says."""
    distribution: str
    distribution_version: str
    problem: str | None
    """Why it cannot be used, or None."""
    entry_point: EntryPoint
    digest: str = ""
    """Of the package in the store that it is; empty for what comes with the environment."""

    @property
    def id(self) -> str:
        """The plugin's id: the name of its entry point and of its manifest."""
        return self.manifest.id

    @property
    def names(self) -> Names:
        """Everything that derives from its id."""
        return names_of(self.id)

    @property
    def is_kernel(self) -> bool:
        """Whether it is one of the kernel's own."""
        return self.id.startswith(_KERNEL)

    @property
    def home(self) -> Path:
        """The folder that holds its top-level package."""
        return self.folder.parents[self.package.count(".")]

    def load(self) -> object:
        """Import the package and return its plugin object.

        Raises:
            PluginLoadError: whatever its import raised, SystemExit and KeyboardInterrupt included: a plugin that calls
                `sys.exit()` must not end the kernel.
        """
        if self.problem is not None:
            raise PluginLoadError(self.id, self.problem)
        try:
            return self.entry_point.load()
        except BaseException as error:
            raise PluginLoadError(self.id, _where_and_why(error, self.folder)) from error


def discover(path: Sequence[str] | None = None) -> list[Found]:
    """Find every plugin of the environment (or of the folders in `path`), by id; broken ones carry their `problem`."""
    found = [_inspect(entry, named) for entry, named in _entry_points(path)]
    return sorted(_refuse_doubles(found), key=lambda one: (one.id, one.distribution))


def _entry_points(path: Sequence[str] | None) -> Iterator[tuple[EntryPoint, tuple[str, str]]]:
    """Our entry points, each with the name and version of its distribution; one that cannot be read has none.

    `importlib_metadata.entry_points` would let one damaged distribution hide all others.
    """
    seen: set[str] = set()
    places = {} if path is None else {"path": list(path)}
    for distribution in importlib_metadata.distributions(**places):
        try:
            if GROUP not in (distribution.read_text("entry_points.txt") or ""):
                continue  # most have none of ours, and reading the name of each is half of a start's discovery
            name, version = distribution.name, distribution.version
            entries = list(distribution.entry_points.select(group=GROUP))
        except Exception:  # noqa: BLE001, S112 - whatever is damaged, it is no plugin of ours
            continue
        if _normal(name) not in seen:
            seen.add(_normal(name))
            yield from ((entry, (name, version)) for entry in entries)


def _inspect(entry: EntryPoint, named: tuple[str, str]) -> Found:
    name, version = named
    package = entry.value.partition(":")[0].strip()
    unread = Manifest(id=entry.name, version=version, api="", summary="")
    found = Found(unread, Path(), package, entry.value, name, version, None, entry)
    if found.is_kernel and _normal(name) != OWN_DISTRIBUTION:
        said = f"the id {entry.name} belongs to {OWN_DISTRIBUTION}, and {name} {version} claims it; choose your own"
        return replace(found, problem=said)
    folder = _package_folder(package, entry.dist)
    if folder is None:
        return replace(
            found,
            problem=f"{name} {version} declares {entry.value}, and no {MANIFEST_NAME} lies beside it",
        )
    return _with_manifest(replace(found, folder=folder))


def _with_manifest(found: Found) -> Found:
    file = found.folder / MANIFEST_NAME
    try:
        manifest = read_manifest(_read_text(file), str(file))
    except ManifestError as error:
        return replace(found, problem=error.detail)
    except (OSError, ValueError) as error:
        return replace(found, problem=f"{file} cannot be read: {error}")
    if manifest.id != found.id:
        said = f"{file}: `id` is {manifest.id!r}, and the entry point of {found.distribution} is named {found.id!r}"
        return replace(found, problem=f"{said}; make them equal")
    return replace(found, manifest=manifest)


def _read_text(file: Path) -> str:
    with file.open("rb") as stream:
        raw = stream.read(MANIFEST_BYTES_MAX + 1)
    if len(raw) > MANIFEST_BYTES_MAX:
        raise ValueError(f"it is larger than {MANIFEST_BYTES_MAX} bytes")
    return raw.decode("utf-8")


def _package_folder(package: str, distribution: IDistribution | None) -> Path | None:
    """The folder of a package that holds a manifest, without importing it.

    A wheel's files lie where its distribution is; those of an editable install lie anywhere, and the import system is
    asked, for the top-level name alone: looking for a submodule would import its parents.
    """
    if not _MODULE.match(package):
        return None
    top, *rest = package.split(".")
    roots: list[Path] = []
    if distribution is not None:
        roots.append(Path(str(distribution.locate_file(top))))
    roots += _top_level_folders(top)
    for root in roots:
        folder = root.joinpath(*rest)
        if (folder / MANIFEST_NAME).is_file():
            return folder
    return None


def _top_level_folders(top: str) -> list[Path]:
    try:
        spec = find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return []
    if spec is None or spec.submodule_search_locations is None:
        return []
    return [Path(place) for place in spec.submodule_search_locations]


def _refuse_doubles(found: Iterable[Found]) -> list[Found]:
    by_id: dict[str, list[Found]] = defaultdict(list)
    for one in found:
        by_id[one.id].append(one)
    checked: list[Found] = []
    for plugin_id, same in by_id.items():
        checked += _refuse_double(plugin_id, same) if len(same) > 1 else same
    return checked


def _refuse_double(plugin_id: str, same: list[Found]) -> list[Found]:
    owners = [f"{one.distribution} {one.distribution_version}" for one in same]
    said = f"the id {plugin_id} is claimed by {' and by '.join(sorted(owners))}; uninstall all but one"
    keep_own = plugin_id.startswith(_KERNEL)
    return [
        one
        if one.problem or (keep_own and _normal(one.distribution) == OWN_DISTRIBUTION)
        else replace(one, problem=said)
        for one in same
    ]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _where_and_why(error: BaseException, folder: Path) -> str:
    why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(folder)]
    shown = own[-1] if own else frames[-1]
    return f"{shown.filename}:{shown.lineno}: {why}"
