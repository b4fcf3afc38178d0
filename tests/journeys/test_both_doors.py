"""Every operation of the kernel through REST, through gRPC and in the process: one value, one error, the same violations.

The operations are found in what the kernel tells of itself, so that a new one joins by itself; only what it needs as input is
listed here.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import urlencode

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pool, json_format, message_factory
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha import reflection_pb2

from plugin_api.testing import Client, KernelProcess, Tenant, unique
from plugin_api.testing.client import ABSENT
from plugin_api.testing.kernel import run_apart
from plugin_api.testing.people import new_password
from tests.journeys.inside import INSIDE

NOBODY = "0198c0de-0000-7000-8000-00000000beef"
STREAMS = {"eventbus.follow_events", "files.download", "files.upload"}
"""What REST alone has."""
CAPABILITIES = {"iam": "iam"}
"""By area, what another plugin calls its operations by."""
NOT_INSIDE = {
    **dict.fromkeys(sorted(STREAMS), "pieces of bytes flow through the doors alone"),
    **dict.fromkeys(
        ["audit.list_records", "gateway.list_breakers", "gateway.set_breaker"], "its plugin provides no capability"
    ),
    **dict.fromkeys(
        [
            "plugin.disable_plugin", "plugin.enable_plugin", "plugin.get_plugin", "plugin.install_plugin",
            "plugin.list_plugins", "plugin.remove_plugin", "plugin.rollback_plugin", "plugin.upgrade_plugin",
        ],
        "it is the host's own, which is no plugin",
    ),
    **dict.fromkeys(
        [
            "eventbus.cancel_any_job", "eventbus.cancel_job", "eventbus.get_job", "eventbus.list_consumers",
            "eventbus.list_dead_jobs", "eventbus.list_dead_letters", "eventbus.list_queues", "eventbus.list_types",
            "eventbus.read_log", "eventbus.replay_dead_jobs", "eventbus.replay_dead_letters", "eventbus.rewind_consumer",
        ],
        "others reach the event bus through the registrar alone",
    ),
}  # fmt: skip
"""Operations that no other plugin can call in the process, and why."""
ENTERING = {"iam.log_in", "iam.log_in_browser", "iam.sign_up"}
"""These enter a tenant, and a call that is in one already enters no other: inside, nobody asks them but the anonymous."""
SAMPLES: dict[str, Callable[[Tenant], dict[str, Any]]] = {
    "gateway.set_breaker": lambda _: {"mode": "usual"},
    "plugin.install_plugin": lambda _: {"requirement": "../no-such-thing"},
    "plugin.upgrade_plugin": lambda _: {"requirement": "../no-such-thing"},
    "plugin.get_plugin": lambda _: {"plugin_id": "kernel.iam"},
    "plugin.remove_plugin": lambda _: {"data": "purge", "dry_run": True},
    "eventbus.rewind_consumer": lambda _: {
        "consumer": "acme.none",
        "place": {"topic": "none", "partition": 0, "offset": 0},
    },
    "eventbus.replay_dead_letters": lambda _: {"consumer": "acme.none"},
    "eventbus.replay_dead_jobs": lambda _: {"queue": "acme.none"},
    "eventbus.cancel_any_job": lambda _: {"job_id": NOBODY},
    "audit.list_records": lambda _: {"since": "2026-01-02T03:04:05.000001Z", "limit": 1},
    "iam.get_tenant": lambda tenant: {"tenant_id": tenant.id},
    "iam.update_tenant": lambda tenant: {"tenant_id": tenant.id, "name": "Journey Ltd"},
    "iam.sign_up": lambda _: sign_up_fields(),
    "iam.log_in": lambda tenant: {
        "tenant": tenant.slug,
        "email": tenant.owner.email,
        "password": tenant.owner.password,
    },
    "iam.log_in_browser": lambda tenant: {
        "tenant": tenant.slug,
        "email": tenant.owner.email,
        "password": tenant.owner.password,
    },
    "iam.refresh_session": lambda _: {"refresh_token": "none of ours"},
    "iam.check": lambda _: {"permission": "iam.user.read"},
    "iam.create_user": lambda _: {
        "email": f"{unique()}@x.example.com",
        "name": "Una",
        "roles": ["member"],
        "password": new_password(),
    },
    "iam.update_user": lambda _: {"name": "Una", "password": None, "roles": ["member"], "status": "active"},
    "iam.create_role": lambda _: {"name": unique("role"), "permissions": ["iam.user.read"]},
    "iam.update_role": lambda _: {"name": unique("role"), "permissions": []},
    "iam.create_invitation": lambda _: {"email": f"{unique()}@x.example.com", "roles": ["member"], "expires_in_s": 600},
    "iam.accept_invitation": lambda _: {"token": "none of ours", "name": "Una", "password": new_password()},
    "iam.create_api_key": lambda _: {"name": unique("key"), "permissions": ["iam.user.read"], "expires_in_s": 600},
    "iam.invite_to_sign_up": lambda _: {"expires_in_s": 600},
}
"""What operations are asked with, where it is more than things that are not there; a new operation that needs something is
listed here."""
NOT_RUN = {"iam.end_my_sessions", "iam.log_out_browser"}
"""These end the session that asks; nobody asks them but the anonymous."""
SECRETS = re.compile(
    r"id|.*_id|.*token|secret|.*_at|at|version|slug|email|.*_s|uptime_s|address|user_agent|current|next_cursor|behind|oldest|x|y|kid"
)
"""Fields whose values differ from one call to the next; that they are there, and of which type, is compared."""


@dataclass
class Operation:
    """One operation, by both doors."""

    id: str
    verb: str
    path: str
    grpc: str
    document: dict[str, Any]
    """Of OpenAPI."""


class Doors:
    """One caller at both doors."""

    def __init__(self, kernel: KernelProcess, channel: Any, client: Client) -> None:
        self.kernel, self.channel, self.client = kernel, channel, client
        self._pools: dict[str, Any] = {}

    async def ask(self, **question: Any) -> Any:
        """One question to reflection."""
        kinds = reflection_pb2.ServerReflectionRequest, reflection_pb2.ServerReflectionResponse
        call = self.channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", kinds[0].SerializeToString, kinds[1].FromString
        )()
        await call.write(kinds[0](**question))
        answer = await call.read()
        await call.done_writing()
        return answer

    async def services(self) -> list[str]:
        """The kernel's own services."""
        answer = await self.ask(list_services="")
        return [one.name for one in answer.list_services_response.service if re.match(r"pk\.(?!x\.)", one.name)]

    async def service(self, name: str) -> Any:
        """What reflection tells of one."""
        if name not in self._pools:
            answer = await self.ask(file_containing_symbol=name)
            pool = descriptor_pool.DescriptorPool()
            for file in reversed(answer.file_descriptor_response.file_descriptor_proto):
                pool.AddSerializedFile(file)
            self._pools[name] = pool.FindServiceByName(name)
        return self._pools[name]

    async def by_grpc(self, path: str, fields: dict[str, Any], etag: str = "") -> tuple[str, Any]:
        """`OK` and the answer as JSON, or the code and the places of a refusal."""
        service, name = path[1:].split("/")
        method = (await self.service(service)).methods_by_name[name]
        request, answer = (message_factory.GetMessageClass(one) for one in (method.input_type, method.output_type))
        message = json_format.ParseDict(boxed(fields, method.input_type), request(), ignore_unknown_fields=False)
        metadata = [("authorization", f"Bearer {self.client.token}")] if self.client.token else []
        metadata += [("if-match", etag)] if etag else []
        call = self.channel.unary_unary(path, request.SerializeToString, answer.FromString)
        try:
            got = await call(message, metadata=metadata, timeout=30)
        except grpc.aio.AioRpcError as error:
            return told(error)
        return "OK", plain(got)

    async def by_rest(self, one: Operation, fields: dict[str, Any], etag: str = "") -> tuple[str, Any]:
        """The same."""
        fields = dict(fields)
        path = re.sub(r"\{(\w+)\}", lambda found: str(fields.pop(found[1])), one.path)
        query = {p["name"] for p in one.document.get("parameters", ()) if p["in"] == "query"}
        sent = {name: fields.pop(name) for name in list(fields) if name in query}
        words = urlencode({name: word(value) for name, value in sent.items()})
        body = fields if one.verb in ("POST", "PATCH", "PUT") else None
        given = {"If-Match": etag} if etag else {}
        url = f"{path}{'?' if words else ''}{words}"
        answer = await self.client.request(one.verb, url, ABSENT if body is None else body, headers=given)
        if answer.status >= 400:
            places = {place(error["pointer"]): error["code"] for error in answer.json.get("errors", ())}
            return answer.code, (answer["detail"], places)
        return "OK", answer.json or {}

    async def inside(self, one: Operation, fields: dict[str, Any], etag: str = "") -> tuple[str, Any]:
        """The same, asked by another plugin for this caller."""
        area, name = one.id.rsplit(".", 1)
        asked = json.dumps({"capability": CAPABILITIES[area], "name": name, "fields": fields})
        path = f"/api/v1/x/acme.inside/{'known' if self.client.token else 'unknown'}"
        answer = await self.client.post(path, {"text": asked}, headers={"If-Match": etag} if etag else {})
        found = json.loads(answer.expect(200)["text"])
        if found["code"] != "OK":
            return found["code"], (found["detail"], {place(at): code for at, code in found["places"].items()})
        return "OK", found["value"] or {}


