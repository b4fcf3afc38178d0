"""Two kernels: one has `iam`, the other asks it; over mutual TLS, as if it were in the process."""

from __future__ import annotations

import json
import secrets
import socket
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import grpc.aio
import msgspec
import pytest
from google.rpc import error_details_pb2, status_pb2

from host.remote.assertion import CALLER, KERNEL_NAME, Caller
from host.remote.capability import DESCRIBE
from host.remote.identity import IDENTIFY, KEPT_S, RESOLVE, ResolveActor
from host.rpc_errors import DETAILS_KEY
from plugin_api.call import Actor
from plugin_api.ids import uuid7
from plugin_api.testing import Client, KernelProcess, Tenant
from plugin_api.testing.kernel import run_apart
from plugin_api.testing.people import unique
from plugin_api.testing.waiting import until
from tests.host.test_rpc_tls import Authority, Signed
from tests.plugins.conftest import Recipe, run_pk

GET_USER, GET_SESSION = "/pk.iam.v1.Iam/GetUser", "/pk.iam.v1.Iam/GetSession"
OPERATIONS = """
    def __init__(self, services):
        self.iam = services.get(IAM)

    @operation("GET /people/{word}", permission="word.read")
    async def person(self, call: Call, request: Word) -> Said:
        \"\"\"Who it is.\"\"\"
        return Said(text=(await self.iam.get_user(call, UserRef(user_id=request.word))).email)

    @operation("GET /elevated/{word}", permission="word.read")
    async def elevated(self, call: Call, request: Word) -> Said:
        \"\"\"Who it is, as the plugin.\"\"\"
        return Said(text=(await self.iam.get_user(call.as_plugin(), UserRef(user_id=request.word))).email)

    @operation("POST /checks", permission="word.read", status=200)
    async def check(self, call: Call, request: Word) -> Said:
        \"\"\"Whether somebody may, by something that is no reading.\"\"\"
        return Said(text=str((await self.iam.check(call, Check(permission=request.word))).allowed))
"""
TOP = """from plugin_api.contracts.iam import IAM, Check, UserRef

class Word(Struct, frozen=True, forbid_unknown_fields=True):
    word: str
"""
ASKER = Recipe(
    "acme.asker",
    manifest='requires = ["iam >=1"]\n',
    more=OPERATIONS,
    operations_top=TOP,
    made_with="registrar.services",
)


@dataclass
class Two:
    """The kernel that has `iam`, the one that asks it, and who signs their certificates."""

    iam: KernelProcess
    asking: KernelProcess
    authority: Authority
    address: str
    tenant: Tenant

    def owner(self) -> Client:
        """The tenant's owner, at the door of the asking kernel."""
        return self.asking.client(self.tenant.owner.token)

    def channel(self, signed: Signed) -> Any:
        """A client of the kernel that has `iam`, with a certificate."""
        credentials = grpc.ssl_channel_credentials(self.authority.pem, signed.key, signed.certificate)
        return grpc.aio.secure_channel(self.address, credentials)


def told(**changes: Any) -> bytes:
    """What a kernel would say: a plugin acts."""
    usual = Caller(GET_USER, time.time(), uuid7(), "plugin", "acme.asker")
    return msgspec.msgpack.encode(msgspec.structs.replace(usual, **changes))


def served(folder: Path, authority: Authority) -> dict[str, str]:
    """Settings of the kernel that is asked: a door with TLS."""
    return {f"PK_HOST__GRPC_TLS_{kind}": path for kind, path in files(folder, "iam", authority, "CLIENT_CA").items()}


def asking_with(folder: Path, authority: Authority) -> dict[str, str]:
    """Settings of the kernel that asks: a certificate towards the other."""
    return {f"PK_REMOTE__TLS_{kind}": path for kind, path in files(folder, "asking", authority, "CA").items()}


def files(folder: Path, name: str, authority: Authority, authority_kind: str) -> dict[str, str]:
    """A kernel's certificate, its key and who signed it, as files."""
    signed = authority.sign(name, uri=KERNEL_NAME)
    written = {"CERT": signed.certificate, "KEY": signed.key, authority_kind: authority.pem}
    for kind, pem in written.items():
        (folder / f"{name}.{kind}").write_bytes(pem)
    return {kind: str(folder / f"{name}.{kind}") for kind in written}


