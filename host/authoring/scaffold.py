"""A new plugin's project: real files that work at once, made from the templates beside this file."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from plugin_api.limits import PLUGIN_ID_LENGTH_MAX
from plugin_api.manifest import PluginId, names_of

RESERVED_PACKAGES: Final = frozenset({"host", "plugin_api", "core_plugins", "marketplace", "ui_shell", "envoy"})
"""Top-level names of the kernel, which no plugin's distribution may hold."""
TEMPLATES: Final = Path(__file__).parent / "templates"
SUFFIX: Final = ".template"
MESSAGES: Final = frozenset({"Greet", "Greeting", "Note"})
"""Names of Structs in the templates that an id could give the class of operations too; gRPC has one space for both."""
_PLACEHOLDER: Final = re.compile(r"\{\{(\w+)\}\}")


class BadId(ValueError):
    """A text that can be no id of a new plugin; says what is, and which was seen."""


class NoPlace(OSError):
    """The project cannot be written there; nothing was."""


class Project(Struct, frozen=True):
    """A project that has been written."""

    id: str
    package: str
    """Its import package: `acme_crm`."""
    folder: str
    """Absolute."""
    files: list[str]
    """Relative to `folder`, sorted."""


def new_project(plugin_id: str, directory: Path) -> Project:
    """Write a plugin's project into `directory/acme-crm` (for `acme.crm`), whole or not at all.

    Raises:
        BadId: no plugin of others can have this id.
        NoPlace: the folder holds something already, or cannot be written.
    """
    names = template_names(plugin_id)
    target = directory.absolute() / names["distribution"]
    _refuse_occupied(target)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".pk-new-", dir=directory) as draft:
            made = Path(draft) / target.name
            files = render(made, names)
            made.rename(target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise NoPlace(f"{target} cannot be written: {reason}; give a folder that you may write to as --dir") from error
    return Project(plugin_id, names["package"], str(target), files)


def render(folder: Path, names: Mapping[str, str]) -> list[str]:
    """Write every template into a folder that does not exist; the files, relative and sorted. OSError as it comes."""
    files: list[str] = []
    for template in sorted(TEMPLATES.rglob(f"*{SUFFIX}")):
        place = _place(template, names["package"])
        file = folder / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(filled(template.read_text("utf-8"), names), "utf-8")
        files.append(str(place))
    return sorted(files)


def filled(text: str, names: Mapping[str, str]) -> str:
    """A template's text with every `{{name}}` replaced. KeyError for a name that there is not."""
    return _PLACEHOLDER.sub(lambda found: names[found[1]], text)


def template_names(plugin_id: str) -> dict[str, str]:
    """What the templates are filled with.

    Raises:
        BadId: as `new_project`.
    """
    for reason in _objections(plugin_id):
        raise BadId(reason)
    package = plugin_id.replace(".", "_")
    title = plugin_id.rpartition(".")[2].capitalize()
    return {
        "id": plugin_id,
        "package": package,
        "distribution": plugin_id.replace(".", "-"),
        "title": f"{title}s" if title in MESSAGES else title,
        "schema": names_of(plugin_id).schema,
        "variables": f"PK_{package.upper()}__",
    }


def _objections(plugin_id: str) -> Iterator[str]:
    seen = msgspec.json.encode(plugin_id[:100]).decode()
    if len(plugin_id) > PLUGIN_ID_LENGTH_MAX:
        yield f"an id has at most {PLUGIN_ID_LENGTH_MAX} characters, {seen} has {len(plugin_id)}; shorten it"
    if plugin_id.startswith("kernel."):
        yield f"{seen} is no id for you: `kernel.` is the kernel's own; begin with a name of yours, like acme.crm"
    try:
        msgspec.convert(plugin_id, PluginId)
    except msgspec.ValidationError:
        legal = "two or more words of lower-case letters and digits, joined by dots, each beginning with a letter"
        yield f"{seen} is no id of a plugin; write {legal}, like acme.crm"
    package = plugin_id.replace(".", "_")
    if package in RESERVED_PACKAGES or package in sys.stdlib_module_names:
        yield f"{seen} would be imported as {package}, and that name is taken; choose another id"


def _refuse_occupied(target: Path) -> None:
    try:
        is_free = not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir()))
    except OSError as error:
        raise NoPlace(f"{target} cannot be looked into: {error.strerror}; give another folder as --dir") from error
    if not is_free:
        raise NoPlace(f"{target} is there already and not empty; give another folder as --dir, or move it away")


def _place(template: Path, package: str) -> Path:
    """Where a template's file goes: `package/plugin.py.template` is `acme_crm/plugin.py`."""
    parts = list(template.relative_to(TEMPLATES).parts)
    parts[-1] = parts[-1].removesuffix(SUFFIX)
    if parts == ["gitignore"]:
        parts = [".gitignore"]
    if parts[0] == "package":
        parts[0] = package
    return Path(*parts)
