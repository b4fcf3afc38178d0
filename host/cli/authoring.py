"""Commands for authors of plugins."""

from __future__ import annotations

from pathlib import Path

import typer

from host.authoring.scaffold import BadId, NoPlace, new_project
from host.cli.ending import CommandFailed
from host.cli.output import print_json, print_text


def begin_plugin(plugin_id: str, directory: Path, *, as_json: bool) -> None:
    """`pk new plugin`.

    Raises:
        BadParameter: the id can be none; exit status 2.
        CommandFailed: the folder is taken or cannot be written.
    """
    try:
        made = new_project(plugin_id, directory)
    except BadId as error:
        raise typer.BadParameter(str(error), param_hint="ID") from error
    except NoPlace as error:
        raise CommandFailed(str(error)) from error
    if as_json:
        print_json(made)
        return
    print_text(f"made {made.folder}")
    for file in made.files:
        print_text(f"  {file}")
    print_text(f"\nnext: cd {made.folder}, then")
    print_text("  pk check .              what an installation would refuse, and why")
    print_text("  pk plugins install .    into the running kernel")
    print_text("  pytest                  its tests, in a kernel of their own")
