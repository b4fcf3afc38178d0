"""A kernel of the real parent and the real servers, with a worker program of the tests: what `pk up` does, in small.

One argument: a JSON object `{options, settings, servers, worker, without}`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from core_plugins.cache.drivers.valkey_server import ValkeyServer
from core_plugins.data.drivers.postgres_server import PostgresServer
from host.parent import Parts, UpOptions, run
from host.privileges import Privileges, choose_privileges
from plugin_api.servers import ChildServer

SERVERS = {"postgres": PostgresServer, "valkey": ValkeyServer}


def main() -> int:
    """Run until a signal."""
    given = json.loads(sys.argv[1])
    options = UpOptions(**{**given["options"], "data_dir": Path(given["options"]["data_dir"])})

    def servers() -> list[ChildServer]:
        return [SERVERS[name]() for name in given["servers"]]

    def privileges() -> Privileges:
        return choose_privileges(without=frozenset(given.get("without", ())))

    return run(options, given.get("settings", {}), Parts(servers, given["worker"], privileges))


if __name__ == "__main__":
    sys.exit(main())
