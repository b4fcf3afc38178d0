"""The commands of `pk`: their options and their help. What they do lies beside: `starting`, `questions`, `report`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import typer

DATA_DIR: Final = Path(".pk")
PORT_MAX: Final = 65_535
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


TOUR: Final = """Run and look after a Platform-Kernel.

    A tour:
      pk up                 start a kernel in .pk/; Ctrl-C stops it
      pk doctor             is everything well, and what to do if not
      pk plugins list       what runs in it
      pk settings iam       what can be set, and where each value comes from
      pk demo               fill the tenant demo with examples

    `up` starts a kernel; all other commands talk to the one that runs on --data-dir. With --json they print one JSON
    document for programs. Exit status: 0 done, 1 failed (stderr has the reason and what to do), 2 usage.
    """

app = typer.Typer(
    name="pk",
    no_args_is_help=True,
    rich_markup_mode="rich" if IS_RICH else None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=taught(TOUR),
)
plugins = typer.Typer(no_args_is_help=True, help="See and change the plugins of a running kernel.")
migrate = typer.Typer(no_args_is_help=True, help="See, run and take back migrations.")


def _command(group: typer.Typer, panel: str | None = None, name: str | None = None) -> Callable[[FunctionT], FunctionT]:
    """Register a command whose help is its docstring."""

    def register(function: FunctionT) -> FunctionT:
        group.command(name, help=taught(function.__doc__ or ""), rich_help_panel=panel)(function)
        return function

    return register


def _print_version(wanted: bool) -> None:
    if wanted:
        from host.cli.questions import print_version  # noqa: PLC0415 - each command loads what it needs

        print_version(as_json=False)
        raise typer.Exit


@app.callback()
def options_of_all(
    _: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit."),
    ] = False,
) -> None:
    """Hold the options of `pk` itself; its help is TOUR."""


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


def _port(purpose: str, default: int) -> Any:
    """The declaration of a port's option."""
    told = f"Port of {purpose}; 0 for any free one."
    return typer.Option(min=0, max=PORT_MAX, metavar="PORT", show_default=str(default), help=told)


def _check_assignments(given: list[str]) -> list[str]:
    """What stands in one is not repeated: it may be a secret."""
    if all(text.partition("=")[1] and "." in text.partition("=")[0] for text in given):
        return given
    raise typer.BadParameter("write section.name=value, like --set iam.signup=closed")


@_command(app, START)
def up(
    data_dir: DataDir = DATA_DIR,
    http_port: Annotated[int | None, _port("REST", 8080)] = None,
    grpc_port: Annotated[int | None, _port("gRPC, on loopback", 50_051)] = None,
    management_port: Annotated[int | None, _port("health and metrics, on loopback", 9_000)] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", show_default="1", help="Processes that serve requests.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(metavar="A,B", help="Plugins to start, with what they require: iam,money.")
    ] = None,
    profile: Annotated[
        Literal["embedded", "server"] | None,
        typer.Option(show_default="embedded", help="Its own PostgreSQL and Valkey in the data folder, or yours."),
    ] = None,
    no_demo: Annotated[bool, typer.Option("--no-demo", help="Leave out the tenant demo at the first start.")] = False,
    no_envoy: Annotated[bool, typer.Option("--no-envoy", help="Do not start Envoy as the edge.")] = False,
    assignments: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="SECTION.NAME=VALUE",
            callback=_check_assignments,
            show_default=False,
            help="Any other setting; may be given often.",
        ),
    ] = [],  # noqa: B006 - typer's way to say that an option may be given often
) -> None:
    """Start a kernel and serve until Ctrl-C or SIGTERM.

    The first start makes the databases and the tenants `platform` and `demo`, and prints their owners' passwords once,
    unless PK_OPERATOR_PASSWORD and PK_DEMO_PASSWORD give them. When it serves, one line tells the URL, and
    DIR/run/kernel.json has every address and process id.

    All of these are settings: they can stand in pk.toml or the environment too (`pk settings` tells how).

    Examples:
      pk up
      pk up --http-port 0 --no-demo
      pk up --data-dir /srv/pk --workers 4 --set iam.signup=closed
    """
    from host.cli.starting import start  # noqa: PLC0415 - as above

    given: dict[str, Any] = {
        "http_port": http_port,
        "grpc_port": grpc_port,
        "management_port": management_port,
        "workers": workers,
        "only": [name.strip() for name in only.split(",") if name.strip()] if only is not None else None,
        "profile": profile,
        "envoy": False if no_envoy else None,
    }
    options = {name: value for name, value in given.items() if value is not None}
    raise typer.Exit(start(data_dir, options, assignments, demo=not no_demo))


# --------------------------------------------------------------------------------------------------- look


@_command(app, LOOK)
def doctor(data_dir: DataDir = DATA_DIR, as_json: AsJson = False) -> None:
    """Examine a kernel and what it stands on.

    Looks at processes, servers, plugins, settings, the data folder, the disk and the installation; without a running
    kernel at what can be seen without one. Each finding is ok, warn or fail, with what to do about it. The exit status is
    1 when anything failed.

    Examples:
      pk doctor
      pk doctor --data-dir /srv/pk --json
    """
    from host.cli.report import examine  # noqa: PLC0415 - as above

    examine(data_dir, as_json=as_json)


app.add_typer(plugins, name="plugins", rich_help_panel=LOOK)


@_command(plugins, name="list")
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


@_command(plugins, name="install")
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


@_command(plugins, name="upgrade")
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


