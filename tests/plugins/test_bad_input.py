"""What is no sound plugin, or comes at a bad moment: refused with the remedy, and nothing is half there."""

from __future__ import annotations

import asyncio
import resource
import secrets
import zipfile
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from plugin_api.testing import Answer, KernelProcess, Tenant
from plugin_api.testing.kernel import run_apart
from plugin_api.testing.people import Person
from tests.plugins.conftest import Pk, Plant, Recipe, plugins_of, words_heard

OCTETS = {"Content-Type": "application/octet-stream"}
CHANGE_LIMIT_S = 120.0
NO_INDEX = "http://127.0.0.1:9/simple"
"""Nobody answers at the port of `discard`."""
FILE_BYTES_MAX = 2 * 1_048_576


@pytest.fixture
def operator(kernel: KernelProcess) -> Person:
    """Changes plugins."""
    person = run_apart(kernel.operator())
    person.limit_s = CHANGE_LIMIT_S
    return person


async def install(operator: Person, wheel: bytes) -> Answer:
    """Send a wheel to be installed."""
    return await operator.request("POST", "/api/v1/plugins", body=wheel, headers=OCTETS)


async def known(kernel: KernelProcess, operator: Person) -> tuple[Any, Any, list[str]]:
    """The API, the plugins, and what lies in the store."""
    plugins = (await operator.get("/api/v1/plugins")).expect(200)["items"]
    stored = sorted(str(place.relative_to(kernel.data_dir)) for place in (kernel.data_dir / "plugins").glob("[a-z]*/*"))
    listed = [(one["id"], one["version"], one["state"]) for one in plugins]
    return (await kernel.client().get("/api/v1/openapi.json")).expect(200).json, listed, stored


# ------------------------------------------------------------------------------------------ what lies or lacks


@dataclass(frozen=True)
class Bad:
    """A wheel that is refused; it is made of a recipe of `acme.bad`."""

    said: tuple[str, ...]
    recipe: Recipe
    status: int = 422
    spoil: Callable[[Path], bytes] = Path.read_bytes


def manifest(**changes: str) -> dict[str, str]:
    """A manifest of `acme.bad` in which some lines are others."""
    lines = {"id": '"acme.bad"', "version": '"1.0.0"', "api": '">=1.0,<2"', "summary": '"x"', "license": '"MIT"'}
    lines |= {"permissions": '{ "word.read" = "Hear the word" }', **changes}
    return {"manifest.toml": "".join(f"{name} = {value}\n" for name, value in lines.items())}


def truncated(wheel: Path) -> bytes:
    """As an upload that was cut off."""
    return wheel.read_bytes()[:-200]


def tampered(wheel: Path) -> bytes:
    """One file is other than its RECORD says."""
    with zipfile.ZipFile(wheel) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    contents["acme_bad/operations.py"] += b"# and more\n"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return wheel.read_bytes()


SOUND = Recipe("acme.bad")
BAD = {
    "another id": Bad(("acme.bad", "acme.other"), replace(SOUND, files=manifest(id='"acme.other"'))),
    "another version": Bad(("acme.bad", "1.0.0", "9.9.9"), replace(SOUND, files=manifest(version='"9.9.9"'))),
    "a permission that is not listed": Bad(("acme.bad", "word.read"), replace(SOUND, files=manifest(permissions="{}"))),
    "a kernel plugin's id": Bad(("kernel.iam",), Recipe("kernel.iam")),
    "another major of the API": Bad(("acme.bad", ">=2,<3", "1."), replace(SOUND, files=manifest(api='">=2,<3"'))),
    "a pinned API": Bad(("acme.bad", "==1.0"), replace(SOUND, files=manifest(api='"==1.0"'))),
    "what nobody provides": Bad(
        ("acme.bad needs acme.nowhere >=1", "install a plugin that does"),
        replace(SOUND, manifest='requires = ["acme.nowhere >=1"]\n'),
        status=409,
    ),
    "what is the host's alone": Bad(
        ("acme.bad", "migrations", "leave it out"),
        replace(SOUND, manifest='requires = ["migrations >=1"]\n'),
        status=409,
    ),
    "our package's name": Bad(("plugin_api",), replace(SOUND, beside={"plugin_api/__init__.py": ""})),
    "an entry point to nothing": Bad(("acme.bad", "plugin"), replace(SOUND, files={"__init__.py": ""})),
    "no manifest": Bad(("acme", "manifest.toml"), replace(SOUND, files={"manifest.toml": "id = \n"})),
    "a truncated wheel": Bad((".whl is not a whole zip file", "again"), SOUND, spoil=truncated),
    "a tampered wheel": Bad(("acme_bad/operations.py", "RECORD"), SOUND, spoil=tampered),
}


@pytest.mark.parametrize("name", BAD)
async def test_what_is_no_sound_plugin_is_refused(
    kernel: KernelProcess, operator: Person, tmp_path: Path, name: str
) -> None:
    bad = BAD[name]
    before = await known(kernel, operator)
    refused = (await install(operator, bad.spoil(bad.recipe.wheel(tmp_path)))).expect(bad.status)

    assert [said for said in bad.said if said not in refused.json["detail"]] == [], refused.json["detail"]
    assert await known(kernel, operator) == before


# ---------------------------------------------------------------------------------------------- two at once


