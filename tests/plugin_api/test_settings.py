"""A secret never prints, whatever one does with it."""

from __future__ import annotations

import copy
import json
import logging
import pickle
from dataclasses import dataclass

import msgspec
import pytest
from msgspec import Struct, inspect

from plugin_api.settings import Secret, setting

SECRET = Secret("open-sesame")


class Holder(Struct, frozen=True):
    """A Struct that holds one."""

    url: str
    password: Secret[str]


@dataclass
class DataHolder:
    """So does this."""

    password: Secret[str]


@pytest.mark.parametrize(
    "shown",
    [
        str(SECRET),
        repr(SECRET),
        f"{SECRET}",
        f"{SECRET!r:>40}",
        f"{SECRET:s}",
        f"{[SECRET]} { ({'key': SECRET}) }",
        repr(Holder("x", SECRET)),
        repr(DataHolder(SECRET)),
        "%s" % SECRET,  # noqa: UP031 - the oldest way counts too
        "{}".format(SECRET),  # noqa: UP032
        logging.LogRecord("n", 10, "p", 1, "%s %r", (SECRET, SECRET), None).getMessage(),
    ],
)
def test_it_prints_masked(shown: str) -> None:
    assert "sesame" not in shown
    assert "****" in shown


def test_it_is_told_on_demand() -> None:
    assert SECRET.reveal() == "open-sesame"


def test_it_is_neither_pickled_nor_encoded() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(SECRET)
    with pytest.raises(TypeError):
        copy.deepcopy(SECRET)
    with pytest.raises(TypeError):
        json.dumps(SECRET)
    with pytest.raises(TypeError):
        msgspec.json.encode(Holder("x", SECRET))
    with pytest.raises(TypeError):
        msgspec.to_builtins(SECRET)


def test_an_error_of_encoding_does_not_tell_it() -> None:
    with pytest.raises(TypeError) as caught:
        msgspec.json.encode(SECRET)

    assert "sesame" not in str(caught.value)
    assert not hasattr(SECRET, "__dict__")


def test_secrets_are_equal_when_their_values_are() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2


def test_a_setting_carries_its_description_and_environment() -> None:
    meta = setting("Requests per second.", environment=["REQUESTS_PER_SECOND"])
    kind = inspect.Metadata(inspect.IntType(), {"description": meta.description}, meta.extra)

    assert meta.description == "Requests per second."
    assert kind.extra == {"environment": ["REQUESTS_PER_SECOND"]}
