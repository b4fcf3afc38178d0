"""Where settings come from: files, the environment, the command line."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from plugin_api.manifest_rules import read_toml
from plugin_api.toml_lines import TomlLines

FILE_NAME: Final = "pk.toml"
FILE_BYTES_MAX: Final = 1_048_576
COMMAND_LINE: Final = "command line"
DEFAULT: Final = "default"

_environment: dict[str, str] | None = None


def environment() -> Mapping[str, str]:
    """The environment of this process as it was when first asked for; nothing else in the project reads it."""
    global _environment  # noqa: PLW0603 - read once, so that every part of a process sees the same
    if _environment is None:
        _environment = dict(os.environ)
    return _environment


@dataclass(frozen=True)
class Given:
    """A value that some source gives to a setting."""

    value: Any
    source: str
    """`default`, `/etc/pk.toml:3`, `environment PK_IAM__SIGNUP`, `command line`."""
    is_text: bool = False
    """Whether it is text that may stand for something else: `"5"` for 5."""


@dataclass(frozen=True)
class TomlFile:
    """One `pk.toml`, read."""

    path: Path
    content: dict[str, Any]
    lines: TomlLines
    is_open: bool
    """Whether other accounts of the machine may read it."""

    def place(self, *keys: str) -> str:
        """`/etc/pk.toml:3`."""
        return f"{self.path}:{self.lines.line_of(keys)}"


@dataclass(frozen=True)
class Unreadable:
    """A `pk.toml` that cannot be read."""

    path: Path
    text: str


def read_files(cwd: Path, data_dir: Path) -> Iterator[TomlFile | Unreadable]:
    """The `pk.toml` of the current folder, then that of the data folder; one that is not there is left out."""
    seen: set[Path] = set()
    for folder in (cwd, data_dir):
        path = (
            Path(os.path.abspath(folder)) / FILE_NAME
        )  # `resolve` would follow links, and the operator knows the file by this name
        real = Path(os.path.realpath(path))
        if real not in seen:
            seen.add(real)
            file = _read_file(path)
            if file is not None:
                yield file


def _read_file(path: Path) -> TomlFile | Unreadable | None:
    raw = b""
    try:
        with path.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            is_open = bool(mode & 0o044 and path.parent.stat().st_mode & 0o011)
            raw = stream.read(FILE_BYTES_MAX + 1)
        text = raw.decode("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return Unreadable(
            path, f"{path} cannot be read ({error.strerror}); make it a file that uid {os.geteuid()} may read"
        )
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return Unreadable(path, f"{path}:{line}: this is no UTF-8 text; save the file as UTF-8")
    if len(raw) > FILE_BYTES_MAX:
        return Unreadable(path, f"{path} is larger than {FILE_BYTES_MAX // 1_048_576} MiB; settings take less")
    return _parse(path, text, is_open=is_open)


def _parse(path: Path, text: str, *, is_open: bool) -> TomlFile | Unreadable:
    try:
        content, unreadable = read_toml(text)
    except RecursionError:
        return Unreadable(path, f"{path}: its values are nested too deeply")
    if unreadable is not None:
        return Unreadable(path, f"{path}:{unreadable.line}: {unreadable.text}")
    return TomlFile(path, content, TomlLines(text), is_open)