@_command(plugins, name="rollback")
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


@_command(plugins, name="enable")
def plugins_enable(plugin_id: PluginId, data_dir: DataDir = DATA_DIR, url: Url = None, as_json: AsJson = False) -> None:
    """Let a disabled or quarantined plugin serve again.

    Examples:
      pk plugins enable acme.crm
    """
    from host.cli.changes import change  # noqa: PLC0415 - as above

    change(data_dir, url, {"verb": "enable", "plugin_id": plugin_id}, as_json=as_json)


@_command(plugins, name="disable")
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


@_command(plugins, name="remove")
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


@_command(app, LOOK)
def settings(
    wanted: Annotated[
        str | None,
        typer.Argument(metavar="SECTION", help="`iam`, or one like `iam.signup`; all when it is left out."),
    ] = None,
    data_dir: DataDir = DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Print settings with their values and where each comes from.

    Later sources win: defaults, pk.toml in the folder where `pk up` was run, DIR/pk.toml, the environment
    (PK_IAM__SIGNUP for iam.signup), the command line. Secrets are never shown.

    Examples:
      pk settings
      pk settings iam                 with what each does and takes
      pk settings iam.signup --json
    """
    from host.cli.questions import list_settings  # noqa: PLC0415 - as above

    list_settings(data_dir, wanted, as_json=as_json)


@_command(app, LOOK)
def openapi(
    data_dir: DataDir = DATA_DIR,
    url: Url = None,
    as_json: Annotated[bool, typer.Option("--json", help="It is JSON anyhow.")] = False,
) -> None:
    """Print the OpenAPI 3.1 document of the API.

    Examples:
      pk openapi > openapi.json
      pk openapi --url https://kernel.example.com
    """
    from host.cli.questions import print_openapi  # noqa: PLC0415 - as above

    print_openapi(data_dir, url)


@_command(app, LOOK)
def version(as_json: AsJson = False) -> None:
    """Print the versions of the kernel, its plugin API and Python."""
    from host.cli.questions import print_version  # noqa: PLC0415 - as above

    print_version(as_json=as_json)


# -------------------------------------------------------------------------------------------------- change

app.add_typer(migrate, name="migrate", rich_help_panel=CHANGE)


@_command(migrate, name="status")
def migrate_status(plugin: Plugin = None, data_dir: DataDir = DATA_DIR, as_json: AsJson = False) -> None:
    """List migrations: applied, pending, changed, missing.

    `changed` is a file that was edited after it ran, `missing` one that ran and is gone: the plugin does not start until
    the file is back as it was.

    Examples:
      pk migrate status
      pk migrate status iam
    """
    from host.cli.questions import migration_status  # noqa: PLC0415 - as above

    migration_status(data_dir, plugin, as_json=as_json)


@_command(migrate, name="up")
def migrate_up(
    plugin: Plugin = None, data_dir: DataDir = DATA_DIR, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """Run what is pending.

    A start does this by itself. With --dry-run everything runs in a transaction that is rolled back.

    Examples:
      pk migrate up --dry-run
      pk migrate up iam
    """
    from host.cli.questions import migrate_up as run  # noqa: PLC0415 - as above

    run(data_dir, plugin, dry_run=dry_run, as_json=as_json)


@_command(migrate, name="down")
def migrate_down(
    plugin: Annotated[str, typer.Argument(metavar="PLUGIN", help="`iam` stands for `kernel.iam`.")],
    count: Annotated[int, typer.Option(min=1, max=1_000, metavar="N", help="How many, the last ones first.")] = 1,
    data_dir: DataDir = DATA_DIR,
    dry_run: DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take back the last migrations of one plugin.

    What they made is lost with the data in it, and the running plugin does not expect that: restart with the version that
    fits. Asks before, unless told --yes.

    Examples:
      pk migrate down iam --dry-run
      pk migrate down iam --count 2 --yes
    """
    from host.cli.questions import migrate_down as run  # noqa: PLC0415 - as above

    if not dry_run and not yes:
        if as_json or not sys.stdin.isatty():
            raise typer.BadParameter("data is lost with what is taken back; say --yes, or look first with --dry-run")
        typer.confirm(f"Take back {count} of {plugin}, with the data in it?", abort=True, err=True)
    run(data_dir, plugin, count, dry_run=dry_run, as_json=as_json)


@_command(app, CHANGE)
def demo(data_dir: DataDir = DATA_DIR, as_json: AsJson = False) -> None:
    """Fill the tenant demo with examples.

    Every plugin makes its part. May be repeated: what is there stays as it is.

    Examples:
      pk demo
    """
    from host.cli.questions import fill_demo  # noqa: PLC0415 - as above

    fill_demo(data_dir, as_json=as_json)


@_command(app, CHANGE)
def reload(data_dir: DataDir = DATA_DIR, as_json: AsJson = False) -> None:
    """Replace all workers, one by one.

    No request fails meanwhile, and the new ones read the settings anew. When a new one does not come up, the old ones go
    on and the command fails with its reason. SIGHUP to the kernel does the same.

    Examples:
      pk reload
    """
    from host.cli.questions import reload_workers  # noqa: PLC0415 - as above

    reload_workers(data_dir, as_json=as_json)


# -------------------------------------------------------------------------------------------------- write plugins

new = typer.Typer(no_args_is_help=True, help="Begin something new.")
app.add_typer(new, name="new", rich_help_panel=WRITE)


@_command(new, name="plugin")
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


@_command(app, WRITE)
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
