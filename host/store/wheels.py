"""Reading a wheel: who it is, what it needs, and where each of its files goes. Nothing is unpacked or run."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import Final

from packaging.metadata import parse_email
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import Tag, parse_tag, sys_tags
from packaging.utils import InvalidName, canonicalize_name
from packaging.version import InvalidVersion, Version

from host.store.archive import Tree, damaged, open_archive, read_member, refused
from plugin_api.errors import Conflict, InvalidRequest

RESERVED: Final = frozenset({"host", "plugin_api", "core_plugins", "marketplace", "ui_shell", "envoy"})
_RECORD_BYTES_MAX: Final = 4 * 1_048_576
_COMPILED: Final = re.compile(r"\.(so|pyd|dylib|dll)(\.[0-9.]+)?\Z", re.IGNORECASE)
_STRONG: Final = ("sha256", "sha384", "sha512")
_UNSIGNED: Final = ("RECORD", "RECORD.jws", "RECORD.p7s")
_NO_PLACE: Final = ("scripts", "headers", "data")
"""Left out: a package is no environment, it has no folder of commands and no prefix, and nothing would look there."""
_INTO_ROOT: Final = ("purelib", "platlib")
_TAG_PARTS: Final = ("interpreter", "abi", "platform")


@dataclass(frozen=True)
class Member:
    """One file of a wheel."""

    info: zipfile.ZipInfo
    path: str | None
    """Where it goes in the package; None: it is checked and left out."""
    algorithm: str | None
    """The hash that RECORD names; None for RECORD itself."""
    digest: str


@dataclass(frozen=True)
class Wheel:
    """A wheel whose names and metadata hold; its contents are checked while they are unpacked."""

    file: Path
    sha256: str
    name: str
    """As its metadata spells it."""
    version: str
    info_folder: str
    tags: frozenset[Tag]
    """Those that fit this interpreter, at least one."""
    requires: tuple[Requirement, ...]
    requires_python: str
    members: tuple[Member, ...]

    @property
    def key(self) -> str:
        """The normal form of its name."""
        return canonicalize_name(self.name)

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"{self.name} {self.version}"

    @property
    def file_name(self) -> str:
        """The name that the standard gives it, whatever it was called when it came."""
        name, version = self.key.replace("-", "_"), self.version.replace("-", "_")
        parts = [".".join(sorted({getattr(tag, part) for tag in self.tags})) for part in _TAG_PARTS]
        return f"{name}-{version}-{'-'.join(parts)}.whl"

    @property
    def bytes_unpacked(self) -> int:
        """What its files say they take."""
        return sum(member.info.file_size for member in self.members if member.path is not None)


def read_wheel(file: Path, label: str) -> Wheel:
    """Read a wheel. `label` is what messages call it until its own name is known.

    Raises:
        InvalidRequest: `package_damaged`, `wheel_refused`, `reserved_package`, `python_mismatch`.
        PayloadTooLarge: it is past a bound.
        Conflict: `compiled_extension`.
    """
    with open_archive(file, label) as archive:
        info_folder = _info_folder(archive, label)
        name, version, requires, requires_python = _metadata(archive, info_folder, label)
        label = f"{name} {version}"
        tags, is_purelib = _tags(archive, f"{info_folder}/WHEEL", label)
        _check_pure(archive, label, tags, is_purelib=is_purelib)
        fitting = _fitting(label, tags, requires_python)
        members = tuple(_members(archive, info_folder, label))
    _check_places(members, info_folder, label)
    return Wheel(file, hash_of(file), name, version, info_folder, fitting, requires, requires_python, members)


def hash_of(file: Path) -> str:
    """The sha256 of a file as hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# ---------------------------------------------------------------------------------------------- who it is


def _info_folder(archive: zipfile.ZipFile, label: str) -> str:
    tops = {name.partition("/")[0] for name in archive.namelist() if "/" in name}
    found = sorted(top for top in tops if top.endswith(".dist-info"))
    if len(found) != 1:
        raise damaged(label, "", f"is no wheel: it has {len(found)} folders *.dist-info, and a wheel has one")
    return found[0]


