"""A kernel of this process with every plugin that iam needs, real stores, a clock that tests move, and a REST door."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import pytest

from core_plugins.iam.operations.parts import Parts
from core_plugins.iam.plugin import plugin as iam_plugin
from host.http import RestDoor
from host.kernel import Kernel, Place
from host.stamps import FileStamps, create_stamps
from host.startup import Startup
from plugin_api.testing.clock import FakeClock
from tests.conftest import MakeDatabase

BASE = "/api/v1/iam"
OPERATOR_PASSWORD, DEMO_PASSWORD = "Operator-y7Qv2mR9xK", "Demo-b4Wn8tZ3cL"
_places = count(1)


@dataclass(frozen=True)
class Answer:
    """One answer of the door."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body) if self.body else None

    @property
    def code(self) -> str:
        return str(self.json["code"])

    @property
    def etag(self) -> str:
        return str(self.headers["ETag"])

    def __getitem__(self, name: str) -> Any:
        return self.json[name]


@dataclass
class Client:
    """Sends requests from one address, with one set of headers."""

    running: Running
    session: aiohttp.ClientSession
    headers: dict[str, str] = field(default_factory=dict)

    def bearing(self, token: str) -> Client:
        """The same place with an access token or an API key."""
        return Client(self.running, self.session, {**self.headers, "Authorization": f"Bearer {token}"})

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request below /api/v1/iam, or an absolute path that begins with `//`."""
        url = f"http://127.0.0.1:{self.running.port}{path[1:] if path.startswith('//') else BASE + path}"
        sent = {**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        async with self.session.request(method, url, json=body, headers=sent) as response:
            return Answer(response.status, response.headers.copy(), await response.read())

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.ask("GET", path, **headers)

    async def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        return await self.ask("POST", path, body, **headers)

    async def delete(self, path: str, **headers: str) -> Answer:
        return await self.ask("DELETE", path, **headers)

    async def me(self) -> int:
        """The status of GET /me."""
        return (await self.get("/me")).status


@dataclass
class Person:
    """Somebody who is logged in."""

    slug: str
    email: str
    password: str
    tokens: dict[str, Any]
    client: Client

    async def again(self) -> Person:
        """A second session of the same person, from elsewhere."""
        return await self.client.running.person(self.slug, self.email, self.password)


@dataclass
class Tenant:
    """A customer that signed up."""

    id: UUID
    slug: str
    made: Answer
    owner: Person


class Running:
    """The kernel, its door, and ways to talk to it."""

    def __init__(self, kernel: Kernel, startup: Startup, clock: FakeClock, port: int, announced: list[str]) -> None:
        self.kernel = kernel
        self.startup = startup
        self.clock = clock
        self.port = port
        self.announced = announced
        self._stack = AsyncExitStack()

    @property
    def parts(self) -> Parts:
        """What iam works with."""
        wired = iam_plugin._wired
        assert wired is not None
        return wired.parts

    async def client(self, address: str | None = None) -> Client:
        """A client at an address; by default at one whose network nobody else of this run has."""
        number = next(_places)
        place = address or f"127.{40 + number // 250}.{1 + number % 250}.7"
        connector = aiohttp.TCPConnector(local_addr=(place, 0))
        session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return Client(self, await self._stack.enter_async_context(session))

    async def sign_up(self, client: Client | None = None, **changes: Any) -> Answer:
        """Sign up with good values, some changed."""
        slug = f"acc{secrets.token_hex(5)}"
        body = {
            "slug": slug,
            "name": "Acme",
            "owner_email": f"owner@{slug}.example.com",
            "owner_password": new_password(),
        }
        return await (client or await self.client()).post("/tenants", {**body, **changes})

    async def log_in(self, slug: str, email: str, password: str, client: Client | None = None) -> Answer:
        """POST /sessions, by default from an address of its own."""
        asked = {"tenant": slug, "email": email, "password": password}
        return await (client or await self.client()).post("/sessions", asked)

    async def person(self, slug: str, email: str, password: str) -> Person:
        """Log in and keep the session."""
        client = await self.client()
        answer = await self.log_in(slug, email, password, client)
        assert 201 == answer.status, answer.body
        return Person(slug, email, password, answer.json, client.bearing(answer["access_token"]))

    async def tenant(self) -> Tenant:
        """Sign up and log the owner in."""
        password = new_password()
        made = await self.sign_up(owner_password=password)
        assert 201 == made.status, made.body
        owner = await self.person(made["slug"], f"owner@{made['slug']}.example.com", password)
        return Tenant(UUID(made["id"]), made["slug"], made, owner)

    async def add(self, tenant: Tenant, *roles: str) -> Person:
        """Create somebody with these roles and log them in."""
        password, email = new_password(), f"u{secrets.token_hex(5)}@{tenant.slug}.example.com"
        body = {"email": email, "name": "Una", "roles": list(roles), "password": password}
        assert 201 == (await tenant.owner.client.post("/users", body)).status
        return await self.person(tenant.slug, email, password)

    async def refresh(self, token: str) -> Answer:
        """POST /sessions/refresh."""
        return await (await self.client()).post("/sessions/refresh", {"refresh_token": token})

    async def fetch(self, tenant_id: UUID, sql: str, *arguments: Any) -> list[Any]:
        """Read what is stored for a tenant."""
        async with self.parts.calls.open(tenant_id, "look") as call:
            return list(await (await call.tx()).fetch(sql, *arguments))

    async def execute(self, tenant_id: UUID, sql: str, *arguments: Any) -> None:
        """Change what is stored for a tenant, past every operation."""
        async with self.parts.calls.open(tenant_id, "change") as call:
            await (await call.tx()).execute(sql, *arguments)

    async def close(self) -> None:
        await self._stack.aclose()


def new_password() -> str:
    return "Horse-" + secrets.token_urlsafe(15)


@dataclass(frozen=True)
class Ground:
    """What kernels of one test stand on; two that are started one after the other see the same data."""

    folder: Path
    servers: dict[str, str]


@asynccontextmanager
async def run_kernel(ground: Ground, clock: FakeClock | None = None, **settings: Any) -> AsyncIterator[Running]:
    """Start a kernel with these settings of iam; stop it afterwards."""
    announced: list[str] = []
    stamps = FileStamps(ground.folder / "stamps")
    kernel = Kernel(Place(ground.folder, "embedded", 0, ground.servers), stamps, b"k" * 32, announced.append)
    kernel.clock = clock or FakeClock(datetime.now(UTC))
    given = {"hash_memory_kib": 7_168, "hash_passes": 1, "hash_queue_max": 1_000, **settings}
    # Secrets come from a file that nobody else can read; the command line refuses them.
    lines = ["[iam]", *(f"{name} = {json.dumps(value)}" for name, value in given.items())]
    (ground.folder / "pk.toml").write_text("\n".join(lines))
    (ground.folder / "pk.toml").chmod(0o600)
    startup = Startup(kernel, ["iam"], {})
    try:
        await startup.run()
        kernel.is_ready = True
        door = RestDoor(kernel, startup.pages())
        listener = socket.create_server(("127.0.0.1", 0))
        listener.close()
        server = await asyncio.get_running_loop().create_server(door.server, "0.0.0.0", 0)
        port = server.sockets[0].getsockname()[1]
        running = Running(kernel, startup, kernel.clock, port, announced)  # type: ignore[arg-type]
        try:
            yield running
        finally:
            await running.close()
            server.close()
            await door.server.shutdown(1.0)
    finally:
        await startup.stop()
        stamps.close()


@pytest.fixture
async def ground(make_database: MakeDatabase, valkey_url: str, tmp_path: Path) -> Ground:
    """An empty database, and a data folder."""
    (tmp_path / "secrets").mkdir(mode=0o700)
    create_stamps(tmp_path / "stamps")
    return Ground(tmp_path, {"postgres": await make_database("iam"), "valkey": valkey_url})


@pytest.fixture
async def running(ground: Ground) -> AsyncIterator[Running]:
    """A kernel after its first start, with known passwords of operator and demo owner."""
    passwords = {"operator_password": OPERATOR_PASSWORD, "demo_password": DEMO_PASSWORD}
    async with run_kernel(ground, **passwords) as made:
        yield made


@pytest.fixture
async def operator(running: Running) -> Person:
    """The operator, logged in."""
    return await running.person("platform", "operator@platform.localhost", OPERATOR_PASSWORD)


@pytest.fixture
def start(ground: Ground) -> Callable[..., Any]:
    """Starts kernels on one ground: `async with start(signup="closed") as running`."""

    def make(clock: FakeClock | None = None, **settings: Any) -> Any:
        passwords = {"operator_password": OPERATOR_PASSWORD, "demo_password": DEMO_PASSWORD}
        given = {name: value for name, value in {**passwords, **settings}.items() if value is not None}
        return run_kernel(ground, clock, **given)

    return make
