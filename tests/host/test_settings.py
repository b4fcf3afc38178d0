"""Settings: every source in its order, every fault at once with its place, and no secret anywhere."""

from __future__ import annotations

import json
import os
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from msgspec import Meta, Struct

from host.settings import (
    ANY_SECTION,
    COMMAND_LINE,
    DEFAULT,
    MASK,
    HostSettings,
    LoadedSettings,
    SettingsInvalid,
    load,
    read,
)
from plugin_api.settings import Secret, setting


class Peer(Struct, frozen=True, forbid_unknown_fields=True):
    host: str
    key: Secret[str]


class Shop(Struct, frozen=True, forbid_unknown_fields=True):
    signup: Literal["open", "closed"] = "closed"
    days: Annotated[int, Meta(ge=1, le=365), setting("Days to keep.", environment=["SHOP_DAYS"])] = 30
    """Not this line: `setting` comes first."""
    wait_s: Annotated[float, Meta(gt=0, le=60), setting("Seconds.", environment=["SHOP_WAIT_MS"])] = 5.0
    is_open: bool = False
    """Whether people may come in."""
    tags: list[str] = []
    limits: dict[str, int] = {}
    note: str | None = None
    address: str = "redis://u:word@host/0"
    password: Annotated[Secret[str] | None, setting("The password.", environment=["SHOP_PASSWORD"])] = None
    pin: Secret[Annotated[int, Meta(ge=1000, le=9999)]] | None = None
    peers: list[Peer] = []


class Crm(Struct, frozen=True, forbid_unknown_fields=True):
    rate: int = 1


class Strict(Struct, frozen=True):
    """A section that refuses what contradicts itself, and cannot keep a secret."""

    low: int = 1
    high: int = 2
    token: Secret[str] | None = None

    def __post_init__(self) -> None:
        if self.low > self.high:
            token = self.token.reveal() if self.token else ""
            raise ValueError(f"low is above high {token}")


class Needy(Struct, frozen=True):
    url: str


SECTIONS: Mapping[str, type[Struct]] = {"shop": Shop, "acme.crm": Crm}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """The current folder and the data folder."""
    here, data = tmp_path / "here", tmp_path / "data"
    here.mkdir()
    data.mkdir()
    return here, data


def loaded(folders: tuple[Path, Path], sections: Mapping[str, type[Struct]] = SECTIONS, **more: Any) -> LoadedSettings:
    return read(sections, cwd=folders[0], data_dir=folders[1], **{"environ": {}, **more})


def texts(settings: LoadedSettings) -> list[str]:
    return [problem.text for problem in settings.problems]


def source_of(settings: LoadedSettings, name: str) -> str:
    return next(entry.source for entry in settings.entries() if f"{entry.section}.{entry.name}" == name)


# ------------------------------------------------------------------------------------------------ sources


def test_without_sources_the_defaults_hold(folders: tuple[Path, Path]) -> None:
    settings = loaded(folders)

    assert settings.section("shop") == Shop()
    assert source_of(settings, "shop.days") == DEFAULT


def test_later_sources_win_one_by_one(folders: tuple[Path, Path]) -> None:
    """defaults < pk.toml here < DIR/pk.toml < environment < command line"""
    here, data = folders
    seen = [loaded(folders)]
    (here / "pk.toml").write_text("[shop]\ndays = 2\n")
    seen.append(loaded(folders))
    (data / "pk.toml").write_text("[shop]\n\ndays = 3\n")
    seen.append(loaded(folders))
    environ = {"PK_SHOP__DAYS": "4"}
    seen.append(loaded(folders, environ=environ))
    seen.append(loaded(folders, environ=environ, overrides={"shop.days": 5}))

    assert [30, 2, 3, 4, 5] == [one.section("shop").days for one in seen]
    places = [DEFAULT, f"{here}/pk.toml:2", f"{data}/pk.toml:3", "environment PK_SHOP__DAYS", COMMAND_LINE]
    assert places == [source_of(one, "shop.days") for one in seen]


def test_one_file_for_both_folders_is_read_once(folders: tuple[Path, Path]) -> None:
    here, _ = folders
    (here / "pk.toml").write_text("[shop]\ndays = 0\n")

    assert 1 == len(loaded((here, here)).problems)