def free_port() -> str:
    """One that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return str(free.getsockname()[1])


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    """Both, started; the one that asks has a plaintext door, and a certificate for asking alone."""
    folder = tmp_path_factory.mktemp("two")
    with zipfile.ZipFile(ASKER.wheel(folder)) as wheel:
        wheel.extractall(folder / "site")
    authority = Authority("ours")
    port, http_port = free_port(), free_port()  # it comes back where it was
    iam = KernelProcess(
        ["--no-demo", "--only", "iam,data", "--grpc-port", port, "--http-port", http_port], served(folder, authority)
    )
    settings = {
        **asking_with(folder, authority),
        "PK_REMOTE__ADDRESSES": json.dumps({"iam": f"127.0.0.1:{port}"}),
        "PYTHONPATH": str(folder / "site"),
    }
    asking = KernelProcess(["--no-demo", "--only", "acme.asker"], settings)
    try:
        run_apart(iam.start())
        run_apart(asking.start())
        yield Two(iam, asking, authority, f"127.0.0.1:{port}", run_apart(iam.sign_up()))
    finally:
        run_apart(asking.close())
        run_apart(iam.close())


# ------------------------------------------------------------------------------------- as in the process


async def test_a_person_is_recognised_and_a_capability_answers_as_in_the_process(two: Two) -> None:
    una = await two.tenant.add_user("member")

    answer = await two.owner().get(f"/api/v1/x/acme.asker/people/{una.id}")
    nobody = await two.owner().get(f"/api/v1/x/acme.asker/people/{uuid7()}")
    stranger = await two.asking.client("none of ours").get(f"/api/v1/x/acme.asker/people/{una.id}")
    refused = await two.asking.client(una.token).get(f"/api/v1/x/acme.asker/people/{una.id}")

    assert una.email == answer.expect(200)["text"]
    assert (404, "not_found") == (nobody.status, nobody.json["code"])
    assert (401, "not_authenticated") == (stranger.status, stranger.json["code"])
    assert (403, "acme.asker.word.read" in refused.json["detail"]) == (refused.status, True)


async def test_what_the_actor_may_do_is_found_out_by_the_one_who_serves(two: Two) -> None:
    una = await two.tenant.add_user("member")
    asked = {"name": unique("key"), "permissions": ["acme.asker.*"], "expires_in_s": 600}
    key = (await two.tenant.owner.post("/api/v1/iam/api-keys", asked)).expect(201)
    holder = two.asking.client(key["secret"])

    plain = await holder.get(f"/api/v1/x/acme.asker/people/{una.id}")
    elevated = await holder.get(f"/api/v1/x/acme.asker/elevated/{una.id}")
    checked = await two.owner().post("/api/v1/x/acme.asker/checks", {"word": "iam.user.read"})

    assert (403, True) == (plain.status, "iam.user.read" in plain.json["detail"])
    assert una.email == elevated.expect(200)["text"]
    assert "True" == checked.expect(200)["text"]


async def test_a_session_that_has_ended_opens_no_door_after_a_second(two: Two) -> None:
    session = await two.tenant.owner.log_in_again()
    client = two.asking.client(session.token)
    path = f"/api/v1/x/acme.asker/elevated/{uuid7()}"
    assert 404 == (await client.get(path)).status

    (await session.delete(f"/api/v1/iam/sessions/{session.session['session_id']}")).expect(204)
    ended = time.monotonic()

    async def is_out() -> bool:
        return (await client.get(path)).status == 401

    await until(is_out, "the session opens no door")
    assert time.monotonic() - ended < KEPT_S + 2.0


async def test_one_trace_goes_through_both(two: Two) -> None:
    trace_id = secrets.token_hex(16)
    headers = {"traceparent": f"00-{trace_id}-{'1' * 16}-00"}

    await two.owner().get(f"/api/v1/x/acme.asker/people/{uuid7()}", headers=headers)

    def lines(kernel: KernelProcess) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in kernel.log_file.read_text().splitlines() if trace_id in line]
        return [line for line in found if line.get("trace_id") == trace_id]

    await until(lambda: lines(two.iam) and lines(two.asking), "both have told")
    assert {line["request_id"] for line in lines(two.iam)} == {line["request_id"] for line in lines(two.asking)}


# ----------------------------------------------------------------------------------- who may say who acts


@pytest.mark.parametrize(
    ("uri", "changes"),
    [
        pytest.param("", {}, id="no kernel's certificate"),
        pytest.param("urn:platform-kernel:kernels", {}, id="a name that is nearly a kernel's"),
        pytest.param(KERNEL_NAME, {"path": "/pk.iam.v1.Iam/DeleteUser"}, id="made for another method"),
        pytest.param(KERNEL_NAME, {"issued_at": 1_000_000_000.0}, id="made long ago"),
        pytest.param(KERNEL_NAME, {"issued_at": 9_000_000_000.0}, id="made in the future"),
        pytest.param(KERNEL_NAME, {"issued_at": float("nan")}, id="made at no time"),
    ],
)
async def test_who_acts_is_believed_of_kernels_alone(two: Two, uri: str, changes: dict[str, Any]) -> None:
    async with two.channel(two.authority.sign("somebody", uri=uri)) as channel:
        status, code = await asked(channel, GET_USER, told(**changes))

    assert ("PERMISSION_DENIED", "not_a_kernel") == (status, code)


async def test_a_kernel_is_believed_and_no_further_than_its_actor_goes(two: Two) -> None:
    tenant, user = UUID(two.tenant.id), (await two.tenant.add_user("member")).id
    other = UUID((await two.iam.sign_up()).id)
    async with two.channel(two.authority.sign("kernel", uri=KERNEL_NAME)) as channel:
        plugin = await asked(channel, GET_USER, told(tenant_id=tenant))
        elsewhere = await asked(channel, GET_USER, told(tenant_id=other, kind="user", id=user))
        nobody = await asked(channel, GET_USER, told(tenant_id=tenant, kind="anonymous", id=""))
        module = await asked(channel, GET_USER, told(tenant_id=tenant, kind="module", id="acme.mod"))
        unread = await asked(channel, GET_SESSION, told(path=GET_SESSION, kind="anonymous", id=""))
        garbage = await asked(channel, GET_USER, b"garbage")
        twice = await asked(channel, GET_USER, told(), told())

    assert ("INVALID_ARGUMENT", "invalid_request") == plugin  # let in; the question was empty
    assert ["UNAUTHENTICATED"] * 3 == [elsewhere[0], nobody[0], module[0]]
    assert ("UNAUTHENTICATED", "not_authenticated") == unread  # and not what is wrong with the question
    assert [("INVALID_ARGUMENT", "bad_header")] * 2 == [garbage, twice]


async def test_who_an_actor_is_follows_what_changes(two: Two) -> None:
    tenant, una = two.tenant, await two.tenant.add_user("admin")
    wanted = {"name": unique("key"), "permissions": ["acme.asker.*"], "expires_in_s": 600}
    key = (await tenant.owner.post("/api/v1/iam/api-keys", wanted)).expect(201)
    actors = {"user": Actor("user", una.id), "api_key": Actor("api_key", key["id"])}
    names = ["acme.asker.word.read", "iam.user.read"]
    async with two.channel(two.authority.sign("kernel", uri=KERNEL_NAME)) as channel:

        async def resolved(kind: str) -> Any:
            question = msgspec.json.encode(ResolveActor(UUID(tenant.id), actors[kind], None, names))
            try:
                return msgspec.json.decode(await channel.unary_unary(RESOLVE)(question, timeout=10))["held"]
            except grpc.aio.AioRpcError as error:
                return error.code().name

        before = [await resolved(kind) for kind in actors]
        any_version = {"If-Match": "*"}
        (await tenant.owner.delete(f"/api/v1/iam/api-keys/{key['id']}", headers=any_version)).expect(204)
        suspended = {"status": "suspended"}
        (await tenant.owner.patch(f"/api/v1/iam/users/{una.id}", suspended, headers=any_version)).expect(200)
        after = [await resolved(kind) for kind in actors]

    assert [names, names[:1]] == before
    assert ["UNAUTHENTICATED", "UNAUTHENTICATED"] == after


async def test_what_the_host_tells_kernels_it_tells_nobody_else(two: Two) -> None:
    async with two.channel(two.authority.sign("client")) as channel:
        answers = {path: await asked(channel, path) for path in (DESCRIBE, IDENTIFY, RESOLVE)}

    assert {("PERMISSION_DENIED", "not_a_kernel")} == set(answers.values())


async def test_others_certificates_and_plaintext_are_refused(two: Two) -> None:
    others = Authority("others").sign("kernel", uri=KERNEL_NAME)
    door = json.loads((two.asking.data_dir / "run" / "kernel.json").read_text())["grpc"]
    async with two.channel(others) as foreign, grpc.aio.insecure_channel(two.address) as open_way:
        assert "UNAVAILABLE" == (await asked(foreign, GET_USER, told()))[0]
        assert "UNAVAILABLE" == (await asked(open_way, GET_USER, told()))[0]
    async with grpc.aio.insecure_channel(door) as channel:
        say = "/pk.x.acme_asker.v1.Operations/Say"
        said = await asked(channel, say, told(path=say))
        identified = await asked(channel, IDENTIFY)

    assert [("PERMISSION_DENIED", "not_a_kernel")] * 2 == [said, identified]


# --------------------------------------------------------------------------------------- away, and back


async def test_a_kernel_that_is_away_is_left_alone_and_found_again(two: Two) -> None:
    path = f"/api/v1/x/acme.asker/elevated/{uuid7()}"

    async def is_back() -> bool:
        return (await two.owner().get(path)).status == 404

    await two.iam.stop()
    try:
        answers = [await two.owner().get(path) for _ in range(6)]
        last = await two.owner().get(path)
        checks = json.loads((await run_pk(two.asking, "doctor", status=None)).stdout)["checks"]
    finally:
        await two.iam.start()
        await until(is_back, "it is found again, without a restart", 60.0)

    assert {(503, "unavailable")} == {(one.status, one.json["code"]) for one in answers}
    assert all(int(one.headers["retry-after"]) >= 1 for one in answers)
    assert int(last.headers["retry-after"]) > 20
    assert ["warn"] == [one["status"] for one in checks if "breaker open" in one["detail"]], checks


async def asked(channel: Any, path: str, *callers: bytes) -> tuple[str, str]:
    """The gRPC status of an empty question, and the code of the error."""
    metadata = tuple((CALLER, one) for one in callers)
    try:
        await channel.unary_unary(path)(b"", metadata=metadata, timeout=10)
    except grpc.aio.AioRpcError as error:
        status = status_pb2.Status.FromString(dict(error.trailing_metadata() or ()).get(DETAILS_KEY, b""))
        info = error_details_pb2.ErrorInfo()
        for detail in status.details:
            detail.Unpack(info)
        return error.code().name, info.reason
    return "OK", ""
