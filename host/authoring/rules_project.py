"""Rules about a project: what its `pyproject.toml` will put into the wheel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from typing import Any, Final

from host.authoring.package import Package, Place, Rule

_SETUPTOOLS: Final = "setuptools"
_DATA: Final = (".toml", ".sql", ".json", ".lock")


def _left_out(package: Package) -> Iterator[Place]:
    project = package.declared.project if package.declared else {}
    if not project or not _uses_setuptools(project) or (package.root / "MANIFEST.in").is_file():
        return
    data = _table(_table(_table(project, "tool"), "setuptools"), "package-data")
    patterns = [str(one) for name in ("*", "", package.name) for one in data.get(name, ())]
    for path in package.files:
        relative = path.relative_to(package.folder).as_posix()
        if path.suffix in _DATA and not any(_takes(pattern, relative) for pattern in patterns):
            yield Place(f"the wheel would not hold {package.shown(path)}", "pyproject.toml")


def _takes(pattern: str, relative: str) -> bool:
    """Whether setuptools' glob takes a file: a star stays within one folder."""
    return fnmatch(relative, pattern) and ("**" in pattern or pattern.count("/") == relative.count("/"))


def _uses_setuptools(project: Mapping[str, Any]) -> bool:
    return str(_table(project, "build-system").get("build-backend", _SETUPTOOLS)).startswith(_SETUPTOOLS)


def _table(within: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = within.get(name)
    return found if isinstance(found, Mapping) else {}


def _no_tests(package: Package) -> Iterator[Place]:
    if package.declared and package.declared.project and not any(package.root.rglob("test_*.py")):
        yield Place("there is no test_*.py")


RULES: Final = (
    Rule(
        "file_left_out",
        "error",
        "setuptools packs Python files alone unless told otherwise; without its manifest the kernel finds no plugin.",
        "List it below `[tool.setuptools.package-data]`: "
        '`acme_crm = ["manifest.toml", "README.md", "migrations/*.sql", "py.typed"]`.',
        _left_out,
    ),
    Rule(
        "tests_missing",
        "info",
        "`plugin_api.testing` brings a real kernel as a pytest fixture.",
        "Write one test that calls an operation: `async def test_it(tenant: Tenant) -> None`.",
        _no_tests,
    ),
)
