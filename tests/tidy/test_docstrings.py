"""Everything public in the plugin API says what it promises; elsewhere ruff asks it of modules, classes and functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def silent(text: str) -> list[str]:
    """Public names of a file without a docstring, and public files without one."""
    tree = ast.parse(text)
    return [
        *(["the file"] if not _promise(tree) else []),
        *(name for name, node in _public(tree, "") if not _promise(node)),
    ]


def _public(node: ast.Module | ast.ClassDef, path: str) -> Iterator[tuple[str, ast.ClassDef | Function]]:
    for child in node.body:
        if not isinstance(child, ast.ClassDef | Function) or child.name.startswith("_") or _is_overload(child):
            continue
        yield f"{path}{child.name}", child
        if isinstance(child, ast.ClassDef):
            yield from _public(child, f"{path}{child.name}.")


def _is_overload(node: ast.ClassDef | Function) -> bool:
    return any(isinstance(one, ast.Name) and one.id == "overload" for one in node.decorator_list)


def _promise(node: ast.Module | ast.ClassDef | Function) -> bool:
    return bool(ast.get_docstring(node))


def test_all_that_authors_use_has_a_docstring() -> None:
    files = sorted((ROOT / "plugin_api").rglob("*.py"))

    found = {str(file.relative_to(ROOT)): silent(file.read_text()) for file in files}

    assert len(files) > 20
    assert {} == {name: names for name, names in found.items() if names}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("def f(): ...", ["the file", "f"]),
        ('"""A file."""\ndef f():\n    """ """', ["f"]),
        ('"""A file."""\nclass A:\n    """A thing."""\n    async def b(self): ...', ["A.b"]),
        ('"""A file."""\nclass A:\n    """A thing."""\n    def _b(self): ...', []),
        ('"""A file."""\n@overload\ndef f(): ...', []),
    ],
)
def test_a_silent_name_is_found(text: str, names: list[str]) -> None:
    assert names == silent(text)