def test_a_setting_can_have_variables_of_other_names(folders: tuple[Path, Path]) -> None:
    environ = {"SHOP_DAYS": "7", "SHOP_PASSWORD": "from-outside"}

    shop = loaded(folders, environ=environ).section("shop")

    assert shop.days == 7
    assert shop.password.reveal() == "from-outside"


def test_the_own_name_of_a_variable_wins(folders: tuple[Path, Path]) -> None:
    environ = {"SHOP_DAYS": "7", "PK_SHOP__DAYS": "8"}

    assert loaded(folders, environ=environ).section("shop").days == 8


def test_a_variable_in_milliseconds_sets_seconds(folders: tuple[Path, Path]) -> None:
    assert loaded(folders, environ={"SHOP_WAIT_MS": "2500"}).section("shop").wait_s == 2.5
    host = loaded(folders, {"host": HostSettings}, environ={"GRPC_CALL_TIMEOUT_MS": "750"})
    assert host.section("host").deadline_s == 0.75


def test_an_empty_variable_is_none(folders: tuple[Path, Path]) -> None:
    assert loaded(folders, environ={"PK_SHOP__DAYS": "", "PK_SHOP__NO_SUCH": ""}).section("shop").days == 30


def test_text_stands_for_what_a_setting_takes(folders: tuple[Path, Path]) -> None:
    environ = {
        "PK_SHOP__IS_OPEN": "true",
        "PK_SHOP__WAIT_S": "1.5",
        "PK_SHOP__TAGS": "red, green",
        "PK_SHOP__LIMITS": '{"a": 1}',
        "PK_SHOP__PIN": "1234",
        "PK_SHOP__PEERS": '[{"host": "h", "key": "k"}]',
    }

    shop = loaded(folders, environ=environ, overrides={"shop.days": "9"}).section("shop")

    assert (shop.is_open, shop.wait_s, shop.tags, shop.limits, shop.days) == (True, 1.5, ["red", "green"], {"a": 1}, 9)
    assert shop.pin == Secret(1234)
    assert shop.peers == [Peer("h", Secret("k"))]


def test_a_list_can_be_given_as_json(folders: tuple[Path, Path]) -> None:
    assert loaded(folders, environ={"PK_SHOP__TAGS": '["a,b"]'}).section("shop").tags == ["a,b"]


def test_a_section_with_dots_is_a_table_in_a_table(folders: tuple[Path, Path]) -> None:
    (folders[0] / "pk.toml").write_text("[acme.crm]\nrate = 2\n")

    assert loaded(folders).section("acme.crm").rate == 2
    assert loaded(folders, environ={"PK_ACME_CRM__RATE": "3"}).section("acme.crm").rate == 3


def test_of_two_sections_with_one_variable_the_kernels_own_has_it(folders: tuple[Path, Path]) -> None:
    settings = loaded(folders, {"acme.crm": Crm, "acme_crm": Crm}, environ={"PK_ACME_CRM__RATE": "3"})

    assert settings.section("acme_crm").rate == 3
    assert not settings.problems


def test_what_the_environment_says_is_read_once() -> None:
    from host.settings import environment

    before = environment()
    os.environ["PK_SHOP__DAYS"] = "9"
    try:
        assert "PK_SHOP__DAYS" not in environment()
        assert environment() is before
    finally:
        del os.environ["PK_SHOP__DAYS"]


# ------------------------------------------------------------------------------------------------- faults


