"""The commands of `pk`: their options and their help. What they do lies beside: `starting`, `questions`,
`report`."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Final, Literal

import typer

from host.cli.bus_commands import events, jobs
from host.cli.declaring import (
    CHANGE,
    DATA_DIR,
    IS_RICH,
    LOOK,
    START,
    WRITE,
    AsJson,
    DataDir,
    DryRun,
    Plugin,
    Url,
    command,
    taught,
)
from host.cli.plugin_commands import authors, contract, new, plugins

PORT_MAX: Final = 65_535


TOUR: Final = """Run and look after a Platform-Kernel.

    A tour:
      pk up                 start a kernel in .pk/; Ctrl-C stops it
      pk doctor             is everything well, and what to do if not
      pk plugins list       what runs in it; `pk plugins install` adds to it
      pk events tail        what happens, as it happens; `pk events dlq` has what failed
      pk jobs list          how full queues are
      pk new plugin ID      begin a plugin of your own
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
migrate = typer.Typer(no_args_is_help=True, help="See, run and take back migrations.")


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


def _port(purpose: str, default: int) -> Any:
    """The declaration of a port's option."""
    told = f"Port of {purpose}; 0 for any free one."
    return typer.Option(min=0, max=PORT_MAX, metavar="PORT", show_default=str(default), help=told)


def _check_assignments(given: list[str]) -> list[str]:
    """What stands in one is not repeated: it may be a secret."""
    if all(text.partition("=")[1] and "." in text.partition("=")[0] for text in given):
        return given
    raise typer.BadParameter("write section.name=value, like --set iam.signup=closed")


@command(app, START)
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


@command(app, LOOK)
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
app.add_typer(events, name="events", rich_help_panel=LOOK)
app.add_typer(jobs, name="jobs", rich_help_panel=LOOK)


@command(app, LOOK)
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


@command(app, LOOK)
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


@command(app, LOOK)
def version(as_json: AsJson = False) -> None:
    """Print the versions of the kernel, its plugin API and Python."""
    from host.cli.questions import print_version  # noqa: PLC0415 - as above

    print_version(as_json=as_json)


# -------------------------------------------------------------------------------------------------- change

app.add_typer(migrate, name="migrate", rich_help_panel=CHANGE)


@command(migrate, name="status")
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


@command(migrate, name="up")
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


@command(migrate, name="down")
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


@command(app, CHANGE)
def demo(data_dir: DataDir = DATA_DIR, as_json: AsJson = False) -> None:
    """Fill the tenant demo with examples.

    Every plugin makes its part. May be repeated: what is there stays as it is.

    Examples:
      pk demo
    """
    from host.cli.questions import fill_demo  # noqa: PLC0415 - as above

    fill_demo(data_dir, as_json=as_json)


@command(app, CHANGE)
def reload(data_dir: DataDir = DATA_DIR, as_json: AsJson = False) -> None:
    """Replace all workers, one by one.

    No request fails meanwhile, and the new ones read the settings anew. When a new one does not come up, the old ones go
    on and the command fails with its reason. SIGHUP to the kernel does the same.

    Examples:
      pk reload
    """
    from host.cli.questions import reload_workers  # noqa: PLC0415 - as above

    reload_workers(data_dir, as_json=as_json)


app.add_typer(new, name="new", rich_help_panel=WRITE)
app.add_typer(authors)
app.add_typer(contract, name="contract", rich_help_panel=WRITE)
