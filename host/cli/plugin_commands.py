"""The commands about plugins: those of a running kernel, and those of authors. What they do lies beside: `changes`,
`authoring`, `developing`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from host.cli.declaring import DATA_DIR, WRITE, AsJson, DataDir, DryRun, Url, command

plugins = typer.Typer(no_args_is_help=True, help="See and change the plugins of a running kernel.")
new = typer.Typer(no_args_is_help=True, help="Begin something new.")
contract = typer.Typer(no_args_is_help=True, help="Keep what a plugin has promised to others.")
authors = typer.Typer()
"""Commands of authors that stand beside `up`."""


@command(plugins, name="list")
def plugins_list(data_dir: DataDir = DATA_DIR, url: Url = None, as_json: AsJson = False) -> None:
    """List plugins with their state, and why one does not serve.

    Examples:
      pk plugins list
      PK_API_KEY=pkk_... pk plugins list --url https://kernel.example.com --json
    """
    from host.cli.questions import list_plugins  # noqa: PLC0415 - as above

    list_plugins(data_dir, url, as_json=as_json)


PluginId = Annotated[str, typer.Argument(metavar="ID", help="The plugin's id, like acme.crm.")]
Cascade = Annotated[bool, typer.Option("--cascade", help="Disable those that need it too; without it they are listed.")]


@command(plugins, name="install")
def plugins_install(
    what: Annotated[
        str, typer.Argument(metavar="WHAT", help="A requirement, a wheel, or a folder with pyproject.toml.")
    ],
    data_dir: DataDir = DATA_DIR,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Install a plugin into the running kernel; done when every worker serves it.

    It is resolved against the kernel's own libraries, unpacked into a folder of its own with what it needs beside them,
    tried in a throw-away process, brought up in every worker, and then published. Whatever fails leaves everything as it
    was.

    Examples:
      pk plugins install acme-crm
      pk plugins install "acme-crm>=1.2,<2"
      pk plugins install dist/acme_crm-1.2.0-py3-none-any.whl
      pk plugins install ~/plugins/acme-crm
    """
    from host.cli.changes import change  # noqa: PLC0415 - as above

    change(data_dir, url, {"verb": "install", "what": what}, as_json=as_json)