def _metadata(archive: zipfile.ZipFile, info_folder: str, label: str) -> tuple[str, str, tuple[Requirement, ...], str]:
    place = f"{info_folder}/METADATA"
    raw, _ = parse_email(read_member(archive, place, label))
    name, version = raw.get("name", ""), raw.get("version", "")
    expected = (_key(name, place, label), _version(version, place, label))
    folder, _, folder_version = info_folder.removesuffix(".dist-info").rpartition("-")
    if (_key(folder, place, label), _version(folder_version, place, label)) != expected:
        raise damaged(label, place, f"names {name!r} {version!r}, and its folder is {info_folder}")
    requires = tuple(_requirement(text, place, label) for text in raw.get("requires_dist", []))
    return name, version, requires, raw.get("requires_python", "")


def _key(text: str, place: str, label: str) -> str:
    try:
        return canonicalize_name(text, validate=True)
    except InvalidName:
        raise damaged(label, place, f"has the name {text!r}, which no distribution may have") from None


def _version(text: str, place: str, label: str) -> Version:
    try:
        return Version(text)
    except InvalidVersion:
        raise damaged(label, place, f"has the version {text!r}, which is none (PEP 440)") from None


def _requirement(text: str, place: str, label: str) -> Requirement:
    try:
        return Requirement(text)
    except InvalidRequirement as error:
        raise damaged(label, place, f"requires {text!r}, which cannot be read: {error}") from None


def _tags(archive: zipfile.ZipFile, place: str, label: str) -> tuple[frozenset[Tag], bool]:
    head = HeaderParser().parsestr(read_member(archive, place, label).decode("utf-8", "replace"))
    if str(head.get("Wheel-Version", "")).partition(".")[0] != "1":
        raise damaged(label, place, f"has Wheel-Version {head.get('Wheel-Version')!r}, and 1.x is read")
    try:
        tags = frozenset(tag for text in head.get_all("Tag", []) for tag in parse_tag(str(text).strip()))
    except ValueError:
        tags = frozenset()
    if not tags:
        raise damaged(label, place, "has no Tag that can be read")
    return tags, str(head.get("Root-Is-Purelib", "")).strip().lower() == "true"


# ------------------------------------------------------------------------------------------ what is refused


def compiled(label: str, file: str) -> Conflict:
    """The refusal of what cannot be unloaded, and what to do instead."""
    name = label.replace(" ", "==")
    return Conflict(
        f"{label} holds compiled code ({file}), which cannot be replaced while the kernel runs; install it into the "
        f"kernel's own environment (pip install '{name}'), restart, then install the plugin again",
        code="compiled_extension",
    )


def is_pure(tag: Tag) -> bool:
    """Whether wheels of this tag run on every machine."""
    return tag.abi == "none" and tag.platform == "any"


def _check_pure(archive: zipfile.ZipFile, label: str, tags: frozenset[Tag], *, is_purelib: bool) -> None:
    libraries = [name for name in archive.namelist() if _COMPILED.search(name)]
    if libraries:
        raise compiled(label, libraries[0])
    if not all(map(is_pure, tags)):
        raise compiled(label, f"its tag is {min(map(str, tags))}")
    if not is_purelib:
        raise compiled(label, "its WHEEL says Root-Is-Purelib: false")


def _fitting(label: str, tags: frozenset[Tag], requires_python: str) -> frozenset[Tag]:
    running = ".".join(map(str, sys.version_info[:3]))
    try:
        fits = SpecifierSet(requires_python).contains(running, prereleases=True)
    except InvalidSpecifier:
        raise refused(label, f"has Requires-Python {requires_python!r}, which cannot be read") from None
    if not fits:
        raise python_mismatch(f"{label} needs Python {requires_python}")
    fitting = tags & frozenset(sys_tags())
    if not fitting:
        raise python_mismatch(f"{label} is a wheel for {min(map(str, tags))}")
    return fitting


