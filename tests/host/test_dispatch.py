"""Paths lead to the operation that was registered for them, in one walk."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.dispatch import Dispatch, RouteConflict

SEGMENT = st.sampled_from(["a", "b", "leads", "me"])


def test_a_literal_beats_a_placeholder() -> None:
    dispatch = Dispatch([("GET", "/users/{user_id}", "one"), ("GET", "/users/me", "me")])

    assert dispatch.find("/users/me") == ({"GET": "me"}, ())
    assert dispatch.find("/users/42") == ({"GET": "one"}, ("42",))


def test_a_dead_literal_falls_back_to_the_placeholder() -> None:
    dispatch = Dispatch([("GET", "/users/me/keys", "keys"), ("GET", "/users/{user_id}/roles", "roles")])

    assert dispatch.find("/users/me/roles") == ({"GET": "roles"}, ("me",))


def test_one_path_has_many_methods() -> None:
    dispatch = Dispatch([("GET", "/users", "list"), ("POST", "/users", "create")])

    assert dispatch.find("/users") == ({"GET": "list", "POST": "create"}, ())


@pytest.mark.parametrize(
    "path", ["", "/", "/users/", "//users", "/users//", "/user", "/users/1/2", "/{}", "/users/{}/x"]
)
def test_other_paths_lead_nowhere(path: str) -> None:
    dispatch = Dispatch([("GET", "/users", "list"), ("GET", "/users/{user_id}", "one")])

    assert dispatch.find(path) is None


def test_braces_in_a_path_are_a_value() -> None:
    """A caller who writes the placeholder's own mark gets no further than anybody else."""
    dispatch = Dispatch([("GET", "/users/{user_id}", "one"), ("GET", "/users/{user_id}/keys", "keys")])

    assert dispatch.find("/users/{}") == ({"GET": "one"}, ("{}",))


def test_two_routes_of_one_shape_are_refused() -> None:
    with pytest.raises(RouteConflict, match=r"GET /users/\{id\} is taken by GET /users/\{user_id\}"):
        Dispatch([("GET", "/users/{user_id}", "one"), ("GET", "/users/{id}", "two")])


@given(
    templates=st.lists(st.lists(SEGMENT | st.just("{x}"), min_size=1, max_size=4), max_size=8),
    path=st.lists(SEGMENT, min_size=1, max_size=4),
)
def test_the_walk_agrees_with_a_search_through_all_routes(templates: list[list[str]], path: list[str]) -> None:
    unique = {tuple(template) for template in templates}
    dispatch = Dispatch(("GET", "/" + "/".join(template), template) for template in unique)

    found = dispatch.find("/" + "/".join(path))

    fitting = [t for t in unique if len(t) == len(path) and all(s in ("{x}", p) for s, p in zip(t, path, strict=True))]
    if not fitting:
        assert found is None
        return
    assert found is not None
    best = min(fitting, key=lambda t: [s == "{x}" for s in t])
    assert found.methods == {"GET": best}
    assert found.values == tuple(p for s, p in zip(best, path, strict=True) if s == "{x}")
