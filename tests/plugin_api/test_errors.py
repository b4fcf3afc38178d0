"""One tree of errors: every class says by whose fault, and fits every door."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from plugin_api import errors
from plugin_api.errors import KernelError, Violation

GRPC = {
    "INVALID_ARGUMENT", "UNAUTHENTICATED", "PERMISSION_DENIED", "NOT_FOUND", "ABORTED", "FAILED_PRECONDITION",
    "RESOURCE_EXHAUSTED", "INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "UNIMPLEMENTED",
}  # fmt: skip
STATUSES = {
    "InvalidRequest": (422, "INVALID_ARGUMENT"),
    "Unreadable": (400, "INVALID_ARGUMENT"),
    "MethodNotAllowed": (405, "INVALID_ARGUMENT"),
    "NotAcceptable": (406, "INVALID_ARGUMENT"),
    "UnsupportedMediaType": (415, "INVALID_ARGUMENT"),
    "PayloadTooLarge": (413, "RESOURCE_EXHAUSTED"),
    "HeadersTooLarge": (431, "RESOURCE_EXHAUSTED"),
    "RangeNotSatisfiable": (416, "INVALID_ARGUMENT"),
    "NotAuthenticated": (401, "UNAUTHENTICATED"),
    "NotAllowed": (403, "PERMISSION_DENIED"),
    "NotFound": (404, "NOT_FOUND"),
    "Conflict": (409, "ABORTED"),
    "Gone": (410, "FAILED_PRECONDITION"),
    "PreconditionFailed": (412, "FAILED_PRECONDITION"),
    "PreconditionRequired": (428, "FAILED_PRECONDITION"),
    "LimitReached": (429, "RESOURCE_EXHAUSTED"),
    "Unavailable": (503, "UNAVAILABLE"),
    "StoreUnavailable": (503, "UNAVAILABLE"),
    "DeadlinePassed": (504, "DEADLINE_EXCEEDED"),
    "ModuleFailed": (502, "INTERNAL"),
    "KernelBug": (500, "INTERNAL"),
}


def tree(top: type[KernelError] = KernelError) -> Iterator[type[KernelError]]:
    yield top
    for below in top.__subclasses__():
        yield from tree(below)


@pytest.mark.parametrize("name", STATUSES)
def test_statuses_are_those_of_the_published_table(name: str) -> None:
    found = getattr(errors, name)

    assert (found.status, found.grpc_status) == STATUSES[name]


@pytest.mark.parametrize("found", list(tree()), ids=lambda found: found.__name__)
def test_every_error_fits_every_door(found: type[KernelError]) -> None:
    assert 400 <= found.status <= 599
    assert found.grpc_status in GRPC
    assert found.title
    assert found.default_code == found.default_code.lower()
    assert found.retryable == (found.status in (503, 504))


def test_a_code_of_its_own_takes_the_place_of_the_usual_one() -> None:
    error = errors.Conflict("lead is closed; reopen it first", code="lead_closed")

    assert (error.code, error.detail, str(error)) == ("lead_closed", "lead is closed; reopen it first", error.detail)
    assert errors.Conflict("other").code == "conflict"


def test_violations_are_kept_in_order() -> None:
    found = [Violation("/b", "missing", "b is missing"), Violation("/a", "type", "a is no text")]

    assert errors.InvalidRequest("two things", violations=iter(found)).violations == tuple(found)


def test_what_is_worth_another_try_says_when() -> None:
    assert errors.Unavailable("away").retry_after_s == 1
    assert errors.StoreUnavailable("away", retry_after_s=7).retry_after_s == 7
    assert errors.DeadlinePassed("late").retry_after_s == 1
    assert errors.NotFound("nothing").retry_after_s is None


def test_a_unique_violation_names_its_constraint() -> None:
    error = errors.UniqueViolation("there is one already", constraint="users_email_key")

    assert (error.constraint, error.code, error.status) == ("users_email_key", "conflict", 409)
