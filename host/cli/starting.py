"""`pk up`: from the command line to the parent process."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from host.cli.ending import CommandFailed, plain
from host.settings import ANY_SECTION, SECTION, HostSettings, SettingsInvalid, load

LOOK_EVERY_S: Final = 0.1


def start(data_dir: Path, options: Mapping[str, Any], assignments: Sequence[str], *, demo: bool) -> int:
    """Run a kernel until a signal; the exit status.

    `options` are settings of section `host` as far as the command line gives them, `assignments` further ones as
    `section.name=value`.

    Raises:
        CommandFailed: the settings of the host cannot be used; those of plugins are checked by the workers.
    """
    overrides = {**_assigned(assignments), **{f"{SECTION}.{name}": value for name, value in options.items()}}
    try:
        settings = load({SECTION: HostSettings}, data_dir=data_dir, overrides=overrides, others=ANY_SECTION)
    except SettingsInvalid as error:
        raise CommandFailed(error.detail) from error
    from host.parent import UpOptions, run  # noqa: PLC0415 - not before the settings are known to hold

    host: HostSettings = settings.section(SECTION)
    given = UpOptions(
        data_dir=data_dir,
        http_host=host.http_host,
        http_port=host.http_port,
        grpc_port=host.grpc_port,
        management_port=host.management_port,
        workers=host.workers,
        only=tuple(host.only),
        profile=host.profile,
        demo=demo,
        envoy=host.envoy,
    )
    with _progress(data_dir):
        return run(given, overrides)


def _assigned(assignments: Sequence[str]) -> dict[str, str]:
    """`iam.signup=closed` of each `--set`."""
    parts = [text.partition("=") for text in assignments]
    return {name.strip(): value for name, _, value in parts}


@contextmanager
def _progress(data_dir: Path) -> Iterator[None]:
    """On a terminal: that the start takes a moment, and when it is done what can be done next."""
    if not sys.stderr.isatty():
        yield
        return
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(data_dir, over), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _watch(data_dir: Path, over: threading.Event) -> None:
    from rich.live import Live  # noqa: PLC0415 - loaded beside the start of the servers
    from rich.spinner import Spinner  # noqa: PLC0415 - as above

    from host.cli.output import console  # noqa: PLC0415 - as above

    is_first = not (data_dir / "postgres").exists()
    text = f"starting a kernel in {data_dir}{' (the first start makes a database)' if is_first else ''}"
    spinner = Spinner("dots", plain(text))
    both = sys.stdout.isatty()  # lines of the kernel go above the spinner, and nowhere else than they were meant to
    with Live(spinner, console=console(stderr=True), transient=True, redirect_stdout=both, redirect_stderr=both):
        while not over.wait(LOOK_EVERY_S):
            places = _places(data_dir)
            if places is not None:
                break
        else:
            return
    sys.stderr.write(f"  API      http://{places.get('http')}/docs\n  health   pk doctor{_folder(data_dir)}\n")
    sys.stderr.write(f"  examples pk demo{_folder(data_dir)}\n  stop     Ctrl-C\n")
    sys.stderr.flush()


def _places(data_dir: Path) -> dict[str, Any] | None:
    """What the kernel tells about itself when it is ready."""
    try:
        found = json.loads((data_dir / "run" / "kernel.json").read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _folder(data_dir: Path) -> str:
    return "" if data_dir == Path(".pk") else f" --data-dir {data_dir}"