def test_every_fault_is_told_at_once(folders: tuple[Path, Path]) -> None:
    (folders[0] / "pk.toml").write_text('[shop]\ndays = 0\nsignup = "opne"\ndyas = 4\n[shpo]\n')

    with pytest.raises(SettingsInvalid) as caught:
        load(SECTIONS, cwd=folders[0], data_dir=folders[1], environ={"PK_SHOP__WAIT_S": "soon"})

    assert {("/shop/days", "invalid"), ("/shop/signup", "invalid"), ("/shop/wait_s", "invalid")} <= {
        (violation.pointer, violation.code) for violation in caught.value.violations
    }
    assert 5 == len(caught.value.violations) == len(caught.value.detail.splitlines())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "[shop]\ndays = 0",
            ":2: shop.days takes a whole number from 1 to 365, saw 0; correct it, or remove it for the default 30",
        ),
        ("[shop]\n\ndays = true", ":3: shop.days takes a whole number from 1 to 365, saw true;"),
        ('[shop]\ndays = "4"', ':2: shop.days takes a whole number from 1 to 365, saw "4";'),
        ("[shop]\nwait_s = inf", ":2: shop.wait_s takes a number above 0 up to 60, saw "),
        ("[shop]\nwait_s = nan", ":2: shop.wait_s takes a number above 0 up to 60, saw "),
        ('[shop]\nsignup = "opne"', ':2: shop.signup takes "closed" or "open", saw "opne"; did you mean "open"?'),
        ("[shop]\ntags = [1]", ":2: shop.tags takes a list, each entry a text, saw [1] ("),
        ("[shop]\nnote = 1979-05-27", ":2: shop.note takes a text, saw "),
        ("[shop]\ndyas = 4", ":2: shop has no setting dyas; did you mean days?"),
        ("[shpo]\ndays = 4", ":1: nothing here has a section shpo; did you mean shop?"),
        ("[acme.cmr]\nrate = 4", ":1: nothing here has a section acme.cmr; did you mean acme.crm?"),
        ("[acme]\nrate = 4", ":2: nothing here has a section acme; "),
        ("days = 4", ":1: days stands outside of any section; write it below a line like [host]"),
        ("[shop]\ndays = ", ":2: this is no TOML: Invalid value; see https://toml.io for the syntax"),
        (
            "[shop]\npassword = 12345678",
            ":2: shop.password takes a text, and what is given there does not fit (it is not shown);",
        ),
    ],
)
def test_a_fault_in_a_file_names_line_and_remedy(folders: tuple[Path, Path], text: str, expected: str) -> None:
    file = folders[0] / "pk.toml"
    file.write_text(text)

    told = texts(loaded(folders))

    assert 1 == len(told)
    assert told[0].startswith(f"{file}{expected}")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (
            {"PK_SHOP__DAYS": "many"},
            'environment PK_SHOP__DAYS: shop.days takes a whole number from 1 to 365, saw "many";',
        ),
        ({"SHOP_DAYS": "999"}, "environment SHOP_DAYS: shop.days takes a whole number from 1 to 365, saw "),
        ({"PK_SHOP__IS_OPEN": "maybe"}, 'environment PK_SHOP__IS_OPEN: shop.is_open takes true or false, saw "maybe";'),
        ({"PK_SHOP__LIMITS": "{"}, "environment PK_SHOP__LIMITS: shop.limits takes a table, saw "),
        ({"PK_SHOP__DYAS": "4"}, "environment PK_SHOP__DYAS sets nothing; did you mean PK_SHOP__DAYS?"),
        ({"PK_SHPO__DAYS": "4"}, "environment PK_SHPO__DAYS sets nothing: "),
    ],
)
def test_a_fault_in_the_environment_names_the_variable(
    folders: tuple[Path, Path], environ: Mapping[str, str], expected: str
) -> None:
    told = texts(loaded(folders, environ=environ))

    assert 1 == len(told)
    assert told[0].startswith(expected)


@pytest.mark.parametrize("name", ["PK_URL", "PK__X", "PK_SHOP_SERVICE_HOST", "PKX_SHOP__DAYS", "HOME", "PK_SHOP__"])
def test_variables_of_others_are_none_of_ours(folders: tuple[Path, Path], name: str) -> None:
    assert not loaded(folders, environ={name: "x"}).problems


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"shop.days": "many"}, 'command line: shop.days takes a whole number from 1 to 365, saw "many";'),
        ({"shop.dyas": "4"}, "command line: shop has no setting dyas; did you mean days?"),
        ({"shpo.days": "4"}, "command line: nothing here has a section shpo; did you mean shop?"),
        ({"days": "4"}, "command line: days is no setting; write section.name=value"),
        (
            {"shop.password": "visible"},
            "command line: shop.password is a secret, and every account of the machine can read",
        ),
    ],
)
def test_a_fault_on_the_command_line_is_told(
    folders: tuple[Path, Path], overrides: Mapping[str, Any], expected: str
) -> None:
    told = texts(loaded(folders, overrides=overrides))

    assert 1 == len(told)
    assert told[0].startswith(expected)
    assert "visible" not in told[0]


