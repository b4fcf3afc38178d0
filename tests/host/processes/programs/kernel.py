"""A kernel of the real parent and the real servers, with a worker program of the tests: what `pk up` does, in small.

One argument: a JSON object `{options, settings, servers, worker, without}`.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from host.parent import Parts, UpOptions, run
from host.privileges import Privileges, choose_privileges
from plugin_api.servers import ChildServer

DRIVERS = Path(__file__).parents[4] / "core_plugins"
SERVERS = {
    "postgres": ("data/drivers/postgres_server.py", "PostgresServer"),
    "valkey": ("cache/drivers/valkey_server.py", "ValkeyServer"),
}


def make_server(name: str) -> ChildServer:
    """One of the real drivers, from its file: its package would bring in the whole plugin."""
    path, kind = SERVERS[name]
    spec = importlib.util.spec_from_file_location(name, DRIVERS / path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    server: ChildServer = getattr(module, kind)()
    return server


def main() -> int:
    """Run until a signal."""
    given = json.loads(sys.argv[1])
    options = UpOptions(**{**given["options"], "data_dir": Path(given["options"]["data_dir"])})

    def servers() -> list[ChildServer]:
        return [make_server(name) for name in given["servers"]]

    def privileges() -> Privileges:
        return choose_privileges(without=frozenset(given.get("without", ())))

    return run(options, given.get("settings", {}), Parts(servers, given["worker"], privileges))


if __name__ == "__main__":
    sys.exit(main())
