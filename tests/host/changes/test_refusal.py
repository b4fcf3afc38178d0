"""A refusal that crosses to another process is the same there."""

from __future__ import annotations

import msgspec
import pytest

from host.changes.refusal import accepted, refused
from plugin_api import errors
from plugin_api.errors import KernelBug, KernelError, Violation

KINDS = (
    errors.Unreadable,
    errors.NotAllowed,
    errors.NotFound,
    errors.Conflict,
    errors.PayloadTooLarge,
    errors.InvalidRequest,
    errors.LimitReached,
    errors.Unavailable,
    errors.DeadlinePassed,
)


def cross(error: Exception) -> KernelError:
    """What the other side raises, after a way over the wire."""
    document = msgspec.json.decode(msgspec.json.encode(refused(error)))
    with pytest.raises(KernelError) as caught:
        accepted(document)
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
def test_every_refusal_stays_what_it_is(kind: type[KernelError]) -> None:
    error = kind("acme.crm: no; do this", code="plugin_failed", retry_after_s=7)
    error.violations = (Violation("/file", "rule", "text"),)
    told = cross(error)

    assert type(told) is kind
    assert (told.detail, told.code, told.retry_after_s) == ("acme.crm: no; do this", "plugin_failed", 7)
    assert told.violations == (Violation("/file", "rule", "text"),)


@pytest.mark.parametrize("error", [KeyError("x"), KernelBug("KeyError: 'x'")])
def test_what_nobody_foresaw_is_a_bug_there_too(error: Exception) -> None:
    told = cross(error)

    assert type(told) is KernelBug
    assert "KeyError: 'x'" in str(told.args)


def test_a_reply_that_is_no_refusal_passes() -> None:
    assert accepted({"ids": ["acme.crm"]}) == {"ids": ["acme.crm"]}
