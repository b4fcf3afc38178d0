"""A worker that speaks the channel and answers every HTTP request with its pid; it misbehaves when told to.

Setting `test.mode` says how it starts: `fail` (says that it cannot), `die` (just ends), `silent` (never ready). Control
question `POST /demo` with `{"do": ...}` changes a running one: `hang`, `mute` (no heartbeats), `stubborn` (does not
drain), `tell` (announces). Its file `DIR/mode`, when there, goes before the setting: for the workers that come later.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from host.channel import Channel
from host.lifeline import end_with_parent
from host.stamps import FileStamps


class FakeWorker:
    """One worker process."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self.start: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.mute = False
        self.stubborn = False
        self.requests = 0
        self.under_way = 0
        self.arguments: dict[str, Any] = {}
        self.channel: Channel

    async def run(self) -> int:
        """Serve until told to stop."""
        handlers = {
            "start": self.start.set_result,
            "stop": lambda _: self.stopping.set(),
            "metrics": self.metrics,
            "health": self.health,
            "control": self.control,
            "plugins": self.plugins,
        }
        self.channel = await Channel.open(socket.socket(fileno=int(sys.argv[1])), handlers, self.stopping.set)
        self.arguments = await self.start
        beat = asyncio.create_task(self.beat())
        mode = self.mode()
        if mode == "fail":
            self.channel.send("failed", text="the fake worker was told to fail")
            await self.stopping.wait()
            return 1
        if mode == "die" or (mode == "poisoned" and not self.arguments["quarantined"]):
            self.channel.send_from_thread("loading", plugin="" if mode == "die" else "acme.crm")
            os._exit(3)
        server = await self.serve() if mode != "silent" else None
        await self.stopping.wait()
        if self.stubborn:
            await asyncio.sleep(3600)
        beat.cancel()
        if server is not None:
            await self.finish(server)
        self.channel.close()
        return 0

    def mode(self) -> str:
        """How to behave at the start."""
        file = Path(self.arguments["data_dir"]) / "mode"
        return file.read_text() if file.exists() else str(self.arguments["overrides"].get("test.mode", ""))

    async def serve(self) -> asyncio.Server:
        """Answer on the inherited socket."""
        listener = socket.socket(fileno=self.arguments["http_fd"])
        listener.setblocking(False)
        server = await asyncio.start_server(self.answer, sock=listener)
        self.channel.send("ready")
        return server

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, one connection."""
        self.under_way += 1
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.requests += 1
            body = str(os.getpid()).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            writer.close()
            await writer.wait_closed()
        finally:
            self.under_way -= 1

    async def finish(self, server: asyncio.Server) -> None:
        """Accept nobody any more, and answer whoever has been."""
        for listener in server.sockets:
            asyncio.get_running_loop().remove_reader(listener.fileno())
        for _ in range(10):  # asyncio drops who has been accepted and has no handler yet when the server is closed
            await asyncio.sleep(0)
        server.close()
        while self.under_way:
            await asyncio.sleep(0.01)

    async def beat(self) -> None:
        """Show that the loop turns."""
        while True:
            if not self.mute:
                self.channel.send("heartbeat")
            await asyncio.sleep(0.1)

    def metrics(self, _: dict[str, Any]) -> dict[str, Any]:
        """One counter."""
        sample = {"name": "test_requests_total", "labels": {"door": "rest"}, "value": self.requests}
        return {
            "families": [{"name": "test_requests_total", "type": "counter", "help": "Requests.", "samples": [sample]}]
        }

    def health(self, _: dict[str, Any]) -> dict[str, Any]:
        """Well, but for a third party's plugin."""
        return {
            "ok": False,
            "plugins": {"kernel.data": {"ok": True}, "acme.crm": {"ok": False, "detail": "no licence"}},
        }

    def plugins(self, _: dict[str, Any]) -> dict[str, Any]:
        """None are desired."""
        return {"desired": {"sequence": 0, "change_id": "", "plugins": []}}

    def hang(self) -> None:
        """Stop the loop, and say whose code does."""
        self.channel.send_from_thread("stalled", plugin="acme.crm", frame="acme_crm/plugin.py:7 loop")
        time.sleep(3600)

    def control(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Do as told; any other question is answered with what was asked."""
        told = (fields["body"] or {}).get("do")
        if told == "hang":
            asyncio.get_running_loop().call_later(0.1, self.hang)
        elif told == "tell":
            self.channel.send("announce", text="operator@platform.localhost: a-password-told-once")
        elif told == "touch":
            FileStamps(Path(self.arguments["stamps"])).touch("x")
        else:
            self.mute = told == "mute"
            self.stubborn = told == "stubborn"
        return {"status": 200, "body": {"asked": fields, "arguments": self.arguments}}


async def _live() -> int:
    return await FakeWorker().run()


if __name__ == "__main__":
    end_with_parent(2.0)
    sys.exit(asyncio.run(_live()))
