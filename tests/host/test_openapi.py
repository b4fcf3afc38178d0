"""The document is valid, says what the kernel does, and changes only when the kernel does."""

from __future__ import annotations

import inspect
import json
import random
import re
import typing
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import jsonschema_rs
import pytest
from msgspec import Meta, Struct
from openapi_spec_validator import validate

from host.binding import compile_binding, compile_encoder
from host.formats import FORMATS
from host.generations import RegisteredOperation, absolute_path, full_permission
from host.openapi import document
from plugin_api.call import Call
from plugin_api.contracts.iam import NewUser, SignUp, TenantView, UserList, UserPatch, UserRef, UserView
from plugin_api.errors import InvalidRequest
from plugin_api.manifest import names_of
from plugin_api.operation import OPERATION_ATTRIBUTE, operation
from plugin_api.pages import Page
from plugin_api.pipeline import BoundOperation


class IamOperations:
    """A few operations of a kernel plugin."""

    @operation("POST /tenants", public=True, status=201)
    async def sign_up(self, call: Call, request: SignUp) -> TenantView:
        """Make a tenant and its owner. The owner gets every permission.

        Reserved slugs are refused.
        """
        raise NotImplementedError

    @operation("GET /users", permission="user.read")
    async def list_users(self, call: Call, request: UserList) -> Page[UserView]:
        """List people."""
        raise NotImplementedError

    @operation("POST /users", permission="user.create", status=201, idempotency="required")
    async def create_user(self, call: Call, request: NewUser) -> UserView:
        """Add somebody."""
        raise NotImplementedError

    @operation("PATCH /users/{user_id}", permission="user.update", deprecated=True)
    async def update_user(self, call: Call, request: UserPatch) -> UserView:
        """Change somebody."""
        raise NotImplementedError

    @operation("DELETE /users/{user_id}", permission="user.delete")
    async def delete_user(self, call: Call, request: UserRef) -> None:
        """Remove somebody."""


class UserNote(Struct, forbid_unknown_fields=True):
    """A note, in requests and answers."""

    text: Annotated[str, Meta(min_length=1)]
    tags: list[str] = []
    """Words to find it by."""
    parent: UserNote | None = None


class Write(Struct, forbid_unknown_fields=True):
    """A note to write."""

    shelf: str
    note: UserNote
    loud: Annotated[bool, Meta(extra={"in": "query"})] = False


class Move(Struct, forbid_unknown_fields=True):
    """Where to."""

    shelf: str
    note_id: UUID


def plugin(word: str) -> Any:
    """A plugin's operations; its types are named like those of any other."""

    class Kept(Struct):
        id: UUID
        version: int
        note: UserNote
        at: datetime | None = None

    Kept.__doc__ = f"Kept by {word}."

    class Notes:
        @operation("POST /shelves/{shelf}/notes", permission="note.create")
        async def write(self, call: Call, request: Write) -> Kept:
            raise NotImplementedError

        @operation("POST /shelves/{shelf}/moves", permission="note.create")
        async def move(self, call: Call, request: Move) -> None:
            raise NotImplementedError

        @operation("POST /moves/{note_id}", permission="note.create")
        async def move_other(self, call: Call, request: Move) -> None:
            raise NotImplementedError

    Notes.write.__annotations__["return"] = Kept
    return Notes


def registered(owner: type, plugin_id: str) -> list[RegisteredOperation]:
    """The operations of a class as the registrar would note them."""
    names, found = names_of(plugin_id), []
    for name, function in inspect.getmembers(owner, inspect.isfunction):
        spec = getattr(function, OPERATION_ATTRIBUTE)
        hints = typing.get_type_hints(function, include_extras=True)
        permission = full_permission(names.area, spec.permission, operator=False) if spec.permission else None
        bound = BoundOperation(
            f"{names.area}.{name}", plugin_id, names.area, spec, spec.method, absolute_path(names, spec), permission
        )
        answer = None if hints["return"] is type(None) else hints["return"]
        binding = compile_binding(
            hints["request"], placeholders=spec.placeholders, takes_body=spec.method not in ("GET", "DELETE")
        )
        description = inspect.getdoc(function) or ""
        found.append(
            RegisteredOperation(
                bound, function, hints["request"], answer, description, binding, compile_encoder(answer)
            )
        )
    return found


