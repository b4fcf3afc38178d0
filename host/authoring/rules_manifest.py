"""Rules about the manifest, and about what the distribution says beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from packaging.version import InvalidVersion, Version

from host.authoring.package import Package, Place, Rule
from plugin_api import API_VERSION
from plugin_api.errors import Violation
from plugin_api.manifest import ManifestError

_API_CODES: Final = ("pinned", "unbounded", "api_mismatch")


def _missing(package: Package) -> Iterator[Place]:
    if package.read is None:
        unread = package.texts.get(package.folder / "manifest.toml")
        said = unread.message if isinstance(unread, Place) else f"there is no {package.manifest_file}"
        yield Place(said, package.manifest_file)


def _invalid(package: Package) -> Iterator[Place]:
    for violation in _violations(package):
        if not _is_about_api(violation):
            yield _placed(package, violation)


def _api(code: str, package: Package) -> Iterator[Place]:
    for violation in _violations(package):
        if _is_about_api(violation) and violation.code == code:
            yield _placed(package, violation)


def _violations(package: Package) -> list[Violation]:
    return list(package.read.violations) if isinstance(package.read, ManifestError) else []


def _is_about_api(violation: Violation) -> bool:
    return violation.pointer == "/api" and violation.code in _API_CODES


def _placed(package: Package, violation: Violation) -> Place:
    """A violation's text begins with its place: `acme_crm/manifest.toml:3: ...`."""
    line, _, text = violation.detail.removeprefix(f"{package.manifest_file}:").partition(": ")
    return Place(text, package.manifest_file, int(line))


def _entry_point(package: Package) -> Iterator[Place]:
    declared, manifest = package.declared, package.manifest
    if declared is None or manifest is None:
        return
    for name, target in declared.entry_points.items():
        if target.partition(":")[0].strip() == package.name and name != manifest.id:
            yield Place(f'the entry point is named "{name}", the manifest\'s id is "{manifest.id}"', declared.file)


def _version(package: Package) -> Iterator[Place]:
    declared, manifest = package.declared, package.manifest
    if declared is None or manifest is None or declared.version is None:
        return
    if not _is_same(declared.version, manifest.version):
        said = f"the distribution has version {declared.version}, the manifest {manifest.version}"
        yield Place(said, declared.file)


def _is_same(distribution: str, manifest: str) -> bool:
    try:
        return Version(distribution) == Version(manifest)
    except InvalidVersion:
        return distribution == manifest


def _kernel_id(package: Package) -> Iterator[Place]:
    if package.is_kernel and package.name.partition(".")[0] != "core_plugins":
        yield Place(f'`id` is "{package.manifest.id if package.manifest else ""}"', package.manifest_file)


def _no_license(package: Package) -> Iterator[Place]:
    if package.manifest is not None and not package.manifest.license:
        yield Place("`license` is missing", package.manifest_file)


RULES: Final = (
    Rule(
        "manifest_missing",
        "error",
        "The kernel finds a plugin by the manifest beside its `__init__.py`, and reads it before any code.",
        "Write `manifest.toml` into the package's folder, and see that the wheel holds it.",
        _missing,
    ),
    Rule(
        "manifest_invalid",
        "error",
        "What a plugin is and needs must be clear before any of its code runs.",
        "The message says what to write instead; `plugin_api/manifest.schema.json` helps editors.",
        _invalid,
    ),
    Rule(
        "api_pinned",
        "error",
        "Minors of the plugin API only add; a pin shuts out every kernel with a later one.",
        'Write a range, like `api = ">=1.0,<2"`.',
        lambda package: _api("pinned", package),
    ),
    Rule(
        "api_unbounded",
        "error",
        "A new major may take away what the plugin uses.",
        'Write an upper bound on the major, like `api = ">=1.0,<2"`.',
        lambda package: _api("unbounded", package),
    ),
    Rule(
        "api_mismatch",
        "error",
        f"This kernel's plugin API is {API_VERSION}.",
        "Take a version of the plugin that is made for it, or test it with this one and widen `api`.",
        lambda package: _api("api_mismatch", package),
    ),
    Rule(
        "entry_point_mismatch",
        "error",
        "The kernel knows a plugin by the name of its entry point, and refuses one that calls itself otherwise.",
        "Make the entry point's name and the manifest's `id` equal.",
        _entry_point,
    ),
    Rule(
        "version_mismatch",
        "error",
        "Upgrades and roll-backs are told apart by the manifest's version, pip by the distribution's.",
        "Write the same version into `pyproject.toml` and `manifest.toml`.",
        _version,
    ),
    Rule(
        "kernel_id",
        "error",
        "Ids that begin with `kernel.` come with the kernel and are refused from anybody else.",
        "Choose an id that begins with a name of yours, like `acme.crm`.",
        _kernel_id,
    ),
    Rule(
        "license_missing",
        "warning",
        "An operator must know on which terms the code may be run.",
        'Write an SPDX expression, like `license = "Apache-2.0"`.',
        _no_license,
    ),
)