def test_only_the_value_that_wins_is_checked(folders: tuple[Path, Path]) -> None:
    (folders[0] / "pk.toml").write_text("[shop]\ndays = 0\n")

    assert loaded(folders, environ={"PK_SHOP__DAYS": "3"}).section("shop").days == 3


def test_a_required_setting_is_asked_for(folders: tuple[Path, Path]) -> None:
    told = texts(loaded(folders, {"needy": Needy}))

    assert told == ["needy.url is missing; it takes a text; set it in pk.toml or by PK_NEEDY__URL"]


def test_values_that_contradict_each_other_are_refused(folders: tuple[Path, Path]) -> None:
    assert texts(loaded(folders, {"strict": Strict}, overrides={"strict.low": 5})) == ["strict: low is above high "]


def test_a_reason_that_holds_a_secret_is_not_shown(folders: tuple[Path, Path]) -> None:
    environ = {"PK_STRICT__TOKEN": "hunter2hunter2"}

    told = texts(loaded(folders, {"strict": Strict}, environ=environ, overrides={"strict.low": 5}))

    assert 1 == len(told)
    assert "hunter2" not in told[0]


def test_a_section_with_a_fault_leaves_the_others_alone(folders: tuple[Path, Path]) -> None:
    settings = loaded(folders, overrides={"acme.crm.rate": "fast"})

    assert settings.section("shop") == Shop()
    with pytest.raises(SettingsInvalid, match=r"acme\.crm\.rate"):
        settings.section("acme.crm")
    with pytest.raises(SettingsInvalid, match=r"acme\.crm\.rate"):
        settings.find("acme.crm")


def test_a_section_that_nobody_declared_is_told_apart(folders: tuple[Path, Path]) -> None:
    settings = loaded(folders)

    assert settings.find("nobody") is None
    with pytest.raises(LookupError, match="nobody"):
        settings.section("nobody")


def test_sections_of_plugins_that_are_not_loaded_are_theirs(folders: tuple[Path, Path]) -> None:
    (folders[0] / "pk.toml").write_text("[money]\nx = 1\n[acme.erp]\ny = {z = 1}\n[acme.erp.deep]\n")
    others = {"money", "acme.erp"}

    quiet = loaded(
        folders, others=others, environ={"PK_MONEY__X": "1", "PK_ACME_ERP__Y": "2"}, overrides={"money.x": 1}
    )
    everything = loaded(folders, others=ANY_SECTION, environ={"PK_NOBODY__X": "1"})

    assert not quiet.problems
    assert not everything.problems


def test_a_file_that_cannot_be_read_is_told(folders: tuple[Path, Path]) -> None:
    (folders[0] / "pk.toml").mkdir()  # root reads every file, but no folder

    assert "cannot be read" in texts(loaded(folders))[0]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"[shop]\nnote = '\xff'", ":2: this is no UTF-8 text"),
        (b"x = " + b"[" * 5_000, " nested too deeply"),
        (b"#" * 1_100_000, " larger than 1 MiB"),
    ],
)
def test_a_file_that_is_no_settings_file_is_told(folders: tuple[Path, Path], content: bytes, expected: str) -> None:
    (folders[0] / "pk.toml").write_bytes(content)

    told = texts(loaded(folders))

    assert 1 == len(told)
    assert expected in told[0]


def test_a_folder_of_that_name_is_told(folders: tuple[Path, Path]) -> None:
    (folders[1] / "pk.toml").mkdir()

    assert "cannot be read (Is a directory)" in texts(loaded(folders))[0]


def test_a_data_folder_that_is_a_file_has_no_settings(folders: tuple[Path, Path]) -> None:
    file = folders[0] / "file"
    file.write_text("")

    assert not loaded((folders[0], file)).problems