def word(value: Any) -> str:
    return {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def boxed(fields: Any, descriptor: Any) -> Any:
    """JSON of REST as protobuf's: what may be absent and empty, or null, stands in a message of its own."""
    return {name: in_box(value, descriptor.fields_by_name[name].message_type) for name, value in fields.items()}


def in_box(value: Any, kind: Any) -> Any:
    held = [one.name for one in kind.fields] if kind is not None else []
    if held == ["items"]:
        return {"items": value}
    if held == ["value"]:
        return {} if value is None else {"value": value}
    return value


def plain(message: Any) -> Any:
    """A message as JSON, numbers as numbers."""
    return json.loads(
        json_format.MessageToJson(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    )


def told(error: Any) -> tuple[str, Any]:
    """The code, the text and the violations of a refusal."""
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    code, places = "", {}
    for one in status_pb2.Status.FromString(details).details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if one.Unpack(info):
            code = info.reason
        elif one.Unpack(bad):
            places = {violation.field: violation.reason for violation in bad.field_violations}
    return code, (error.details(), places)


def place(pointer: str) -> str:
    return ".".join(pointer.split("/")[1:])


def shape(value: Any, name: str = "") -> Any:
    """A value to compare: what differs by nature as its type alone; 64-bit integers are texts in protobuf's JSON."""
    if isinstance(value, dict):
        return {key: shape(one, key) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        return [shape(one, name) for one in value]
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,16}", value):
        value = int(value)
    if isinstance(value, str):
        value = re.sub(r"[0-9a-f]{10}(?![0-9a-f])", "…", value)  # of `unique`
    return type(value).__name__ if SECRETS.fullmatch(name) else value


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelProcess]:
    """One with the plugin that asks in the process."""
    folder = tmp_path_factory.mktemp("inside")
    with zipfile.ZipFile(INSIDE.wheel(folder)) as wheel:
        wheel.extractall(folder / "site")
    process = KernelProcess(["--no-demo"], {"PYTHONPATH": str(folder / "site")})
    try:
        run_apart(process.start())
        yield process
    finally:
        run_apart(process.close())


@pytest.fixture
async def channel(kernel: KernelProcess) -> AsyncIterator[Any]:
    address = json.loads((kernel.data_dir / "run" / "kernel.json").read_text())["grpc"]
    async with grpc.aio.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as opened:
        yield opened


@pytest.fixture
async def owner(kernel: KernelProcess, channel: Any, tenant: Tenant) -> Doors:
    return Doors(kernel, channel, tenant.owner)


@pytest.fixture
async def operator(kernel: KernelProcess, channel: Any) -> Doors:
    return Doors(kernel, channel, await kernel.operator())


async def operations(doors: Doors) -> list[Operation]:
    """All of the kernel, from what OpenAPI tells, with their methods."""
    document = (await doors.client.get("/api/v1/openapi.json")).expect(200).json
    found = []
    for path, verbs in document["paths"].items():
        for verb, one in verbs.items():
            area, name = one["operationId"].rsplit(".", 1)
            if area != "host" and not path.startswith("/api/v1/x/"):  # pages of the door itself, and who asks inside
                found.append(Operation(one["operationId"], verb.upper(), path, await method_of(doors, area, name), one))
    return found


async def method_of(doors: Doors, area: str, name: str) -> str:
    wanted = "".join(part.capitalize() for part in name.split("_"))
    for service in await doors.services():
        if service.startswith(f"pk.{area}.v1.") and wanted in (await doors.service(service)).methods_by_name:
            return f"/{service}/{wanted}"
    return ""


async def test_every_operation_but_streams_has_a_method(owner: Doors) -> None:
    found = await operations(owner)

    assert len(found) > 50
    assert {one.id for one in found if not one.grpc} == STREAMS
    methods = [f"/{name}/{m.name}" for name in await owner.services() for m in (await owner.service(name)).methods]
    assert sorted(methods) == sorted(one.grpc for one in found if one.grpc)


async def test_every_operation_is_asked_in_the_process_or_cannot_be(owner: Doors) -> None:
    found = {one.id for one in await operations(owner)}
    asked = {name for name in found if name.rsplit(".", 1)[0] in CAPABILITIES}

    assert asked | NOT_INSIDE.keys() == found
    assert not asked & NOT_INSIDE.keys()


def sign_up_fields() -> dict[str, Any]:
    slug = unique()
    return {
        "slug": slug,
        "name": "Journey Ltd",
        "owner_email": f"o@{slug}.example.com",
        "owner_password": new_password(),
        "currency": "CHF",
    }


def inputs(one: Operation, tenant: Tenant) -> Iterator[dict[str, Any]]:
    """What an operation is asked with: its sample, and that with each of its fields out of bounds."""
    places = re.findall(r"\{(\w+)\}", one.path)
    query = {p["name"] for p in one.document.get("parameters", ()) if p["in"] == "query"}

    def sample() -> dict[str, Any]:
        return {**dict.fromkeys(places, NOBODY), **(SAMPLES[one.id](tenant) if one.id in SAMPLES else {})}

    yield sample()
    for name, value in sample().items():
        if isinstance(value, str) and name not in (*places, "since"):  # a time is no text in protobuf
            yield {**sample(), name: "nul\0nul"}
            yield {**sample(), name: "x" * 5_000}
        if isinstance(value, int) and not isinstance(value, bool):
            yield {**sample(), name: 2**60}
    if "limit" in query:
        yield {**sample(), "limit": 201}
        yield {**sample(), "limit": 0}
    if "cursor" in query:
        yield {**sample(), "cursor": "bm9uZSBvZiBvdXJz"}


def comparable(outcome: tuple[str, Any]) -> Any:
    """The value, or the code and the violations; the text where it tells no name of one call."""
    code, value = outcome
    return (code, shape(value)) if code == "OK" else (code, value[1])


def same(rest: Any, grpc: Any) -> bool:
    """Whether both are one; a word of an enum may carry its type's name in protobuf."""
    if rest == grpc:
        return True
    if isinstance(rest, dict) and isinstance(grpc, dict):
        return rest.keys() == grpc.keys() and all(same(rest[name], grpc[name]) for name in rest)
    if isinstance(rest, (list, tuple)) and isinstance(grpc, (list, tuple)):
        return len(rest) == len(grpc) and all(map(same, rest, grpc))
    if isinstance(rest, str) and isinstance(grpc, str) and grpc.isupper():
        return grpc.lower().endswith(f"_{rest}")
    return False


def test_what_differs_is_not_the_same() -> None:
    assert same({"a": ["open", 1]}, {"a": ["STATE_OPEN", 1]})
    assert not same({"a": "open"}, {"a": "STATE_CLOSED"})
    assert not same({"a": 1}, {"a": 2})
    assert not same([1], [1, 1])


def is_inside(one: Operation, *, by_nobody: bool) -> bool:
    """Whether another plugin can ask this in the process for such a caller."""
    return one.id not in NOT_INSIDE and (by_nobody or one.id not in ENTERING)


async def test_all_operations_answer_alike_through_all_doors(
    owner: Doors, operator: Doors, channel: Any, tenant: Tenant
) -> None:
    """As the owner of a tenant, as an operator and as nobody."""
    nobody = Doors(owner.kernel, channel, Client(owner.client.url, None, owner.kernel.new_source_address()))
    outcomes: dict[str, int] = {}
    insides = 0
    for one in await operations(owner):
        for doors in (owner, operator, nobody) if one.grpc else ():
            if one.id in NOT_RUN and doors is not nobody:
                continue
            for position, _ in enumerate(inputs(one, tenant)):
                # Each door gets a sample of its own: one name is not taken twice.
                first, second = [next(islice(inputs(one, tenant), position, None)) for _ in range(2)]
                etag = '"999"' if one.verb == "PATCH" else ""
                by_rest, by_grpc = await doors.by_rest(one, first, etag), await doors.by_grpc(one.grpc, second, etag)
                assert same(comparable(by_rest), comparable(by_grpc)), (one.id, first, by_rest, by_grpc)
                if is_inside(one, by_nobody=doors is nobody):
                    third = next(islice(inputs(one, tenant), position, None))
                    inside = await doors.inside(one, third, etag)
                    assert same(comparable(by_rest), comparable(inside)), (one.id, first, by_rest, inside)
                    insides += 1
                outcomes[by_rest[0]] = outcomes.get(by_rest[0], 0) + 1

    assert outcomes["OK"] > 25
    assert insides > 100
    assert {"invalid_request", "not_authenticated", "not_allowed", "not_found", "bad_cursor"} <= set(outcomes)