@command(plugins, name="upgrade")
def plugins_upgrade(
    plugin_id: PluginId,
    what: Annotated[
        str, typer.Argument(metavar="WHAT", help="As for `install`; the newest version when it is left out.")
    ] = "",
    data_dir: DataDir = DATA_DIR,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Replace a plugin by another version, without one failed request.

    Calls under way end with the version that they began with. A version that cannot be brought up changes nothing.

    Examples:
      pk plugins upgrade acme.crm
      pk plugins upgrade acme.crm "acme-crm==1.3.0"
    """
    from host.cli.changes import change  # noqa: PLC0415 - as above

    change(data_dir, url, {"verb": "upgrade", "plugin_id": plugin_id, "what": what}, as_json=as_json)


@command(plugins, name="rollback")
def plugins_rollback(
    plugin_id: PluginId, data_dir: DataDir = DATA_DIR, url: Url = None, as_json: AsJson = False
) -> None:
    """Return to the version that served before.

    Only code goes back: no migration is taken back, because what a version adds to its tables suits the one before it too.
    A second rollback returns to the newer version.

    Examples:
      pk plugins rollback acme.crm
    """
    from host.cli.changes import change  # noqa: PLC0415 - as above

    change(data_dir, url, {"verb": "rollback", "plugin_id": plugin_id}, as_json=as_json)


@command(plugins, name="enable")
def plugins_enable(plugin_id: PluginId, data_dir: DataDir = DATA_DIR, url: Url = None, as_json: AsJson = False) -> None:
    """Let a disabled or quarantined plugin serve again.

    Examples:
      pk plugins enable acme.crm
    """
    from host.cli.changes import change  # noqa: PLC0415 - as above

    change(data_dir, url, {"verb": "enable", "plugin_id": plugin_id}, as_json=as_json)


@command(plugins, name="disable")
def plugins_disable(
    plugin_id: PluginId,
    cascade: Cascade = False,
    data_dir: DataDir = DATA_DIR,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Take a plugin out of service; its package and data stay.

    Refused while other plugins need it: they are listed, and --cascade disables them too.

    Examples:
      pk plugins disable acme.crm
      pk plugins disable acme.crm --cascade
    """
    from host.cli.changes import change  # noqa: PLC0415 - as above

    change(data_dir, url, {"verb": "disable", "plugin_id": plugin_id, "cascade": cascade}, as_json=as_json)


@command(plugins, name="remove")
def plugins_remove(
    plugin_id: PluginId,
    data: Annotated[
        Literal["keep", "export", "purge"],
        typer.Option(help="Its tables: keep them for a later installation, export and then drop them, or drop them."),
    ] = "keep",
    cascade: Cascade = False,
    dry_run: DryRun = False,
    data_dir: DataDir = DATA_DIR,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Remove a plugin from the running kernel.

    Its routes, permissions, tasks and package go; --data says what becomes of its tables, and --dry-run lists them. An
    export is written below DIR/exports/.

    Examples:
      pk plugins remove acme.crm --dry-run
      pk plugins remove acme.crm --data purge
    """
    from host.cli.changes import change  # noqa: PLC0415 - as above

    asked = {"verb": "remove", "plugin_id": plugin_id, "data": data, "cascade": cascade, "dry_run": dry_run}
    change(data_dir, url, asked, as_json=as_json)


@command(new, name="plugin")
def new_plugin(
    plugin_id: Annotated[str, typer.Argument(metavar="ID", help="Its id for ever, like acme.crm: yours first.")],
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", show_default="the current folder", help="Where its folder is made.")
    ] = Path(),
    as_json: AsJson = False,
) -> None:
    """Write a plugin that works, to go on from.

    For acme.crm it makes the folder DIR/acme-crm with the package acme_crm: a manifest, settings, a table with its
    migration, operations over REST, and tests that run in a real kernel. Nothing that exists is overwritten.

    Examples:
      pk new plugin acme.crm
      pk new plugin acme.crm --dir ~/plugins --json
    """
    from host.cli.authoring import begin_plugin  # noqa: PLC0415 - as above

    begin_plugin(plugin_id, directory, as_json=as_json)


@command(contract, name="lock")
def contract_lock(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", exists=True, file_okay=False, help="The plugin's folder, with its pyproject.toml."
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Write down what a plugin promises of its events and in gRPC, for `pk check` to compare with.

    The plugin is imported and registered once in a process of its own. The types of events for which it declares a Struct
    go with their JSON Schema into `events.lock` beside its manifest, the numbers of its gRPC messages into `wire.lock`;
    commit both. They only grow: when the code drops or changes a field of an event, or changes the type of a field in gRPC,
    the file is left as it is and the exit status is 1. Tell a new version of the event then, beside the old one, and give
    the new field another name.

    Examples:
      pk contract lock .
      pk contract lock ~/plugins/acme-crm --json
    """
    from host.cli.authoring import lock_contract  # noqa: PLC0415 - as above

    lock_contract(folder, as_json=as_json)


@command(contract, name="export")
def contract_export(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", exists=True, file_okay=False, help="The plugin's folder, with its pyproject.toml."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="Where the file goes; else it is printed.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the .proto file of a plugin's gRPC services, for clients that are built with it.

    It is what reflection tells of the running plugin, with the numbers of its `wire.lock`. Below FOLDER it goes where
    protoc looks for it: pk/x/acme_crm/v1/acme_crm.proto.

    Examples:
      pk contract export .
      pk contract export ~/plugins/acme-crm --out protos
    """
    from host.cli.authoring import export_contract  # noqa: PLC0415 - as above

    export_contract(folder, out, as_json=as_json)


@command(authors, WRITE)
def check(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", exists=True, file_okay=False, help="The plugin's folder, with its pyproject.toml."
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Tell what is wrong with a plugin, before a kernel does.

    Its files are read; when they hold, it is imported and registered once in a process of its own. Each finding has its
    place, why it matters and what to do. An installation refuses errors; warnings are worth a look, infos are for your
    judgement. The exit status is 1 when there is an error. docs/reference/checks.md lists the rules.

    Examples:
      pk check .
      pk check ~/plugins/acme-crm --json
    """
    from host.cli.authoring import check_plugin  # noqa: PLC0415 - as above

    check_plugin(folder, as_json=as_json)


@command(authors, WRITE)
def dev(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", exists=True, file_okay=False, help="The plugin's folder, with its pyproject.toml."
        ),
    ],
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Keep a running kernel's copy of a plugin up to date while you write it.

    Installs the folder, then watches it: whenever a file is saved, the plugin is built anew and takes the place of the
    former version, without a restart. What is wrong is told, and the former version serves on. Ctrl-C ends the watching;
    the plugin stays installed.

    Examples:
      pk dev .
      pk dev ~/plugins/acme-crm --data-dir /srv/pk
    """
    from host.cli.developing import develop  # noqa: PLC0415 - as above

    develop(folder, data_dir)