def python_mismatch(what: str) -> InvalidRequest:
    """The refusal of what needs another Python: `what` and this one are named."""
    running = ".".join(map(str, sys.version_info[:3]))
    return InvalidRequest(
        f"{what}, and this kernel runs on Python {running}; take a version of it that fits, or run the kernel on such "
        "a Python",
        code="python_mismatch",
    )


# --------------------------------------------------------------------------------------- where its files go


def _members(archive: zipfile.ZipFile, info_folder: str, label: str) -> Iterator[Member]:
    place = f"{info_folder}/RECORD"
    recorded = _record(read_member(archive, place, label, bytes_max=_RECORD_BYTES_MAX), place, label)
    unsigned = {f"{info_folder}/{name}" for name in _UNSIGNED}
    infos = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    for name in recorded:
        if name not in infos and name not in unsigned:
            raise damaged(label, name, "is in RECORD and not in the wheel")
    for name, info in infos.items():
        path = _place(name, info_folder, label)
        if name in unsigned:
            yield Member(info, path, None, "")
            continue
        if name not in recorded:
            raise damaged(label, name, "is not in RECORD")
        algorithm, digest, size = recorded[name]
        if algorithm not in _STRONG or (size and size != str(info.file_size)):
            raise damaged(
                label, name, f"does not fit its row of RECORD ({algorithm or 'no hash'}, {size or '?'} bytes)"
            )
        yield Member(info, path, algorithm, digest)


def _record(raw: bytes, place: str, label: str) -> dict[str, tuple[str, str, str]]:
    try:
        rows = [row for row in csv.reader(io.StringIO(raw.decode("utf-8"), newline="")) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise damaged(label, place, f"cannot be read: {error}") from error
    recorded: dict[str, tuple[str, str, str]] = {}
    for row in rows:
        if len(row) != 3 or row[0] in recorded:
            raise damaged(label, place, f"has a row that is wrong or double: {','.join(row)[:200]!r}")
        algorithm, _, digest = row[1].partition("=")
        recorded[row[0]] = (algorithm, digest, row[2])
    return recorded


def record_digest(digest: bytes) -> str:
    """A hash as RECORD writes it."""
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def _place(name: str, info_folder: str, label: str) -> str | None:
    data_folder = info_folder.removesuffix(".dist-info") + ".data"
    parts = name.split("/")
    if parts[0] == data_folder:
        kind, rest = "".join(parts[1:2]), parts[2:]
        if kind in _NO_PLACE:
            return None
        if kind not in _INTO_ROOT or not rest:
            raise refused(label, f"holds {name}, and {data_folder} may hold {', '.join(_INTO_ROOT + _NO_PLACE)}")
        parts = rest
    if "__pycache__" in parts or parts[-1].endswith((".pyc", ".pyo")):
        return None  # may be stale, and the source is there
    return "/".join(parts)


def _check_places(members: tuple[Member, ...], info_folder: str, label: str) -> None:
    tree = Tree()
    for path in (member.path for member in members if member.path is not None):
        met = tree.clash(path)
        if met is not None:
            raise refused(label, f"has two files for {met}; take one of them out")
        top, _, rest = path.partition("/")
        _check_top(top, path, label)
        if not rest and top.endswith(".pth"):
            raise refused(
                label,
                f"holds {path}, code for the start of an interpreter, which packages never run; take it out, or install "
                "the distribution into the kernel's own environment and restart",
            )
        if top.endswith((".dist-info", ".egg-info")) and top != info_folder:
            raise refused(label, f"holds {path}, metadata of another distribution; take it out")


def _check_top(top: str, path: str, label: str) -> None:
    word = top if top != path else top.removesuffix(".py")
    if word.lower() in RESERVED:
        raise InvalidRequest(
            f"{label} holds {path}, and the top-level name {word} belongs to platform-kernel; choose your own",
            code="reserved_package",
        )
