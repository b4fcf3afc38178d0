"""The numbers of our gRPC messages are a committed file for each plugin: whatever the code has is in it, and what is in it
stays as it is. `make reference` writes them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc_tools
import msgspec
import pytest
from google.protobuf import descriptor_pb2
from grpc_tools import protoc
from msgspec.structs import replace

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import event_locks  # type: ignore[import-not-found]  # noqa: E402
import wire_locks  # type: ignore[import-not-found]  # noqa: E402

from host.authoring.event_contract import export_project  # noqa: E402
from host.wire.descriptors import file_of  # noqa: E402
from host.wire.lock import NAME, Lock, LockedField, breaks, faults, gains, grown  # noqa: E402
from host.wire.model import Contract  # noqa: E402
from host.wire.proto_text import proto_text  # noqa: E402

EXAMPLE = ROOT / "docs" / "examples" / "acme_crm"


@pytest.fixture(scope="module")
def contracts() -> dict[str, tuple[Contract, Lock]]:
    """What gRPC has of the host and of the kernel's plugins, and what their locks have."""
    with wire_locks.generations() as found:
        return {one.plugin_id: wire_locks.contract_and_lock(one) for one in found}


def committed(file: Path) -> Lock | None:
    """The lock as the last commit has it; None outside of a checkout, and for a new one."""
    ran = subprocess.run(
        ["git", "show", f"HEAD:./{file.name}"], cwd=file.parent, capture_output=True, check=False, timeout=30
    )
    return None if ran.returncode else _decoded(ran.stdout)


def _decoded(content: bytes) -> Lock:
    return msgspec.json.decode(content, type=Lock)


def moved(before: Lock, now: Lock) -> Iterator[str]:
    """What has another number, or another type under its number, than before; and what has gone."""
    for name, message in before.messages.items():
        for field, locked in message.fields.items():
            seen = now.messages[name].fields.get(field) if name in now.messages else None
            if seen != locked:
                yield f"{name}.{field} was {locked.number} {locked.type}, and is {seen}"
    for name, enum in before.enums.items():
        for word, number in enum.words.items():
            seen_number = now.enums[name].words.get(word) if name in now.enums else None
            if seen_number != number:
                yield f"{name}.{word} was {number}, and is {seen_number}"


def complaints(contract: Contract, lock: Lock) -> list[str]:
    """What the code has and its lock has not, or has otherwise."""
    return [*faults(lock), *breaks(lock, contract), *gains(lock, contract)]


def test_every_lock_has_what_the_code_has(contracts: dict[str, tuple[Contract, Lock]]) -> None:
    found = {plugin_id: complaints(*both) for plugin_id, both in contracts.items()}

    assert {"kernel.host", "kernel.iam", "kernel.audit", "kernel.eventbus"} <= {
        one for one in found if contracts[one][0].services
    }
    assert {} == {plugin_id: told for plugin_id, told in found.items() if told}


def test_nothing_is_renumbered() -> None:
    """Compared with the last commit."""
    for file in [*(ROOT / "core_plugins").rglob(NAME), ROOT / "host" / NAME]:
        before = committed(file)
        if before is not None:
            assert [] == list(moved(before, _decoded(file.read_bytes()))), file


def test_only_streams_have_no_method(contracts: dict[str, tuple[Contract, Lock]]) -> None:
    lacking = {name: why for contract, _ in contracts.values() for name, why in contract.lacking.items()}

    assert {"eventbus.follow_events", "files.download", "files.upload"} <= set(lacking)
    assert {"its body or answer is a stream of bytes; use REST"} == set(lacking.values())


def broken_twins(lock: Lock) -> Iterator[tuple[str, Lock]]:
    message, fields = "UserView", dict(lock.messages["UserView"].fields)
    without = {name: one for name, one in fields.items() if name != "email"}
    yield "gone", replace(lock, messages={**lock.messages, message: replace(lock.messages[message], fields=without)})
    swapped = {
        **fields,
        "email": replace(fields["email"], number=fields["name"].number),
        "name": replace(fields["name"], number=fields["email"].number),
    }
    yield "swapped", replace(lock, messages={**lock.messages, message: replace(lock.messages[message], fields=swapped)})
    other = {**fields, "email": LockedField(fields["email"].number, "int64")}
    yield (
        "another type",
        replace(lock, messages={**lock.messages, message: replace(lock.messages[message], fields=other)}),
    )


def test_a_broken_twin_is_found(contracts: dict[str, tuple[Contract, Lock]]) -> None:
    contract, lock = contracts["kernel.iam"]
    twins = dict(broken_twins(lock))

    assert [] == list(moved(lock, lock))
    assert all(any(told.startswith("UserView.email was ") for told in moved(lock, twin)) for twin in twins.values())
    assert "UserView gains email" in complaints(contract, twins["gone"])
    assert any("UserView.email was int64" in told for told in complaints(contract, twins["another type"]))


def test_a_number_is_never_generated_over(contracts: dict[str, tuple[Contract, Lock]]) -> None:
    """`make reference` stops instead."""
    contract, lock = contracts["kernel.iam"]

    with pytest.raises(event_locks.PromiseBroken, match=r"UserView.email was int64"):
        wire_locks.extended("kernel.iam", dict(broken_twins(lock))["another type"], contract)


def compiled(place: Path, name: str, text: str) -> descriptor_pb2.FileDescriptorProto:
    """What protoc makes of a file."""
    (place / name).parent.mkdir(parents=True, exist_ok=True)
    (place / name).write_text(text)
    includes = Path(grpc_tools.__file__).parent / "_proto"
    status = protoc.main(["protoc", f"-I{place}", f"-I{includes}", f"--descriptor_set_out={place / 'set'}", name])
    assert status == 0, text
    (file,) = descriptor_pb2.FileDescriptorSet.FromString((place / "set").read_bytes()).file
    return file


def test_protoc_reads_what_is_exported_as_reflection_tells_it(
    contracts: dict[str, tuple[Contract, Lock]], tmp_path: Path
) -> None:
    for plugin_id, (contract, lock) in contracts.items():
        if contract.services:
            told = file_of(contract, grown(lock, contract))
            assert _sorted(compiled(tmp_path / plugin_id, contract.file, proto_text(told))) == _sorted(told), plugin_id


async def test_protoc_reads_the_examples(tmp_path: Path) -> None:
    name, text = await export_project(EXAMPLE, 60.0)

    assert name == "pk/x/acme_crm/v1/acme_crm.proto"
    assert compiled(tmp_path, name, text).package == "pk.x.acme_crm.v1"


def _sorted(file: descriptor_pb2.FileDescriptorProto) -> descriptor_pb2.FileDescriptorProto:
    """Nested types in one order: what protoc makes of maps comes where the map stands."""
    for message in file.message_type:
        nested = sorted(message.nested_type, key=lambda one: one.name)
        del message.nested_type[:]
        message.nested_type.extend(nested)
    return file
