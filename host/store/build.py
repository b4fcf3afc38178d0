"""Building an author's folder into a wheel, from a copy: what the build leaves behind is not his to find."""

from __future__ import annotations

import os
import shutil
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from host.store.pip_process import Pip, build_failed
from host.store.resolve import Environment, applies, only_wheel
from plugin_api.errors import InvalidRequest, PayloadTooLarge

SOURCE_BYTES_MAX: Final = 256 * 1_048_576
SOURCE_FILES_MAX: Final = 20_000
_LEFT_OUT: Final = frozenset({
    ".hg", ".svn", ".venv", "venv", ".tox", ".nox", ".mypy_cache", ".pytest_cache", ".ruff_cache", "__pycache__",
    "node_modules", ".pk",
})  # fmt: skip
_BUILT: Final = ("build", "dist")
"""At the top only, and where they are no packages: setuptools would pack what an earlier build left there."""
_DATA_FOLDER: Final = Path("run", "kernel.lock")
"""What the kernel's own data folder holds: it may lie in the author's, and the copy is made in it."""
_READS_GIT: Final = ("scm", "vcs", "git", "pbr", "versioningit", "dynamic-versioning")
_DIRECT: Final = "setuptools.build_meta"
"""The backend of most projects is asked itself: pip would take a second longer for the same wheel."""
_WHEEL_BUILT_IN: Final = Version("70.1")
"""Since then setuptools needs no distribution `wheel`, which older projects still list."""


def build_folder(pip: Pip, folder: Path, into: Path, environment: Environment) -> Path:
    """Build the folder into a wheel in `into`. Where the kernel has what the build needs, no index is asked.

    Raises:
        InvalidRequest: `build_failed`, with the end of the output.
        PayloadTooLarge: the folder is larger than a plugin's source.
    """
    label = folder.name or str(folder)
    backend, needs = _build_system(folder)
    copy = pip.place / "source" / label
    _copy(folder, copy, with_git=any(word in need.name.lower() for need in needs for word in _READS_GIT))
    into.mkdir(mode=0o700)
    has_all = _has_all(needs, backend, environment)
    isolation = ["--no-build-isolation"] if has_all else []
    try:
        if has_all and backend.startswith(_DIRECT):
            pip.build(copy, into, backend, about=f"folder {label}")
        else:
            pip.run(
                "wheel", "--no-deps", *isolation, "--wheel-dir", str(into), "--", str(copy), about=f"folder {label}"
            )
    finally:
        shutil.rmtree(copy, ignore_errors=True)
    return only_wheel(into, f"folder {label}")


def _build_system(folder: Path) -> tuple[str, list[Requirement]]:
    """The build backend and what it needs, as pyproject.toml says or as is usual without it (PEP 517)."""
    file = folder / "pyproject.toml"
    if not file.is_file():
        if not (folder / "setup.py").is_file():
            raise build_failed(str(folder), "there is neither pyproject.toml nor setup.py in it")
        return "setuptools", [Requirement("setuptools")]
    try:
        content: dict[str, Any] = tomllib.loads(file.read_text("utf-8"))
        table: dict[str, Any] = content.get("build-system", {})
        needs = [Requirement(text) for text in table.get("requires", ["setuptools"])]
        return str(table.get("build-backend", "setuptools")), needs
    except (OSError, ValueError, TypeError, AttributeError, InvalidRequirement) as error:
        raise build_failed(str(folder), f"pyproject.toml cannot be used: {error}") from error


def _has_all(needs: list[Requirement], backend: str, environment: Environment) -> bool:
    return all(_has(need, backend, environment) for need in needs if applies(need, frozenset()))


def _has(need: Requirement, backend: str, environment: Environment) -> bool:
    there = environment.get(canonicalize_name(need.name))
    if there is None:
        builder = environment.get("setuptools")
        is_setuptools = backend.startswith("setuptools") and canonicalize_name(need.name) == "wheel"
        return is_setuptools and builder is not None and builder.version >= _WHEEL_BUILT_IN
    return not need.extras and need.url is None and need.specifier.contains(there.version, prereleases=True)


# ---------------------------------------------------------------------------------------------------- copy


def _copy(folder: Path, copy: Path, *, with_git: bool) -> None:
    """Copy regular files, and what links to them; of folders that are links only the link."""
    copy.mkdir(mode=0o700, parents=True)
    files, size = 0, 0
    for source in _files(folder, with_git=with_git):
        target = copy / source.relative_to(folder)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if source.is_dir():
            target.symlink_to(source.resolve())
            continue
        files, size = files + 1, size + source.stat().st_size
        if files > SOURCE_FILES_MAX or size > SOURCE_BYTES_MAX:
            raise PayloadTooLarge(
                f"folder {folder} has more than {SOURCE_FILES_MAX} files or {SOURCE_BYTES_MAX} bytes; "
                "build a wheel yourself and give its path"
            )
        _copy_file(source, target)


def _files(folder: Path, *, with_git: bool) -> Iterator[Path]:
    for place, folders, names in os.walk(folder, onerror=_unreadable):
        here = Path(place)
        links = [name for name in folders if (here / name).is_symlink()]
        folders[:] = [
            name
            for name in folders
            if name not in links and _is_source(here / name, is_top=here == folder, with_git=with_git)
        ]
        yield from (here / name for name in links)
        yield from (here / name for name in names if _is_regular(here / name))


def _is_source(folder: Path, *, is_top: bool, with_git: bool) -> bool:
    if folder.name == ".git":
        return with_git
    if (folder / _DATA_FOLDER).exists():
        return False
    if is_top and folder.name in _BUILT:
        return (folder / "__init__.py").exists()
    return folder.name not in _LEFT_OUT and not (is_top and folder.name.endswith(".egg-info"))


def _is_regular(file: Path) -> bool:
    try:
        return stat.S_ISREG(file.stat().st_mode)
    except OSError:
        return False  # a link that leads nowhere


def _copy_file(source: Path, target: Path) -> None:
    try:
        shutil.copy2(source, target)
    except PermissionError as error:
        raise _unreadable_file(error) from error


def _unreadable(error: OSError) -> None:
    raise _unreadable_file(error) from error


def _unreadable_file(error: OSError) -> InvalidRequest:
    return InvalidRequest(
        f"{error.filename} cannot be read ({error.strerror}); let the kernel's account read the folder",
        code="build_failed",
    )
