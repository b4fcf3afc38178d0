"""How a command ends: done, refused with a reason, or by a bug that is written down for its report."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

DONE: Final = 0
FAILED: Final = 1
INTERRUPTED: Final = 130


class CommandFailed(Exception):
    """A command cannot do what it was asked; the text has what, the value seen, and the remedy."""


def guarded(arguments: Sequence[str] | None) -> int:
    """Run the command line and turn whatever it ends with into an exit status. No traceback but with PK_DEBUG=1."""
    try:
        from host.cli.commands import app  # noqa: PLC0415 - its own failure is told like any other

        app(args=None if arguments is None else list(arguments), prog_name="pk")
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else DONE if ending.code is None else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except CommandFailed as error:
        tell(str(error))
        return FAILED
    except Exception as error:
        if is_debugging():
            raise
        tell(describe_bug(error))
        return FAILED
    return DONE


def tell(text: str) -> None:
    """Write a reason to stderr."""
    sys.stderr.write(f"pk: {plain(text)}\n")


def plain(text: str) -> str:
    """Text that cannot steer a terminal: control characters are escaped, whoever wrote them."""
    return "".join(one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode() for one in text)


def is_debugging() -> bool:
    """Whether PK_DEBUG=1 asks for tracebacks."""
    from host.settings import environment  # noqa: PLC0415 - only needed where something went wrong

    return environment().get("PK_DEBUG", "") not in ("", "0")


def describe_bug(error: BaseException) -> str:
    """One line that names the bug, and where its traceback was written."""
    import tempfile  # noqa: PLC0415 - only needed where something went wrong
    import traceback  # noqa: PLC0415 - as above

    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    told = f"this is a bug of Platform-Kernel ({type(error).__name__}{place}); please report it"
    try:
        descriptor, path = tempfile.mkstemp(prefix="pk-bug-", suffix=".log")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write("".join(traceback.format_exception(error)))
    except OSError:
        return f"{told}, with what PK_DEBUG=1 in front of the command prints"
    return f"{told}, with the log {path}"