OPERATIONS = [*registered(IamOperations, "kernel.iam"), *registered(plugin("one"), "acme.one")]


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    """The document of a kernel plugin and another's."""
    return document(OPERATIONS, title="Test", version="1.2.3", tags={"iam": "People"})


def resolve(whole: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """What a reference points at."""
    while "$ref" in node:
        found: Any = whole
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        node = found
    return node


def operations(whole: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(method, path, operation) of every operation."""
    for path, item in whole["paths"].items():
        for method, found in item.items():
            yield method, path, found


def checker(whole: dict[str, Any], schema: dict[str, Any]) -> jsonschema_rs.Draft202012Validator:
    """A validator of one schema of the document, as a client would make it."""
    return jsonschema_rs.Draft202012Validator(
        {**schema, "components": whole["components"]}, formats=FORMATS, validate_formats=True
    )


def test_the_document_is_valid(made: dict[str, Any]) -> None:
    validate(json.loads(json.dumps(made)))


def test_operations_that_are_equal_make_equal_documents() -> None:
    shuffled = random.Random(7).sample(OPERATIONS, len(OPERATIONS))

    first, second = (document(found, title="T", version="1") for found in (OPERATIONS, shuffled))

    assert json.dumps(first) == json.dumps(second)


def test_every_reference_resolves_and_every_placeholder_is_a_parameter(made: dict[str, Any]) -> None:
    for reference in re.findall(r'"\$ref": "([^"]+)"', json.dumps(made)):
        assert resolve(made, {"$ref": reference})
    for _, path, found in operations(made):
        named = {p["name"] for p in found.get("parameters", []) if p["in"] == "path"}
        assert named == set(re.findall(r"{(\w+)}", path))


def test_operation_ids_are_unique_and_problems_documented(made: dict[str, Any]) -> None:
    ids = [found["operationId"] for _, _, found in operations(made)]

    assert len(set(ids)) == len(ids)
    assert {"iam.list_users", "acme.one.write", "host.livez"} <= set(ids)
    for _, path, found in operations(made):
        problems = [resolve(made, r) for s, r in found["responses"].items() if not s.startswith("2")]
        assert problems, path
        assert all("application/problem+json" in problem["content"] for problem in problems)


def test_an_operation_says_all_that_its_declaration_says(made: dict[str, Any]) -> None:
    update = made["paths"]["/api/v1/iam/users/{user_id}"]["patch"]
    create = made["paths"]["/api/v1/iam/users"]["post"]
    sign_up = made["paths"]["/api/v1/iam/tenants"]["post"]

    assert update["deprecated"]
    assert update["x-permission"] == "iam.user.update"
    assert {"400", "401", "403", "404", "409", "412", "413", "415", "422", "428", "429", "503", "504"} < set(
        update["responses"]
    )
    assert set(update["requestBody"]["content"]) == {"application/json", "application/merge-patch+json"}
    assert not update["requestBody"]["required"]
    headers = {p["name"]: p["required"] for p in update["parameters"] if p["in"] == "header"}
    assert headers == {"If-Match": True, "Idempotency-Key": False}
    assert {p["name"]: p["required"] for p in create["parameters"]} == {"Idempotency-Key": True}
    assert set(create["responses"]["201"]["headers"]) == {"X-Request-Id", "ETag", "Location"}
    assert (create["security"], sign_up["security"]) == ([{"bearer": []}, {"cookie": []}], [])
    assert sign_up["summary"] == "Make a tenant and its owner"
    assert sign_up["description"].startswith("The owner gets every permission.\n\nReserved slugs")
    assert "content" not in made["paths"]["/api/v1/iam/users/{user_id}"]["delete"]["responses"]["204"]


def test_bodies_hold_what_the_path_and_query_do_not(made: dict[str, Any]) -> None:
    paths, schemas = made["paths"], made["components"]["schemas"]
    write = paths["/api/v1/x/acme.one/shelves/{shelf}/notes"]["post"]

    assert set(schemas["UserPatch"]["properties"]) == {"email", "name", "roles", "password", "status"}
    assert {(p["name"], p["in"]) for p in write["parameters"]} >= {("shelf", "path"), ("loud", "query")}
    assert set(schemas["Write"]["properties"]) == {"note"}
    bodies = [
        resolve(made, paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"])["properties"]
        for path in ("/api/v1/x/acme.one/shelves/{shelf}/moves", "/api/v1/x/acme.one/moves/{note_id}")
    ]
    assert sorted(next(iter(body)) for body in bodies) == ["note_id", "shelf"]


def test_query_parameters_have_no_null(made: dict[str, Any]) -> None:
    parameters = made["paths"]["/api/v1/iam/users"]["get"]["parameters"]

    assert "null" not in json.dumps(parameters)
    assert {p["name"] for p in parameters} == {"limit", "cursor", "sort", "email", "role", "status"}
    assert next(p for p in parameters if p["name"] == "limit")["schema"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 200,
        "default": 50,
    }


def test_requests_are_closed_and_answers_always_whole(made: dict[str, Any]) -> None:
    schemas = made["components"]["schemas"]

    assert schemas["SignUp"]["additionalProperties"] is False
    assert "additionalProperties" not in schemas["UserView"]
    assert schemas["UserViewPage"]["required"] == ["items", "next_cursor"]
    assert schemas["UserNoteInput"]["required"] == ["text"]
    assert schemas["UserNote"]["required"] == ["text", "tags", "parent"]
    assert schemas["UserNoteInput"]["properties"]["parent"]["anyOf"][0] == {
        "$ref": "#/components/schemas/UserNoteInput"
    }
    assert schemas["UserNote"]["properties"]["tags"]["description"] == "Words to find it by."


def test_names_stay_when_another_plugin_comes() -> None:
    two = registered(plugin("two"), "acme.two")
    before = document(OPERATIONS, title="T", version="1")["components"]["schemas"]

    after = document([*OPERATIONS, *two], title="T", version="1")["components"]["schemas"]

    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"AcmeTwoKept"}
    assert (after["Kept"]["description"], after["AcmeTwoKept"]["description"]) == ("Kept by one.", "Kept by two.")


def test_a_type_named_like_ours_does_not_take_our_name() -> None:
    class Problem(Struct):
        mine: int

    class Odd:
        @operation("GET /odd")
        async def odd(self, call: Call, request: UserRef) -> UserRef:
            raise NotImplementedError

    Odd.odd.__annotations__["return"] = Problem
    schemas = document(registered(Odd, "acme.odd"), title="T", version="1")["components"]["schemas"]

    assert "detail" in schemas["Problem"]["properties"]
    assert [*schemas["AcmeOddProblem"]["properties"]] == ["mine"]


def test_answers_fit_the_document(made: dict[str, Any]) -> None:
    now = datetime.fromisoformat("2026-01-31T09:30:00+00:00")
    user = UserView(UUID(int=5), "a@b.example", "Ada", ["owner"], "active", None, 1, now, now)
    media = made["paths"]["/api/v1/iam/users"]["get"]["responses"]["200"]["content"]["application/json"]

    body = compile_encoder(Page[UserView])(Page([user], None))

    checker(made, media["schema"]).validate(json.loads(body))


@pytest.mark.parametrize(
    "change", [{}, {"name": 5}, {"roles": ["A"]}, {"extra": 1}, {"password": None}, {"email": "a@b.c\n"}]
)
def test_the_document_and_the_kernel_give_one_verdict(made: dict[str, Any], change: dict[str, Any]) -> None:
    body = {"email": "a@b.example.com", "name": "Ada", "roles": ["owner"], **change}
    media = made["paths"]["/api/v1/iam/users"]["post"]["requestBody"]["content"]["application/json"]
    bind = compile_binding(NewUser, placeholders=(), takes_body=True)

    if checker(made, media["schema"]).is_valid(body):
        bind((), "", json.dumps(body).encode())
    else:
        with pytest.raises(InvalidRequest):
            bind((), "", json.dumps(body).encode())


def test_the_hosts_pages_are_in_it(made: dict[str, Any]) -> None:
    assert {"/livez", "/readyz", "/docs", "/api/v1/openapi.json"} <= set(made["paths"])
    assert made["tags"] == [{"name": "acme.one"}, {"name": "iam", "description": "People"}, made["tags"][-1]]
