"""A real kernel to measure: `pk up` with the bench plugin beside it, a tenant, and a token."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PK = Path(os.environ.get("PK_BIN") or Path(sys.executable).with_name("pk"))
SITE = Path(__file__).with_name("site")
READY_S = 60.0
UNLIMITED = {
    f"PK_GATEWAY__{whose}_{what}": "1000000" for whose in ("TENANT", "ACTOR", "ADDRESS") for what in ("RATE", "BURST")
}
"""One caller who asks as fast as it can is what limits are there against: they are kept, and never reached."""
BARE = "bench.invoice,iam"
"""No slot is filled but those that tell who calls and what they may do."""
GUARDED = f"{BARE},gateway"
"""Breakers, limits and kept answers too; no records, for each of those is a transaction, which has a figure of its own."""


class Kernel:
    """A kernel in a folder of its own; `async with` starts and stops it."""

    def __init__(
        self, folder: Path | None = None, environment: Mapping[str, str] | None = None, only: str = ""
    ) -> None:
        """`only`: the plugins that it has, with those that they need; all when empty."""
        self._environment = dict(environment or {})
        self._only = ["--only", only] if only else []
        self.folder = folder or Path(tempfile.mkdtemp(prefix="pk-bench-"))
        self.data = self.folder / "data"
        self.token = ""
        self.ready_s = 0.0

    async def __aenter__(self) -> Self:
        begun = time.monotonic()
        environment = {**os.environ, **UNLIMITED, "PYTHONPATH": str(SITE), **self._environment}
        ports = ["--http-port", "0", "--grpc-port", "0", "--management-port", "0"]
        self._log = (self.folder / "log").open("ab")
        self._process = await asyncio.create_subprocess_exec(
            str(PK),
            "up",
            "--data-dir",
            str(self.data),
            *ports,
            *self._only,
            stdout=asyncio.subprocess.PIPE,
            stderr=self._log,
            env=environment,
        )
        stream = self._process.stdout
        assert stream is not None
        while b"is ready" not in (line := await asyncio.wait_for(stream.readline(), READY_S)):
            assert line, f"the kernel did not start; see {self.folder}/log"
        self.ready_s = time.monotonic() - begun
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        await self._process.wait()
        self._log.close()

    def places(self) -> dict[str, Any]:
        """What kernel.json says."""
        found: dict[str, Any] = json.loads((self.data / "run" / "kernel.json").read_text())
        return found

    @property
    def port(self) -> int:
        """The HTTP port."""
        return int(self.places()["http"].rsplit(":", 1)[1])

    @property
    def worker(self) -> int:
        """The pid of the one worker."""
        return int(self.places()["workers"][0])

    async def log_in(self) -> None:
        """Sign a tenant up and keep its owner's token."""
        owner = {"owner_email": "ada@bench.example.com", "owner_password": "correct horse battery"}
        await self.post("/api/v1/iam/tenants", {"slug": f"bench{time.time_ns()}", "name": "Bench", **owner})
        slug = self._slug
        answer = await self.post(
            "/api/v1/iam/sessions", {"tenant": slug, "email": owner["owner_email"], "password": owner["owner_password"]}
        )
        self.token = answer["access_token"]

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """One request, its answer decoded."""
        if "slug" in body:
            self._slug = body["slug"]
        headers = {
            "Content-Type": "application/json",
            **({"Authorization": f"Bearer {self.token}"} if self.token else {}),
        }
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode(), headers)

        def send() -> dict[str, Any]:
            with urllib.request.urlopen(request, timeout=60) as answer:
                found: dict[str, Any] = json.load(answer)
                return found

        return await asyncio.to_thread(send)

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
