"""How commands are declared: their help out of docstrings, and the options that many of them share."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, TypeVar

import typer

DATA_DIR: Final = Path(".pk")
START, LOOK, CHANGE, WRITE = "Start", "Look", "Change", "Write plugins"
IS_RICH: Final = sys.stdout.isatty() and sys.stderr.isatty()
"""Frames and colours are for people; what a program reads is plain."""
FunctionT = TypeVar("FunctionT", bound=Callable[..., None])


def taught(text: str) -> str:
    """Make a docstring fit for the terminal: paragraphs flow, but one with indented lines (examples) keeps its lines."""
    return "\n\n".join(_paragraph(one) for one in inspect.cleandoc(text).split("\n\n"))


def _paragraph(text: str) -> str:
    if "\n  " not in text:
        return " ".join(text.splitlines())
    return text if IS_RICH else f"\b\n{text}"  # typer's own mark of text that is not to flow


def command(group: typer.Typer, panel: str | None = None, name: str | None = None) -> Callable[[FunctionT], FunctionT]:
    """Register a command whose help is its docstring."""

    def register(function: FunctionT) -> FunctionT:
        group.command(name, help=taught(function.__doc__ or ""), rich_help_panel=panel)(function)
        return function

    return register


DataDir = Annotated[Path, typer.Option("--data-dir", metavar="DIR", help="The kernel's data folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Url = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help="Ask a kernel elsewhere over REST; PK_API_KEY is sent as Bearer."),
]
Plugin = Annotated[
    str | None, typer.Argument(metavar="PLUGIN", help="`iam` stands for `kernel.iam`; all when it is left out.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Tell what would be done, and change nothing.")]
