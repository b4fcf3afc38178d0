"""A manifest is read whole: every violation at once, each with its line, the legal form and the remedy."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

import plugin_api
from plugin_api.manifest import Manifest, ManifestError, manifest_schema, names_of, read_manifest

ROOT = Path(__file__).parents[2]
SMALLEST = """\
id = "acme.hello"
version = "1.0.0"
api = ">=1.0,<2"
summary = "Greets"
permissions = { "greeting.read" = "Be greeted" }
"""
WHOLE = """\
id = "acme.crm"
version = "1.2.0-rc.1+build.5"
api = ">=1.0,<2"
summary = { en = "Leads", de = "Kontakte" }
license = "Apache-2.0 OR MIT"
requires = ["data >=1", "eventbus"]
after = ["notify >=1,<3"]
provides = ["acme.crm 1.2", "acme.crm.leads 1"]
[permissions]
"lead.create" = "Create leads"
[events]
emits = ["lead.created.v1"]
consumes = ["money.transfer.posted.v1"]
[uses]
kv = "4 MiB"
http = [{ host = "api.acme.example", methods = ["GET"], why = "enrichment", optional = true }]
operations = ["money/create_hold"]
[config]
schema = "schemas/config.json"
[data]
on_uninstall = ["keep", "purge"]
[ui]
nav = [{ title = { en = "Leads" }, route = "/crm", icon = "users" }]
slots = { "customer.tabs" = "./LeadTab" }
[module]
publisher = "acme"
wasm = "score.wasm"
[module.limits]
memory_mib = 64
[[operations]]
id = "quote"
rest = "POST /quote"
permission = "quote.create"
input = "schemas/quote.in.json"
[[jobs]]
operation = "quote"
cron = "*/15 * * * *"
"""


def findings(text: str) -> list[str]:
    """Everything that is wrong with a manifest, one line each."""
    with pytest.raises(ManifestError) as caught:
        read_manifest(text, "m.toml")
    error = caught.value
    assert error.code == "manifest_invalid"
    assert error.detail.splitlines() == [violation.detail for violation in error.violations]
    return error.detail.splitlines()


def changed(key: str, value: str, text: str = SMALLEST) -> str:
    """A manifest with one top-level key set, or added."""
    lines = [line for line in text.splitlines() if not line.startswith(f"{key} =")]
    return "\n".join([f"{key} = {value}", *lines])


def test_the_smallest_and_a_whole_one_are_read() -> None:
    smallest, whole = read_manifest(SMALLEST, "m.toml"), read_manifest(WHOLE, "m.toml")

    assert (smallest.id, smallest.permissions) == ("acme.hello", {"greeting.read": "Be greeted"})
    assert (whole.ui.nav[0].route, whole.data.on_uninstall) == ("/crm", ["keep", "purge"])
    assert whole.module is not None
    assert (whole.module.limits.memory_mib, whole.module.limits.host_calls) == (64, 200)


@pytest.mark.parametrize("file", sorted(ROOT.glob("core_plugins/*/manifest.toml")), ids=lambda f: f.parent.name)
def test_our_own_are_sound(file: Path) -> None:
    assert read_manifest(file.read_text(), str(file)).id == f"kernel.{file.parent.name}"


def test_all_violations_come_at_once_with_their_lines() -> None:
    text = (
        'id = "Acme.crm"\nversion = "1.2"\napi = "==1.0"\nsumary = "x"\nrequires = ["data >=1",\n  "eventbus >>1"]\n'
        '[permissions]\n"lead" = "x"\n[uses]\nhttp = [{ host = "API", methods = ["FETCH"], wy = "x" }]\n'
    )

    found = findings(text)

    places = [line.split(": ", 1)[0] for line in found]
    assert places == [f"m.toml:{n}" for n in (1, 1, 2, 3, 4, 6, 8, 10, 10, 10)]
    assert "did you mean `summary`?" in found[4]
    assert any("`summary` is missing" in line for line in found)
    assert any('">=1.0,<2"' in line for line in found)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("id", '"acme"', "joined by dots"),
        ("id", '"acme.my_crm"', "underscores only in `kernel.*`"),
        ("id", '"acme.crm\\n"', "joined by dots"),
        ("id", f'"acme.{"x" * 60}"', "at most 60"),
        ("id", "5", "`id` is 5"),
        ("version", '"1.0"', "semantic version"),
        ("version", '"01.0.0"', "semantic version"),
        ("api", '">=1.0"', "upper bound"),
        ("api", '"==1.0"', "shuts out every later minor"),
        ("api", '">=2,<3"', f"plugin API is {plugin_api.API_VERSION}"),
        ("api", '"1"', "is no bound"),
        ("api", '""', "upper bound"),
        ("api", '">=1.0,<2,"', "is no bound"),
        ("summary", '""', "1 to 500 characters"),
        ("summary", "{}", "at least 1 entry"),
        ("summary", '{ english = "x" }', "language tag"),
        ("requires", '["kernel.money"]', "name the capability: 'money'"),
        ("requires", '["money >=x"]', "is no bound"),
        ("requires", '["money ==1.0"]', "one exact version"),
        ("requires", '["Money"]', "a capability"),
        ("requires", '["money", "money"]', "twice"),
        ("requires", '"money"', "a list"),
        ("provides", '["acme.hello"]', "its contract's version"),
        ("provides", '["money 1.0"]', "bare names are the kernel's"),
        ("provides", '["beta.crm 1.0"]', "belongs to another id"),
        ("servers", '["postgres"]', "for kernel plugins only"),
        ("license", '"<script>"', "SPDX"),
        ("permissions", '{ "read" = "x" }', "entity and verb"),
        ("permissions", '{ "acme.hello.greeting.read" = "x" }', "entity and verb"),
        ("events", '{ emits = ["greeted"] }', "lead.created.v1"),
        ("events", '{ consumes = ["transfer.posted.v1"] }', "full type"),
        ("uses", '{ kv = "4MB" }', "size with its unit"),
        ("uses", '{ http = [{ host = "*.acme.example", methods = [] }] }', "at least 1 entry"),
        ("data", '{ on_uninstall = ["drop"] }', '"export", "keep", "purge"'),
        ("ui", '{ dir = "../ui" }', "below the manifest's folder"),
        ("ui", '{ nav = [{ title = "x", route = "crm" }] }', "a path"),
        ("config", '{ shema = "x.json" }', "did you mean `schema`?"),
        ("operations", '[{ id = "x" }]', "mark methods with `@operation`"),
        ("jobs", '[{ operation = "x", cron = "* * * * *" }]', "mark methods with `@job`"),
    ],
)
def test_each_rule_names_the_legal_form(key: str, value: str, said: str) -> None:
    found = findings(changed(key, value))

    assert any(said in line for line in found), found
    assert all(line.startswith("m.toml:1: ") for line in found)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('publisher = "acme"', 'publisher = "beta"', "outside its publisher's namespace"),
        ("memory_mib = 64", "memory_mib = 65", "from 1 to 64"),
        ("memory_mib = 64", "memory_mib = true", "from 1 to 64"),
        ('wasm = "score.wasm"\n', "", "name the file in `[module] wasm`"),
        ('rest = "POST /quote"', 'rest = "POST /quote"\nevent = "money.transfer.posted.v1"', "one way in"),
        ('operation = "quote"', 'operation = "qoute"', "did you mean 'quote'?"),
        ('[[jobs]]', '[[operations]]\nid = "quote"\n[[jobs]]', "declared twice"),
        ('cron = "*/15 * * * *"', 'cron = "hourly"', "five cron fields"),
        ('wasm = "score.wasm"', 'wasm = "score.wasm"\nabi = "pk:module/2"', "pk:module/1"),
    ],
)  # fmt: skip
def test_modules_have_rules_of_their_own(old: str, new: str, said: str) -> None:
    assert any(said in line for line in findings(WHOLE.replace(old, new)))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("id = \nversion", 1),
        ('id = "a.b"\nversion = "1.0.0\napi = 1', 2),
        ('id = "a.b"\nid = "a.c"', 2),
        ("[a\n", 1),
        ("x = {", 1),
    ],
)
def test_what_is_no_toml_is_told_with_its_line(text: str, line: int) -> None:
    [found] = findings(text)

    assert found.startswith(f"m.toml:{line}: this is no TOML: ")


@pytest.mark.parametrize("plugin_id", ["kernel.money", "kernel.integration_hub"])
def test_the_kernels_own_may_do_more(plugin_id: str) -> None:
    text = changed("servers", '["postgres"]', changed("provides", '["money 1.0"]', changed("id", f'"{plugin_id}"')))

    assert read_manifest(text, "m.toml").servers == ["postgres"]


keys = st.sampled_from([*Manifest.__struct_fields__, "extra"])
values = st.recursive(
    st.sampled_from(["acme.crm", ">=1.0,<2", "1.0.0", "", "data >=1", "a.b.v1", "x" * 600, "acme.crm 1.0"])
    | st.booleans()
    | st.integers(-5, 100)
    | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(keys | st.sampled_from(["host", "id", "title"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def as_toml(content: dict[str, Any]) -> str:
    """TOML of anything that JSON can say, null aside."""

    def one(value: Any) -> str:
        match value:
            case dict():
                return "{ " + ", ".join(f"{json.dumps(k)} = {one(v)}" for k, v in value.items()) + " }"
            case list():
                return "[" + ", ".join(map(one, value)) + "]"
            case _:
                return json.dumps(value)

    return "\n".join(f"{json.dumps(key)} = {one(value)}" for key, value in content.items())


@given(st.dictionaries(keys, values, max_size=6))
def test_nothing_but_a_manifest_error_is_ever_raised(content: dict[str, Any]) -> None:
    text = as_toml({**tomllib.loads(SMALLEST), **content})
    try:
        manifest = read_manifest(text, "m.toml")
    except ManifestError as error:
        refusal = error
    else:
        assert isinstance(manifest, Manifest)
        assert PUBLISHED.is_valid(tomllib.loads(text))
        return

    assert refusal.violations


# ------------------------------------------------------------------------------------------------ schema

PUBLISHED = jsonschema_rs.Draft202012Validator(manifest_schema())


def test_the_published_schema_is_the_committed_one() -> None:
    committed = json.loads((ROOT / "plugin_api" / "manifest.schema.json").read_text())

    assert manifest_schema() == committed, (
        "write `json.dumps(manifest_schema(), indent=2)` and a newline into plugin_api/manifest.schema.json"
    )


@pytest.mark.parametrize("text", [SMALLEST, WHOLE])
def test_the_published_schema_takes_what_we_take(text: str) -> None:
    PUBLISHED.validate(tomllib.loads(text))


def test_the_published_schema_refuses_what_is_plainly_wrong() -> None:
    for key, value in (
        ("id", "Acme"),
        ("version", "1"),
        ("extra", 1),
        ("permissions", {"x": "y"}),
        ("provides", ["x"]),
    ):
        assert not PUBLISHED.is_valid({**tomllib.loads(SMALLEST), key: value}), key


# ------------------------------------------------------------------------------------------------- names


def test_everything_derives_from_the_id() -> None:
    ours, other = names_of("kernel.money"), names_of("acme.crm")

    assert (ours.area, ours.rest_prefix, ours.schema, ours.grpc_package) == (
        "money",
        "/api/v1/money",
        "money",
        "pk.money.v1",
    )
    assert (other.area, other.rest_prefix) == ("acme.crm", "/api/v1/x/acme.crm")
    assert (other.schema, other.grpc_package) == ("x_acme_crm", "pk.x.acme_crm.v1")
