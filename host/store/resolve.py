"""What a plugin needs and the kernel's own environment lacks: answered by looking where possible, else by pip."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import importlib_metadata
import msgspec
from msgspec import Struct, field
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from host.store.pip_process import Pip, library_conflict
from host.store.wheels import Wheel, compiled, is_pure, read_wheel
from plugin_api.errors import Conflict, InvalidRequest

DEPENDENCIES_MAX: Final = 100
_ASKERS_MAX: Final = 3


@dataclass(frozen=True)
class Installed:
    """One distribution of the kernel's own environment."""

    name: str
    version: Version
    source: importlib_metadata.IDistribution

    @cached_property
    def requires(self) -> tuple[Requirement, ...]:
        """What it requires; what cannot be read is left out, since it stands there already."""
        return tuple(_readable(self.source.requires or ()))


_HEAD: Final = re.compile(r"^(name|version):[ \t]*(\S+)", re.IGNORECASE | re.MULTILINE)

Environment = Mapping[str, Installed]
"""By normal name."""


def installed() -> Environment:
    """Every distribution of this interpreter; of two with one name the first counts, as when importing."""
    found: dict[str, Installed] = {}
    for distribution in importlib_metadata.distributions():
        try:
            name, version = _name_and_version(distribution)
            one = Installed(name, Version(version), distribution)
            key = canonicalize_name(one.name, validate=True)
        except Exception:  # noqa: BLE001, S112 - a damaged one can neither be pinned nor used
            continue
        found.setdefault(key, one)
    return found


def _name_and_version(distribution: importlib_metadata.IDistribution) -> tuple[str, str]:
    """From the head of its metadata: to read all of them whole takes longer than to build a plugin's wheel."""
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    head = {key.lower(): value for key, value in _HEAD.findall(text.partition("\n\n")[0])}
    return head["name"], head["version"]


def _readable(texts: Iterable[str]) -> Iterator[Requirement]:
    for text in texts:
        try:
            yield Requirement(text)
        except InvalidRequirement:
            continue


def constraints(environment: Environment, *, without: str) -> str:
    """Every distribution at its version, for `pip -c`; `without` is the plugin's own, which may be installed too."""
    return "".join(f"{one.name}=={one.version}\n" for key, one in sorted(environment.items()) if key != without)


# --------------------------------------------------------------------------------------------- by looking


def missing(label: str, requires: Iterable[Requirement], environment: Environment) -> list[Requirement]:
    """What of a distribution's requirements is not installed; extras of installed ones are followed.

    Raises:
        Conflict: `library_conflict`, one is installed in a version that does not fit.
    """
    lacking: list[Requirement] = []
    waiting = [(label, one) for one in requires if applies(one, frozenset())]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        asker, wanted = waiting.pop()
        there = environment.get(canonicalize_name(wanted.name))
        if there is None:
            lacking.append(wanted)
            continue
        if not wanted.specifier.contains(there.version, prereleases=True):
            raise library_conflict(_conflict(asker, wanted, there, environment))
        extras = frozenset(wanted.extras)
        if extras and (there.name, extras) not in seen:
            seen.add((there.name, extras))
            waiting += [(there.name, one) for one in there.requires if _belongs(one, extras)]
    return lacking


def applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    """Whether a requirement's marker holds here, with one of these extras or with none."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""})


def _belongs(requirement: Requirement, extras: frozenset[str]) -> bool:
    return applies(requirement, extras) and not applies(requirement, frozenset())


def _conflict(asker: str, wanted: Requirement, there: Installed, environment: Environment) -> str:
    key = canonicalize_name(wanted.name)
    askers = [
        f"{one.name} needs {other.name}{other.specifier}"
        for one in environment.values()
        for other in one.requires
        if canonicalize_name(other.name) == key and other.specifier and applies(other, frozenset())
    ]
    told = f" ({', '.join(sorted(askers)[:_ASKERS_MAX])})" if askers else ""
    needs = f"{wanted.name}{wanted.specifier}"
    return f"{asker} needs {needs}, and the kernel's environment has {there.name} {there.version}{told}"


# ------------------------------------------------------------------------------------------------- by pip


class _Archive(Struct, frozen=True):
    hashes: dict[str, str] = field(default_factory=dict)


class _Download(Struct, frozen=True):
    url: str
    archive_info: _Archive = field(default_factory=_Archive)


class _Metadata(Struct, frozen=True):
    name: str
    version: str


class Resolved(Struct, frozen=True):
    """One distribution that pip's report lists."""

    download_info: _Download
    metadata: _Metadata
    is_direct: bool = False

    @property
    def key(self) -> str:
        """The normal form of its name."""
        return canonicalize_name(self.metadata.name)

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"{self.metadata.name} {self.metadata.version}"

    @property
    def file_name(self) -> str:
        """The last part of its address."""
        return unquote(urlsplit(self.download_info.url).path.rpartition("/")[2])

    @property
    def is_wheel(self) -> bool:
        """Whether it need not be built."""
        return self.file_name.endswith(".whl")

    @property
    def exactly(self) -> str:
        """The requirement that only this version meets."""
        return f"{self.key}=={Version(self.metadata.version)}"

    @property
    def pin(self) -> str:
        """The option by which pip takes these bytes only; empty where the index tells no good hash."""
        known = self.download_info.archive_info.hashes
        return next((f"--hash={name}:{known[name]}" for name in ("sha256", "sha384", "sha512") if name in known), "")


