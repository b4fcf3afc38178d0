"""The commands of `pk`: their options and their help. What they do lies beside: `starting`, `questions`, `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

DATA_DIR: Final = Path(".pk")
START, WATCH, CHANGE = "Start", "Look", "Change"

app = typer.Typer(
    name="pk",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Run and look after a Platform-Kernel.\n\n\b\n"
        "A tour:\n"
        "  pk up                    start a kernel in .pk/ (Ctrl-C stops it)\n"
        "  pk doctor                is everything well?\n"
        "  pk plugins list          what runs in it\n"
        "  pk settings iam          what can be set, and what is\n"
        "  pk demo                  fill the demo tenant\n\n"
        "Every command but `up` talks to the running kernel of --data-dir. --json prints one JSON document for scripts.\n"
        "Exit status: 0 done, 1 failed (the reason is on stderr), 2 usage."
    ),
)
plugins = typer.Typer(no_args_is_help=True, help="See the plugins of a kernel.")
migrate = typer.Typer(no_args_is_help=True, help="See and run the migrations of plugins.")
app.add_typer(plugins, name="plugins", rich_help_panel=WATCH)
app.add_typer(migrate, name="migrate", rich_help_panel=CHANGE)

DataDir = Annotated[Path, typer.Option("--data-dir", metavar="DIR", help="The kernel's data folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Url = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help="A remote kernel instead; PK_API_KEY is sent as Bearer."),
]
Plugin = Annotated[
    str | None, typer.Argument(metavar="[PLUGIN]", help="`money` stands for `kernel.money`; none for all.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; change nothing.")]


@app.command(rich_help_panel=START)
def up(
    data_dir: DataDir = DATA_DIR,
    http_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of REST [8080]; 0 for any free one.")
    ] = None,
    grpc_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of gRPC [50051]; 0 for any free one.")
    ] = None,
    management_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port of health and metrics, on loopback [9000]; 0 for any free one."),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that serve requests [1].")] = None,
    only: Annotated[
        str | None, typer.Option(metavar="A,B", help="Plugins to start, with what they require: iam,data")
    ] = None,
    profile: Annotated[
        str | None, typer.Option(metavar="embedded|server", help="Whose stores to use [embedded].")
    ] = None,
    no_demo: Annotated[bool, typer.Option("--no-demo", help="Leave the demo tenant out of the first start.")] = False,
    no_envoy: Annotated[bool, typer.Option("--no-envoy", help="Do not start Envoy as the edge.")] = False,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.NAME=VALUE", help="Any other setting; may stand often."),
    ] = None,
) -> None:
    r"""Start a kernel and serve until Ctrl-C or SIGTERM.

    \b
    The first start makes the database, the tenants `platform` and `demo`, and prints their passwords once, unless
    PK_OPERATOR_PASSWORD and PK_DEMO_PASSWORD give them. When ready, one line tells the URL.

    \b
    Examples:
      pk up
      pk up --workers 4 --http-port 80 --data-dir /srv/pk
      pk up --set iam.signup=closed --no-demo
    """
    from host.cli.starting import start  # noqa: PLC0415 - each command loads what it needs

    given: dict[str, Any] = {
        "http_port": http_port,
        "grpc_port": grpc_port,
        "management_port": management_port,
        "workers": workers,
        "only": only.split(",") if only else None,
        "profile": profile,
        "envoy": False if no_envoy else None,
    }
    options = {name: value for name, value in given.items() if value is not None}
    raise typer.Exit(start(data_dir, options, assignments or [], demo=not no_demo))


@app.command(rich_help_panel=WATCH)
def doctor(data_dir: DataDir = DATA_DIR, as_json: AsJson = False) -> None:
    """Examine the kernel and its surroundings: processes, servers, plugins, settings, disk, packages.

    Works without a running kernel too. Each line is ok, warn or fail, with what to do. Exit status 1 when anything failed.
    """
    from host.cli.report import examine  # noqa: PLC0415 - as above

    examine(data_dir, as_json=as_json)


@plugins.command("list")
def plugins_list(data_dir: DataDir = DATA_DIR, url: Url = None, as_json: AsJson = False) -> None:
    r"""List the plugins with state, version, generation, uptime and, when something is wrong, the reason.

    \b
    Examples:
      pk plugins list
      PK_API_KEY=pkk_... pk plugins list --url https://kernel.example.com --json
    """
    from host.cli.questions import list_plugins  # noqa: PLC0415 - as above

    list_plugins(data_dir, url, as_json=as_json)


@app.command(rich_help_panel=WATCH)
def settings(
    section: Annotated[
        str | None, typer.Argument(metavar="[SECTION]", help="`iam`, or `iam.signup`; none for all.")
    ] = None,
    data_dir: DataDir = DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Print every setting with its value, where that came from, and what it does. Secrets are masked."""
    from host.cli.questions import list_settings  # noqa: PLC0415 - as above

    list_settings(data_dir, section, as_json=as_json)


@app.command(rich_help_panel=WATCH)
def openapi(data_dir: DataDir = DATA_DIR, url: Url = None) -> None:
    """Print the OpenAPI 3.1 document of the kernel's operations."""
    from host.cli.questions import print_openapi  # noqa: PLC0415 - as above

    print_openapi(data_dir, url)


@migrate.command("status")
def migrate_status(plugin: Plugin = None, data_dir: DataDir = DATA_DIR, as_json: AsJson = False) -> None:
    """List the migrations of plugins: which have run, when, and whether their files are what ran."""
    from host.cli.questions import migration_status  # noqa: PLC0415 - as above

    migration_status(data_dir, plugin, as_json=as_json)


@migrate.command("up")
def migrate_up(
    plugin: Plugin = None, data_dir: DataDir = DATA_DIR, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """Run what has not run yet. A start does this by itself; --dry-run tries it in a transaction that is rolled back."""
    from host.cli.questions import migrate_up as run  # noqa: PLC0415 - as above

    run(data_dir, plugin, dry_run=dry_run, as_json=as_json)


@migrate.command("down")
def migrate_down(
    plugin: Annotated[str, typer.Argument(help="`money` stands for `kernel.money`.")],
    count: Annotated[int, typer.Option(min=1, help="How many of the last migrations to take back.")] = 1,
    data_dir: DataDir = DATA_DIR,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Take migrations of one plugin back. Data in what they made is lost."""
    from host.cli.questions import migrate_down as run  # noqa: PLC0415 - as above

    run(data_dir, plugin, count, dry_run=dry_run, as_json=as_json)


@app.command(rich_help_panel=CHANGE)
def demo(data_dir: DataDir = DATA_DIR, as_json: AsJson = False) -> None:
    """Fill the demo tenant with examples. May be repeated; what is there stays."""
    from host.cli.questions import fill_demo  # noqa: PLC0415 - as above

    fill_demo(data_dir, as_json=as_json)


@app.command(rich_help_panel=CHANGE)
def reload(data_dir: DataDir = DATA_DIR, as_json: AsJson = False) -> None:
    """Replace the workers one by one, without a failed request. SIGHUP to the kernel does the same."""
    from host.cli.questions import reload_workers  # noqa: PLC0415 - as above

    reload_workers(data_dir, as_json=as_json)


@app.command(rich_help_panel=WATCH)
def version(as_json: AsJson = False) -> None:
    """Print the versions of the kernel, its plugin API and Python."""
    from host.cli.questions import print_version  # noqa: PLC0415 - as above

    print_version(as_json=as_json)
