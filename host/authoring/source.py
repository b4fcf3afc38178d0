"""One Python file of a plugin, read and never run: its tree, and what its names stand for as far as the text tells."""

from __future__ import annotations

import ast
import builtins
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

Function = ast.FunctionDef | ast.AsyncFunctionDef
_SCOPES: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_BUILTINS: Final = frozenset(dir(builtins))


@dataclass(frozen=True)
class Source:
    """A file that could be parsed."""

    file: str
    """As it is shown: relative to the folder that is checked."""
    module: str
    """`acme_crm.operations`; `acme_crm` for the package's `__init__.py`."""
    text: str
    tree: ast.Module
    names: dict[str, str]
    """What a name of the file stands for: `sleep` -> `time.sleep`, `NewLead` -> `acme_crm.operations.NewLead`."""

    def resolve(self, node: ast.expr) -> str:
        """The dotted name behind `sleep`, `time.sleep` or `Page[Lead]`; empty when the text does not tell."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute | ast.Subscript):
            if isinstance(node, ast.Attribute):
                parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return ""
        first = self.names.get(node.id, "")
        return ".".join([first, *reversed(parts)]) if first else ""

    def calls(self) -> Iterator[tuple[ast.Call, str]]:
        """Every call whose function's name can be told, with that name."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call) and (name := self.resolve(node.func)):
                yield node, name

    def functions(self) -> Iterator[tuple[Function, ast.ClassDef | None]]:
        """Every function with the class whose method it is, if it is one."""
        owners = {child: node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef) for child in node.body}
        for node in ast.walk(self.tree):
            if isinstance(node, Function):
                yield node, owners.get(node)


def parse(file: str, module: str, text: str, *, is_package: bool = False) -> Source:
    """Read a file. SyntaxError, ValueError, RecursionError or MemoryError when Python could not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a bad escape in a text is not what is looked for
        tree = ast.parse(text)
    return Source(file, module, text, tree, _names(tree, module, is_package=is_package))


def _names(tree: ast.Module, module: str, *, is_package: bool) -> dict[str, str]:
    own = {one.name: f"{module}.{one.name}" for one in tree.body if isinstance(one, (*_SCOPES[:2], ast.ClassDef))}
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    parameters = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    known = {name: f"builtins.{name}" for name in _BUILTINS - bound} | own
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {
                alias.asname or alias.name.partition(".")[0]: alias.name
                if alias.asname
                else alias.name.partition(".")[0]
                for alias in node.names
            }
        elif isinstance(node, ast.ImportFrom):
            origin = origin_of(node, module, is_package=is_package)
            known |= {alias.asname or alias.name: f"{origin}.{alias.name}" for alias in node.names if alias.name != "*"}
    return {name: origin for name, origin in known.items() if name not in parameters}  # which of the two is meant?


def origin_of(node: ast.ImportFrom, module: str, *, is_package: bool) -> str:
    """The module that `from … import` names: `from .storage import x` in `acme_crm.operations` is `acme_crm.storage`."""
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    kept = parts[: len(parts) - node.level + (1 if is_package else 0)]
    return ".".join([*kept, *([node.module] if node.module else [])])


def at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """Every node that runs when the file is imported: no bodies of functions, nothing below `if __name__ == ...`."""
    left: list[ast.AST] = [*tree.body]
    while left:
        node = left.pop()
        if isinstance(node, ast.If) and _asks_for_main(node.test):
            continue
        yield node
        if isinstance(node, Function):
            left += [*node.decorator_list, *node.args.defaults, *(one for one in node.args.kw_defaults if one)]
        elif not isinstance(node, ast.Lambda):
            left += ast.iter_child_nodes(node)


def in_coroutines(tree: ast.Module) -> Iterator[ast.AST]:
    """Every node that runs on the event loop, inside an `async def`; plain functions within it may run in a thread."""
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFunctionDef):
            left: list[ast.AST] = [*node.body]
            while left:
                inner = left.pop()
                if isinstance(inner, _SCOPES):
                    continue
                yield inner
                left += ast.iter_child_nodes(inner)


def text_of(node: ast.expr | None) -> str | None:
    """The text that an expression is, or begins with for an f-string; None for anything else."""
    if isinstance(node, ast.JoinedStr) and node.values:
        node = node.values[0]
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def keyword_of(node: ast.Call | ast.ClassDef, name: str) -> ast.expr | None:
    """The value of a keyword, or None."""
    return next((one.value for one in node.keywords if one.arg == name), None)


def is_true(node: ast.expr | None) -> bool:
    """Whether an expression is `True`."""
    return isinstance(node, ast.Constant) and node.value is True


def _asks_for_main(test: ast.expr) -> bool:
    return any(isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(test))