# ------------------------------------------------------------------------------------------------ showing


def test_entries_tell_everything_about_a_setting(folders: tuple[Path, Path]) -> None:
    entries = {entry.name: entry for entry in loaded(folders, environ={"PK_SHOP__DAYS": "4"}).entries()}

    days = entries["days"]
    assert (days.section, days.value, days.default, days.type) == ("shop", 4, 30, "a whole number from 1 to 365")
    assert days.description == "Days to keep."
    assert days.environment == ("PK_SHOP__DAYS", "SHOP_DAYS")
    assert entries["is_open"].description == "Whether people may come in."


def test_secrets_and_passwords_in_addresses_are_masked(folders: tuple[Path, Path]) -> None:
    environ = {"SHOP_PASSWORD": "hunter2hunter2", "PK_SHOP__PEERS": '[{"host": "h", "key": "topsecret"}]'}
    entries = {entry.name: entry for entry in loaded(folders, environ=environ).entries()}

    assert entries["password"].value == MASK
    assert entries["peers"].value == [{"host": "h", "key": MASK}]
    assert entries["address"].value == f"redis://u:{MASK}@host/0"
    assert entries["address"].default == f"redis://u:{MASK}@host/0"


def test_a_file_with_a_secret_that_others_can_read_is_noted(folders: tuple[Path, Path], tmp_path: Path) -> None:
    file = folders[0] / "pk.toml"
    tmp_path.chmod(0o755)
    folders[0].chmod(0o755)
    file.write_text('[shop]\npassword = "hunter2hunter2"\n')
    file.chmod(0o644)
    open_one = loaded(folders).open_files
    file.chmod(0o600)
    closed_one = loaded(folders).open_files
    file.write_text("[shop]\ndays = 4\n")
    file.chmod(0o644)

    assert (open_one, closed_one, loaded(folders).open_files) == ((file,), (), ())


SECRETS = st.text(string.ascii_letters + string.digits + "/:@#%'\"\\ äß\t", min_size=8, max_size=40).filter(
    lambda text: len(text.strip()) >= 8 and len(set(text)) >= 6
)
WAYS = (
    "file",
    "file as a list",
    "file as a wrong key",
    "file without quotes",
    "variable",
    "alias",
    "pin",
    "peer",
    "command line",
    "raised",
)


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(secret=SECRETS, ways=st.sets(st.sampled_from(WAYS), min_size=1))
def test_no_output_ever_shows_a_secret(tmp_path: Path, secret: str, ways: set[str]) -> None:
    quoted, lines, environ, overrides = json.dumps(secret), ["[shop]"], {}, {}
    if "file" in ways:
        lines.append(f"password = {quoted}")
    if "file as a list" in ways:
        lines.append(f"pin = [{quoted}]")
    if "file as a wrong key" in ways:
        lines.append(f"pasword = {quoted}")
    if "file without quotes" in ways:
        lines.append(f"password = x{secret}")
    environ |= {"PK_SHOP__PASSWORD": secret} if "variable" in ways else {}
    environ |= {"SHOP_PASSWORD": secret} if "alias" in ways else {}
    environ |= {"PK_SHOP__PIN": secret} if "pin" in ways else {}
    environ |= {"PK_SHOP__PEERS": f'[{{"host": 5, "key": {quoted}}}]'} if "peer" in ways else {}
    environ |= {"PK_STRICT__TOKEN": secret, "PK_STRICT__LOW": "9"} if "raised" in ways else {}
    overrides |= {"shop.password": secret} if "command line" in ways else {}
    (tmp_path / "pk.toml").write_text("\n".join(lines), encoding="utf-8")

    settings = read(
        {"shop": Shop, "strict": Strict}, cwd=tmp_path, data_dir=tmp_path, environ=environ, overrides=overrides
    )
    shown = [
        *texts(settings),
        *(str(entry) for entry in settings.entries()),
        msgspec.json.encode(settings.entries()).decode(),
        repr(settings.values),
        str(SettingsInvalid(settings.problems)),
    ]

    assert not [text for text in shown if secret in text or quoted[1:-1] in text]
