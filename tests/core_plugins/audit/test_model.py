"""What a record says of a call: bounded, printable, and nothing that proves who somebody is."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from core_plugins.audit.model import TARGET_CHARACTERS_MAX, entry_of, printable, target_of
from plugin_api.call import ANONYMOUS, Actor, Call, Identity, Trace
from plugin_api.ids import uuid7
from plugin_api.operation import operation
from plugin_api.pipeline import BoundOperation

PLAIN = {chr(code) for code in range(0x21, 0x7F)}


class Made(Struct):
    id: Any


def bound(route: str, **declared: Any) -> BoundOperation:
    spec = operation(route, **declared)(lambda: None).__pk_operation__  # type: ignore[attr-defined]
    return BoundOperation("acme.notes.act", "acme.notes", "acme.notes", spec, spec.method, spec.path, None)


def call(actor: Actor, identity: Identity | None = None, **more: Any) -> Call:
    runtime: Any = None
    given = {"tenant_id": uuid7(), "request_id": "r-1", "deadline": 1e12, **more}
    return Call(runtime, actor=actor, identity=identity, **given)


def test_placeholders_are_filled() -> None:
    target = target_of(bound("PATCH /books/{book_id}/notes/{note_id}"), {"book_id": "7", "note_id": "a"})

    assert target == "/books/7/notes/a"


@pytest.mark.parametrize(
    ("declared", "answer", "target"),
    [
        ({"status": 201}, Made(UUID(int=7)), "/notes/00000000-0000-0000-0000-000000000007"),
        ({"status": 201}, Made("acme.crm"), "/notes/acme.crm"),
        ({"status": 201}, Made(7), "/notes/7"),
        ({"status": 201}, Made(["no", "id"]), "/notes"),
        ({"status": 201}, None, "/notes"),
        ({}, Made("x"), "/notes"),
    ],
    ids=["uuid", "text", "number", "no-id", "nothing", "not-made"],
)
def test_what_was_made_is_named_by_its_id(declared: dict[str, Any], answer: Any, target: str) -> None:
    assert target_of(bound("POST /notes", **declared), {}, answer) == target


def test_the_path_of_a_public_operation_keeps_its_placeholders() -> None:
    assert target_of(bound("PUT /blobs/{token}", public=True), {"token": "secret"}) == "/blobs/{token}"


@pytest.mark.parametrize("value", ["a/b", "a?b", "a b", "a\nb", "ü", "\x1b[2J", "{x}", "\ud800", ".."])
def test_no_value_passes_for_another_path(value: str) -> None:
    target = target_of(bound("DELETE /notes/{note_id}"), {"note_id": value})

    assert target.count("/") == 2
    assert set(target) <= PLAIN
    assert "?" not in target


@given(st.text(), st.text())
def test_every_target_is_short_and_can_be_printed(first: str, second: str) -> None:
    where = bound("POST /a/{first}/b/{second}", status=201)
    target = target_of(where, {"first": first * 50, "second": second * 50}, Made(first))

    assert len(target) <= TARGET_CHARACTERS_MAX
    assert set(target) <= PLAIN


@given(st.text())
def test_every_text_is_short_and_can_be_printed(text: str) -> None:
    shown = printable(text, 20)

    assert len(shown) <= 20
    assert set(shown) <= PLAIN


def test_what_is_plain_stays_as_it_is() -> None:
    assert printable("user:01890a5d-ac96-774b-bcce-b302099a8057", 100) == "user:01890a5d-ac96-774b-bcce-b302099a8057"
    assert printable("100%_sure?", 100) == "100%_sure?"


def test_a_person_acts_in_a_session() -> None:
    user_id, session_id = uuid7(), uuid7()
    actor = Actor("user", str(user_id))
    entry = entry_of(bound("POST /notes"), call(actor, Identity(uuid7(), actor, 0, user_id, session_id)), "/notes")

    assert (entry.actor, entry.on_behalf_of, entry.session_id) == (f"user:{user_id}", "", session_id)
    assert (entry.operation, entry.target, entry.request_id, entry.trace_id) == ("acme.notes.act", "/notes", "r-1", "")


def test_behind_an_api_key_is_its_maker() -> None:
    user_id, actor = uuid7(), Actor("api_key", "k1")
    trace = Trace("a" * 32, "b" * 16)
    made = call(actor, Identity(uuid7(), actor, 0, user_id), trace=trace)
    entry = entry_of(bound("POST /notes"), made, "/notes")

    assert (entry.actor, entry.on_behalf_of, entry.session_id) == ("api_key:k1", f"user:{user_id}", None)
    assert entry.trace_id == "a" * 32


@pytest.mark.parametrize("actor", [ANONYMOUS, Actor("plugin", "acme.crm")], ids=["anonymous", "plugin"])
def test_behind_others_is_nobody(actor: Actor) -> None:
    entry = entry_of(bound("POST /notes"), call(actor), "/notes")

    assert (entry.actor, entry.on_behalf_of, entry.session_id) == (str(actor), "", None)