class _Report(Struct, frozen=True):
    install: list[Resolved]


def resolve(pip: Pip, what: str, own_key: str, environment: Environment, *, about: str) -> list[Resolved]:
    """Everything that `what` needs and the environment lacks, `what` itself included. `about` is its name in messages.

    Raises:
        KernelError: see `host.store.pip_process.explain`; `library_conflict` and `compiled_extension` among them.
    """
    pins, report = pip.place / "constraints.txt", pip.place / "report.json"
    pins.write_text(constraints(environment, without=own_key), "utf-8")
    pip.run("install", "--dry-run", "--report", str(report), "-c", str(pins), "--", what, about=about)
    found = msgspec.json.decode(report.read_bytes(), type=_Report).install
    lacking = [one for one in found if one.key == own_key or one.key not in environment]
    if len(lacking) > DEPENDENCIES_MAX:
        raise InvalidRequest(
            f"{about} needs {len(lacking)} distributions that the kernel's environment lacks, and a package "
            f"holds at most {DEPENDENCIES_MAX}; install them into the kernel's own environment and restart",
            code="wheel_refused",
        )
    return lacking


def fetch(pip: Pip, wanted: Sequence[Resolved], into: Path) -> list[Wheel]:
    """Get exactly what was resolved, in that order, and build what comes as source. `into` is made.

    Of a distribution that has compiled and pure wheels the pure one is taken, where there is one.

    Raises:
        KernelError: see `host.store.pip_process.explain`; `package_damaged`, a hash is not the announced one;
            `compiled_extension`; `requirement_invalid`, one is required by its address.
    """
    for one in wanted:
        _check_origin(one)
    into.mkdir(mode=0o700)
    compiled_ones = [one for one in wanted if one.is_wheel and not _is_pure(one.file_name)]
    for one in compiled_ones:
        _fetch_pure(pip, one, into)
    plain = [one for one in wanted if one not in compiled_ones]
    for group in ([one for one in plain if one.pin], [one for one in plain if not one.pin]):
        _fetch_all(pip, group, into)
    found = {wheel.key: wheel for wheel in (read_wheel(file, file.name) for file in sorted(into.glob("*.whl")))}
    for one in plain:
        _check_hash(one, found.get(one.key))
    return [found[one.key] for one in wanted]


def _fetch_all(pip: Pip, group: Sequence[Resolved], into: Path) -> None:
    """All of them at once; where one has a hash, pip asks for one of each."""
    if group:
        pins = pip.place / "exactly.txt"
        pins.write_text("".join(f"{one.exactly} {one.pin}\n" for one in group), "utf-8")
        labels = ", ".join(one.label for one in group)
        pip.run("wheel", "--no-deps", "--wheel-dir", str(into), "-r", str(pins), about=labels)


def _check_hash(one: Resolved, wheel: Wheel | None) -> None:
    if wheel is None:
        raise InvalidRequest(f"{one.label} builds no wheel of its name", code="build_failed")
    expected = one.download_info.archive_info.hashes.get("sha256")
    if one.is_wheel and expected is not None and wheel.sha256 != expected:
        raise InvalidRequest(
            f"{one.label}: its sha256 is {wheel.sha256}, and the index had announced {expected}; try again, or tell "
            "the owner of the index",
            code="package_damaged",
        )


def _check_origin(one: Resolved) -> None:
    if one.is_direct:
        raise InvalidRequest(
            f"{one.label} is required by its address, and packages are made of what the index has; name a version",
            code="requirement_invalid",
        )


def _is_pure(file_name: str) -> bool:
    try:
        return all(is_pure(tag) for tag in parse_wheel_filename(file_name)[3])
    except (InvalidWheelFilename, InvalidVersion):
        return True  # read_wheel looks again


def _fetch_pure(pip: Pip, one: Resolved, into: Path) -> None:
    """The pure twin of a compiled wheel; pip prefers the compiled one for this machine."""
    any_machine = ("--platform", "any", "--abi", "none", "--implementation", "py", "--only-binary", ":all:")
    try:
        pip.run("download", "--no-deps", *any_machine, "--dest", str(into), "--", one.exactly, about=one.label)
    except (InvalidRequest, Conflict):
        raise compiled(one.label, one.file_name) from None


def only_wheel(folder: Path, label: str) -> Path:
    """The one wheel in a folder that pip has written to.

    Raises:
        InvalidRequest: `build_failed`, there is none or there are several.
    """
    found = sorted(folder.glob("*.whl"))
    if len(found) != 1:
        raise InvalidRequest(f"{label} builds {len(found)} wheels, and one is expected", code="build_failed")
    return found[0]
