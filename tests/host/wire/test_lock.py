"""Numbers are given once: whatever comes later, what a lock has stays, and another type under a name is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from host.wire.descriptors import file_of
from host.wire.lock import (
    BYTES_MAX,
    NAME,
    Lock,
    WireLockUnreadable,
    breaks,
    faults,
    gains,
    grown,
    read_lock,
    write_text,
)
from host.wire.numbering import numbered
from host.wire.proto_text import proto_text
from host.wire.shapes import contract_of
from tests.host.wire.conftest import operation, served

PACKAGE = "pk.x.acme_crm.v1"


def lead(**fields: Any) -> Any:
    """A contract of one Struct with these fields, made anew."""
    cls = msgspec.defstruct("Lead", [(name, kind) for name, kind in fields.items()], module="acme_crm.operations")
    return operation(cls, cls)


def contract(one: Any, lock: Lock | None = None) -> Any:
    return contract_of(PACKAGE, [one], lock or Lock())


def numbers(lock: Lock) -> dict[str, int]:
    return {name: one.number for name, one in lock.messages["Lead"].fields.items()}


def test_new_fields_get_new_numbers_wherever_they_stand() -> None:
    first = grown(Lock(), contract(lead(b=str, a=int)))
    second = grown(first, contract(lead(new=bool, a=int, b=str)))

    assert numbers(first) == {"b": 1, "a": 2}
    assert numbers(second) == {"b": 1, "a": 2, "new": 3}
    assert gains(first, contract(lead(new=bool, a=int, b=str))) == ["Lead gains new"]


def test_what_has_left_stays_reserved_and_comes_back_as_it_was() -> None:
    first = grown(Lock(), contract(lead(a=int, b=str)))
    without = contract(lead(a=int))
    second = grown(first, without)
    text = proto_text(file_of(without, second))

    assert [*breaks(first, without)] == gains(first, without) == []
    assert "reserved 2;" in text
    assert 'reserved "b";' in text
    assert numbers(grown(second, contract(lead(a=int, c=str, b=str)))) == {"a": 1, "b": 2, "c": 3}


def test_another_type_is_told_and_never_gets_the_number() -> None:
    first = grown(Lock(), contract(lead(a=int)))
    other = contract(lead(a=str))
    second = grown(first, other)

    assert [*breaks(first, other)] == [
        "Lead.a was int64 with the number 1 and is string; keep its type, or give the field another name"
    ]
    assert numbers(second) == {"a": 2, "a@1": 1}
    assert "reserved 1;" in proto_text(file_of(other, second))


def test_another_answer_is_told() -> None:
    class Other(Struct):
        a: int

    before = lead(a=int)
    lock = grown(Lock(), contract(before))
    changed = contract(operation(before.request_type, Other))
    assert any(
        "Echo.Echo took Lead and gave Lead, and takes Lead and gives Other" in told for told in breaks(lock, changed)
    )


def test_classes_of_one_name_keep_their_names() -> None:
    """Which of them is met first changes nothing."""
    one = msgspec.defstruct("Item", [("a", int)], module="x.users")
    two = msgspec.defstruct("Item", [("b", str)], module="x.roles")
    first, second = operation(one, one, "first"), operation(two, two, "second")
    lock = grown(Lock(), contract_of(PACKAGE, [first, second], Lock()))

    again = contract_of(PACKAGE, [second, first], lock)
    assert lock.origins() == {"Item": "users.Item", "Item2": "roles.Item"}
    assert gains(lock, again) == [*breaks(lock, again)] == []


def test_protobufs_own_numbers_are_left_out() -> None:
    wide = Lock()
    wide = grown(wide, contract(lead(**{f"f{n}": int for n in range(3)})))
    assert [*faults(wide)] == []
    from host.wire import lock as module

    assert module._numbers(19_000)[-2:] == [18_999, 20_000]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"{", "no lock"),
        (b"\xff", "no lock"),
        (b'{"format":2}', "later `pk`"),
        (b'{"more":1}', "no lock"),
        (
            b'{"messages":{"A":{"fields":{"a":{"number":1,"type":"string"},"b":{"number":1,"type":"string"}}}}}',
            "each once",
        ),
        (b'{"messages":{"A":{"fields":{"a":{"number":2,"type":"string"}}}}}', "each once"),
        (b" " * (BYTES_MAX + 1), "more than"),
    ],
    ids=["cut", "no text", "later", "unknown", "twice", "gap", "huge"],
)
def test_a_file_that_is_no_lock_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(WireLockUnreadable, match=told):
        read_lock(tmp_path / NAME)


def test_the_own_lock_comes_before_what_was_kept(tmp_path: Path) -> None:
    kept, package = tmp_path / "kept", tmp_path / "package"
    package.mkdir()
    one = lead(a=int, b=str)
    assert numbers(numbered("acme.crm", PACKAGE, [lead(b=str)], package, kept)[1]) == {"b": 1}
    assert numbers(numbered("acme.crm", PACKAGE, [one], package, kept)[1]) == {"b": 1, "a": 2}

    write_text(package / NAME, grown(Lock(), contract(one)).text())
    assert numbers(numbered("acme.crm", PACKAGE, [one], package, kept)[1]) == {"a": 1, "b": 2}
    (package / NAME).write_text("damaged")
    assert numbers(numbered("acme.crm", PACKAGE, [one], package, kept)[1]) == {"b": 1, "a": 2}


def test_what_has_no_form_is_told_and_the_rest_is_served() -> None:
    good = lead(a=int)
    stream = operation(good.request_type, None, "follow", stream=True)
    twin = operation(good.request_type, None, "echo")
    odd = operation(msgspec.defstruct("Odd", [("größe", int)]), None, "odd")
    found = served(good, stream, twin, odd)

    assert list(found.methods) == [f"/{PACKAGE}.Echo/Echo"]
    assert set(found.contract.lacking) == {"acme.crm.follow", "acme.crm.echo", "acme.crm.odd"}
    assert "Odd.größe is no name in protobuf" in found.contract.lacking["acme.crm.odd"]


@pytest.mark.parametrize("answer", [list[int], dict[str, int], int | None, list[str] | None, str], ids=str)
def test_an_answer_that_is_no_struct_stands_in_a_message(answer: Any) -> None:
    one = operation(msgspec.defstruct("Ask", []), answer)
    method = served(one).methods[f"/{PACKAGE}.Echo/Echo"]
    for value in (
        [1, 2]
        if answer == list[int]
        else ["x"]
        if answer == list[str] | None
        else {"a": 1}
        if answer == dict[str, int]
        else "x"
        if answer is str
        else 5,
    ):
        assert str(value if not isinstance(value, list) else value[0]).strip("'") in str(
            method.write(value)
        ) or value == {"a": 1}