async def test_of_two_versions_installed_at_once_one_wins_and_the_other_is_told(
    kernel: KernelProcess, tenant: Tenant, operator: Person, plant: Plant, tmp_path: Path
) -> None:
    first = plant("race")
    wheels = [one.wheel(tmp_path).read_bytes() for one in (first, replace(first, version="1.1.0"))]
    answers = await asyncio.gather(*(install(operator, wheel) for wheel in wheels))

    assert sorted(answer.status for answer in answers) == [201, 409]
    (told,) = [answer for answer in answers if answer.status == 409]
    assert (told.code, f"pk plugins upgrade {first.plugin_id}" in told.json["detail"]) == ("already_installed", True)
    assert await words_heard(tenant.owner, first) == {"Hello"}
    (await operator.delete(f"/api/v1/plugins/{first.plugin_id}")).expect(200)


async def test_two_plugins_installed_at_once_both_serve(
    kernel: KernelProcess, tenant: Tenant, operator: Person, plant: Plant, tmp_path: Path
) -> None:
    both = plant("left"), plant("right")
    answers = await asyncio.gather(*(install(operator, one.wheel(tmp_path).read_bytes()) for one in both))

    assert [answer.status for answer in answers] == [201, 201]
    for one in both:
        assert await words_heard(tenant.owner, one) == {"Hello"}
        (await operator.delete(f"/api/v1/plugins/{one.plugin_id}")).expect(200)


async def test_calls_under_way_end_before_their_plugin_goes(
    kernel: KernelProcess, tenant: Tenant, operator: Person, plant: Plant, tmp_path: Path
) -> None:
    recipe = plant("busy")
    (await install(operator, recipe.wheel(tmp_path).read_bytes())).expect(201)
    calls = [asyncio.create_task(tenant.owner.get(f"{recipe.route}?ms=2500")) for _ in range(4)]
    await words_heard(tenant.owner, recipe)  # they have begun: these came later
    removing = asyncio.create_task(operator.delete(f"/api/v1/plugins/{recipe.plugin_id}"))
    answers = [answer.expect(200)["text"] for answer in await asyncio.gather(*calls)]

    assert answers == ["Hello"] * 4
    (await removing).expect(200)
    assert await words_heard(tenant.owner, recipe) == {404}


# ------------------------------------------------------------------------------------------------- bad moments


@pytest.fixture(scope="module")
def hurt() -> Generator[KernelProcess]:
    """A kernel whose index does not answer; its disk and files are harmed."""
    process = KernelProcess(["--no-demo"], {"PK_HOST__PLUGIN_INDEX": NO_INDEX})
    try:
        run_apart(process.start())
        yield process
    finally:
        run_apart(process.close())


async def test_an_index_that_is_down_is_named(hurt: KernelProcess, pk: Pk) -> None:
    folder = hurt.data_dir / "plugins"
    before = set(folder.glob("acme*"))
    refused = await pk(hurt, "plugins", "install", "acme-from-index", status=1)

    assert "the index cannot be used" in refused.stderr
    assert "Connection refused" in refused.stderr
    assert "host.plugin_index" in refused.stderr
    assert set(folder.glob("acme*")) == before


def preparing_for(parent: int) -> list[int]:
    """The processes that wait to prepare a package."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            is_child = entry.name.isdigit() and (entry / "stat").read_text().rsplit(")", 1)[1].split()[1] == str(parent)
            if is_child and b"host.changes.prepare" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue  # it has ended
    return found


async def test_a_full_disk_is_told_and_nothing_stays(hurt: KernelProcess, pk: Pk, plant: Plant, tmp_path: Path) -> None:
    """A bound on the size of files stands for it: to write is refused in the same way."""
    big = plant("big", beside={"acme_filling/__init__.py": f"# {secrets.token_hex(FILE_BYTES_MAX)}\n"})
    parent = hurt.pids()["parent"]
    _, hard = resource.prlimit(parent, resource.RLIMIT_FSIZE)
    bounded = [parent, *preparing_for(parent)]  # what comes later has the parent's bound
    for pid in bounded:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, hard))
    try:
        refused = await pk(hurt, "plugins", "install", big.wheel(tmp_path), status=1)
    finally:
        resource.prlimit(parent, resource.RLIMIT_FSIZE, (hard, hard))
        for pid in preparing_for(parent):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))

    assert "space" in refused.stderr
    assert not (hurt.data_dir / "plugins" / big.plugin_id).exists()
    await pk(hurt, "plugins", "install", big.wheel(tmp_path))
    await pk(hurt, "plugins", "remove", big.plugin_id)


async def test_a_file_changed_on_disk_fails_its_plugin_alone_at_the_next_start(
    hurt: KernelProcess, pk: Pk, plant: Plant, tmp_path: Path
) -> None:
    tenant, changed, sound, later = await hurt.sign_up(), plant("changed"), plant("sound"), plant("later")
    wheel = changed.wheel(tmp_path)
    await pk(hurt, "plugins", "install", wheel)
    await pk(hurt, "plugins", "install", sound.wheel(tmp_path))
    (file,) = (hurt.data_dir / "plugins" / changed.plugin_id).glob("*/*/operations.py")
    file.chmod(0o600)
    file.write_text(file.read_text().replace("Hello", "Hacked"))
    await pk(hurt, "plugins", "install", later.wheel(tmp_path))
    assert await words_heard(tenant.owner, changed) == {"Hello"}, "what serves goes on"

    await hurt.restart()
    owner = hurt.client(tenant.owner.token)
    listed = (await plugins_of(hurt))[changed.plugin_id]
    assert listed["state"] == "failed"
    assert "operations.py" in listed["reason"]
    assert "install" in listed["reason"]
    assert await words_heard(owner, changed) == {404}
    assert await words_heard(owner, sound) == await words_heard(owner, later) == {"Hello"}
    await pk(hurt, "plugins", "install", wheel)
    assert await words_heard(owner, changed) == {"Hello"}
