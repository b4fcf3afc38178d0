"""A plugin's package as a check sees it: files that were read, none that ran."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from host.authoring.source import Source, parse
from host.discovery import MANIFEST_BYTES_MAX, MANIFEST_NAME
from host.finding import Finding, Severity
from plugin_api.manifest import Manifest, ManifestError, read_manifest

SOURCE_BYTES_MAX: Final = 2_097_152
"""A larger file is not read; that is told."""


@dataclass(frozen=True)
class Place:
    """Something that a rule has found, before the rule's own words are added."""

    message: str
    file: str = ""
    line: int = 0


@dataclass(frozen=True)
class Rule:
    """One thing that is looked for."""

    id: str
    severity: Severity
    why: str
    remedy: str
    look: Callable[[Package], Iterable[Place]]

    def findings(self, package: Package) -> Iterator[Finding]:
        """What it finds in a package."""
        for place in self.look(package):
            yield self.finding(place.message, place.file, place.line)

    def finding(self, message: str, file: str = "", line: int = 0) -> Finding:
        """What it says about one place."""
        return Finding(self.id, self.severity, message, self.why, self.remedy, file, line)


@dataclass(frozen=True)
class Declared:
    """What a distribution says about itself, in its metadata or in `pyproject.toml`."""

    version: str | None
    """None: computed when it is built."""
    entry_points: Mapping[str, str]
    """Of our group: plugin id -> `package:attribute`."""
    file: str
    """Where it says so."""
    project: Mapping[str, Any] = field(default_factory=dict)
    """The whole of `pyproject.toml`; empty for an installed distribution."""


@dataclass(frozen=True)
class Package:
    """One plugin's package and what lies beside it."""

    root: Path
    """The folder that is checked; files are shown relative to it."""
    top: Path
    """The folder that holds the package: the root, or `src` in it."""
    name: str
    declared: Declared | None

    @cached_property
    def folder(self) -> Path:
        """The package itself."""
        return self.top.joinpath(*self.name.split("."))

    def shown(self, path: Path) -> str:
        """A path as findings name it."""
        return path.relative_to(self.root).as_posix()

    @cached_property
    def files(self) -> list[Path]:
        """Every file of the package, by name; compiled caches aside."""
        found = [path for path in self.folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        return sorted(found)

    @cached_property
    def texts(self) -> dict[Path, str | Place]:
        """Text of each `.py`, `.sql` and `.toml`, or why it cannot be read."""
        return {path: self._read(path) for path in self.files if path.suffix in (".py", ".sql", ".toml")}

    def _read(self, path: Path) -> str | Place:
        limit = MANIFEST_BYTES_MAX if path.name == MANIFEST_NAME else SOURCE_BYTES_MAX
        try:
            size = path.stat().st_size
            if size > limit:
                return Place(f"it has {size} bytes, and more than {limit} are not read", self.shown(path))
            return path.read_text("utf-8")
        except (OSError, ValueError) as error:
            return Place(f"it cannot be read as UTF-8: {error}", self.shown(path))

    @cached_property
    def parsed(self) -> tuple[list[Source], list[Place]]:
        """The Python files, and what is wrong with those that are none."""
        sources: list[Source] = []
        faults: list[Place] = []
        for path, text in self.texts.items():
            if isinstance(text, Place):
                faults.append(text)
            elif path.suffix == ".py":
                found = self._parse(path, text)
                if isinstance(found, Source):
                    sources.append(found)
                else:
                    faults.append(found)
        return sources, faults

    @property
    def sources(self) -> list[Source]:
        """The Python files that could be parsed."""
        return self.parsed[0]

    def _parse(self, path: Path, text: str) -> Source | Place:
        parts = path.relative_to(self.top).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        module = ".".join(parts[:-1] if is_package else parts)
        try:
            return parse(self.shown(path), module, text, is_package=is_package)
        except SyntaxError as error:
            return Place(f"Python cannot read it: {error.msg}", self.shown(path), error.lineno or 0)
        except (ValueError, RecursionError, MemoryError) as error:
            return Place(f"Python cannot read it: {type(error).__name__}", self.shown(path))

    @property
    def manifest_file(self) -> str:
        """The manifest as findings name it."""
        return self.shown(self.folder / MANIFEST_NAME)

    @cached_property
    def read(self) -> Manifest | ManifestError | None:
        """The manifest, or what is wrong with it; None when there is none that could be read."""
        text = self.texts.get(self.folder / MANIFEST_NAME)
        if not isinstance(text, str):
            return None
        try:
            return read_manifest(text, self.manifest_file)
        except ManifestError as error:
            return error

    @property
    def manifest(self) -> Manifest | None:
        """The manifest, when it holds."""
        return self.read if isinstance(self.read, Manifest) else None

    @property
    def is_kernel(self) -> bool:
        """Whether it is one of the kernel's own."""
        return self.manifest is not None and self.manifest.id.startswith("kernel.")
