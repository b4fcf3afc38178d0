"""What users can meet is documented: hooks, settings, commands and error codes."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import reference  # type: ignore[import-not-found]  # noqa: E402

from plugin_api import hooks  # noqa: E402

ERRORS = ROOT / "docs" / "reference" / "errors.md"


def stale(pages: Mapping[Path, str]) -> list[str]:
    """Generated files that are not what would be generated now."""
    return [
        str(place.relative_to(ROOT)) for place, text in pages.items() if not place.exists() or place.read_text() != text
    ]


def test_generated_pages_are_up_to_date() -> None:
    """`make reference` writes them."""
    assert [] == stale(reference.pages())


def test_a_stale_page_is_found() -> None:
    pages = {place: f"{text}\nOne promise more.\n" for place, text in reference.pages().items()}

    assert len(pages) == len(stale(pages))


def test_hooks_are_documented_with_their_arguments() -> None:
    page = reference.hooks_page()

    for name, function in vars(hooks).items():
        if name.startswith("pk_"):
            _, _, section = page.partition(f"\n## {name}\n")
            assert all(argument in section.splitlines()[0] for argument in inspect.signature(function).parameters)
            assert section.split("\n\n")[1].strip(), f"{name} promises nothing"


def test_commands_are_documented_with_their_options() -> None:
    page = reference.cli_page()

    for path, command in reference.commands():
        _, found, rest = page.partition(f"\n## {path}\n")
        section = rest.partition("\n## ")[0]
        assert found, f"{path} is missing"
        assert command.help, f"{path} promises nothing"
        for parameter in command.params:
            assert parameter.param_type_name == "argument" or parameter.opts[0] in section
            assert parameter.help, f"{path}: {parameter.name} tells nothing"


def test_settings_are_documented_with_what_they_do() -> None:
    rows = [line for line in reference.settings_page().splitlines() if line.startswith("| `")]

    assert len(rows) > 20
    assert [] == [row for row in rows if not row.split(" | ")[-1].strip(" |")]


def test_rules_of_the_checks_are_documented() -> None:
    """Both those that read a plugin's text and those of its trial."""
    rows = re.findall(r"^\| `(\w+)` \| (?:error|warning|info) \|", reference.checks_page(), re.MULTILINE)

    assert {"permission_undeclared", "api_unbounded", "register_fails"} <= set(rows)


def codes(source: str) -> Iterator[str]:
    """Error codes that a source names: `code="..."`, `default_code = "..."`, the second argument of `Violation(`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            found = [k.value for k in node.keywords if k.arg == "code"]
            found += node.args[1:2] if name == "Violation" else []
            yield from (v.value for v in found if isinstance(v, ast.Constant) and isinstance(v.value, str))
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if getattr(target, "id", "") == "default_code" and isinstance(node.value, ast.Constant):
                yield str(node.value.value)


def undocumented(found: set[str], page: str) -> list[str]:
    """Codes without a section or a row."""
    return sorted(code for code in found if f"\n## {code}\n" not in page and f"| `{code}` |" not in page)


def test_every_error_code_has_a_section() -> None:
    found = {
        code
        for package in ("plugin_api", "host", "core_plugins")
        for file in (ROOT / package).rglob("*.py")
        if "settings/" not in str(file)  # codes of settings problems are told in words, on the terminal
        for code in codes(file.read_text())
    }

    assert {"not_found", "bad_cursor", "weak_password"} <= found
    assert [] == undocumented(found, ERRORS.read_text())


@pytest.mark.parametrize(
    "source",
    [
        'raise errors.Conflict("x", code="never_heard_of")',
        'class A(B):\n    default_code = "never_heard_of"',
        'Violation("/a", "never_heard_of", "x")',
    ],
)
def test_an_undocumented_code_is_found(source: str) -> None:
    assert ["never_heard_of"] == undocumented(set(codes(source)), ERRORS.read_text())


def test_links_between_documents_lead_somewhere() -> None:
    dead = []
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            if not (page.parent / target).exists():
                dead.append(f"{page.relative_to(ROOT)}: {target}")

    assert [] == dead


def test_every_page_is_listed() -> None:
    """What no list leads to is never read."""
    lists = {folder: (folder / "README.md").read_text() for folder in (ROOT / "docs", ROOT / "docs" / "adr")}
    pages = [
        page
        for page in (ROOT / "docs").rglob("*.md")
        if page.name != "README.md" and "examples" not in page.relative_to(ROOT).parts
    ]

    assert len(pages) > 15
    assert [] == [
        str(page.relative_to(ROOT))
        for page in pages
        if not any(
            f"]({page.relative_to(folder)})" in text for folder, text in lists.items() if page.is_relative_to(folder)
        )
    ]


PLACE = re.compile(r"`((?:host|plugin_api|core_plugins|tests|docs|tools)/[\w./-]+)`")
COMMAND = re.compile(r"`make ([a-z]+)")


def dead_words(text: str, targets: set[str]) -> list[str]:
    """Files and make targets that a page names and that are not there."""
    return [
        *(place for place in PLACE.findall(text) if not (ROOT / place).exists()),
        *(f"make {name}" for name in COMMAND.findall(text) if name not in targets),
    ]


def test_files_and_targets_that_pages_name_are_there() -> None:
    targets = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "core_plugins").rglob("README.md")]

    found = {str(page.relative_to(ROOT)): dead_words(page.read_text(), targets) for page in pages}

    assert {} == {name: words for name, words in found.items() if words}
    assert ["host/nowhere.py", "make coffee"] == dead_words("`host/nowhere.py` `make coffee` `make run`", targets)
