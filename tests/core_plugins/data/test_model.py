"""Names, contexts and statements, without a database."""

from __future__ import annotations

import hashlib
import hmac
import pickle
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_plugins.data.model import (
    IDENTIFIER_BYTES_MAX,
    ContextSigner,
    check_schema,
    check_statement,
    make_context_key,
    owner_of,
)
from plugin_api.errors import KernelBug
from plugin_api.limits import PLUGIN_ID_LENGTH_MAX
from plugin_api.manifest import names_of

WORDS = st.text("abcxyz019", min_size=1, max_size=12).map(lambda word: f"a{word}")


@given(st.lists(WORDS, min_size=2, max_size=6).map(".".join).filter(lambda found: len(found) <= PLUGIN_ID_LENGTH_MAX))
def test_no_plugin_is_named_as_an_owner(plugin_id: str) -> None:
    schema = names_of(plugin_id).schema
    owner = owner_of(check_schema(schema))

    assert len(owner.encode()) <= IDENTIFIER_BYTES_MAX
    assert ":" in owner
    with pytest.raises(KernelBug):
        check_schema(owner)


def test_owners_of_long_schemas_differ() -> None:
    one, other = "x_" + "a" * 60 + "b", "x_" + "a" * 60 + "c"

    assert len({owner_of(one), owner_of(other), owner_of(one[:-1])}) == 3


def test_a_context_is_signed_by_hmac_sha256() -> None:
    key = make_context_key(7)
    raw = bytes(byte ^ 0x36 for byte in key.inner_pad)
    context = ContextSigner(key).sign("x_acme", uuid4(), 12, 1_700_000_000)
    mac, payload = context[:64], context[64:]

    assert mac == hmac.new(raw, payload.encode(), hashlib.sha256).hexdigest()
    assert payload.startswith("000007" + "12".zfill(19) + "1700000000")
    assert payload.endswith("x_acme")


def test_keys_differ_and_do_not_print() -> None:
    one, other = make_context_key(1), make_context_key(1)

    assert one.inner_pad != other.inner_pad
    assert repr(one) == "ContextKey(id='000001')"
    assert one.inner_pad.hex()[:8] not in repr(one)
    assert pickle.loads(pickle.dumps(one)) == one


@pytest.mark.parametrize(
    "sql",
    [
        "select 1", "SELECT 1", "  \n\tselect 1", "(select 1) union (select 2)", "((select 1))", "with a as (select 1) select * from a",
        "insert into a values (1)", "Update a set b = 1", "delete from a", "merge into a using b on true when matched then delete",
        "values (1)", "table a", "lock table a in share mode", "-- why\nselect 1", "--\rselect 1", "/* a */ select 1",
        "/* /* deep */ still */ select 1", "/**/select 1", "/*/*/**/*/*/select 1", "select(1)", "select*from a",
    ],
)  # fmt: skip
def test_reading_and_changing_rows_is_allowed(sql: str) -> None:
    check_statement(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "", "   ", "-- select 1", "/* select 1", ";select 1", "begin", "commit", "rollback", "end", "abort", "savepoint a",
        "release a", "start transaction", "prepare transaction 'a'", "commit and chain", "set search_path = a", "set local role a", "SET ROLE a",
        "call a()", "reset all", "discard all", "deallocate all", "prepare a as select 1", "execute a", "declare a cursor with hold for select 1",
        "fetch a", "close a", "listen a", "notify a", "unlisten *", "load 'a'", "do $$ begin end $$", "copy a to stdout", "create table a ()",
        "alter role pk_app password 'a'", "drop table a", "grant all on a to b", "vacuum", "explain analyze select 1", "truncate a",
        "/* /* select */ */ commit", "/* /* select 1 */ commit */ reset all", "-- select\ncommit", "--select\rcommit", "selectx", "show all",
        "/**/commit", "/*/ select */commit", "import foreign schema a", "security label on a", "checkpoint", "reassign owned by a to b",
    ],
)  # fmt: skip
def test_everything_else_is_refused(sql: str) -> None:
    with pytest.raises(KernelBug, match="allowed are"):
        check_statement(sql)
