"""Plugins of strangers, written as wheels, and the command line that installs them into real kernels."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import json
import sys
import zipfile
from collections.abc import Awaitable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest

from host.control_client import ask
from plugin_api.testing import Answer, Client, KernelProcess

COMMAND_LIMIT_S = 180.0
_numbers = itertools.count(1)

INIT = "from .plugin import plugin as plugin\n"
PLUGIN = """from plugin_api import Registrar, hookimpl
from .operations import Operations
{top}

class Plugin:
    @hookimpl
    def pk_register(self, registrar: Registrar) -> None:
        {register}
        registrar.operations(Operations({made_with}))
{hooks}

plugin = Plugin()
"""
OPERATIONS = """import asyncio
from plugin_api import Call, Struct, operation
{top}

class Ask(Struct, frozen=True, forbid_unknown_fields=True):
    ms: int = 0

class Said(Struct, frozen=True):
    text: str

class Operations:
    @operation("GET /word", permission="word.read")
    async def say(self, call: Call, request: Ask) -> Said:
        \"\"\"Say the word, after a while.\"\"\"
        if request.ms:
            await asyncio.sleep(request.ms / 1000)
        return Said(text="{word}")
{more}
"""


@dataclass(frozen=True)
class Recipe:
    """One version of one plugin. What it says, and where it differs from a sound one."""

    plugin_id: str
    version: str = "1.0.0"
    word: str = "Hello"
    manifest: str = ""
    """Further lines of the manifest, before any table."""
    needs: tuple[str, ...] = ()
    """Requirements of its distribution."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Further files of the package, or others in place of its own, by path below the package."""
    top: str = ""
    """Lines at the top of plugin.py."""
    register: str = "pass"
    """Statement at the beginning of pk_register."""
    hooks: str = ""
    """Further hooks, indented."""
    more: str = ""
    """Further operations, indented."""
    operations_top: str = ""
    made_with: str = ""
    """What its operations are made with, in pk_register."""
    beside: Mapping[str, str] = field(default_factory=dict)
    """Files beside the package, by path in the wheel."""

    @property
    def package(self) -> str:
        """Its import package."""
        return self.plugin_id.replace(".", "_")

    @property
    def route(self) -> str:
        """Where it says its word."""
        return f"/api/v1/x/{self.plugin_id}/word"

    def contents(self) -> dict[str, str]:
        """Every file of the package by path in the wheel."""
        own = {
            "__init__.py": INIT,
            "README.md": f"# {self.plugin_id}\n",
            "manifest.toml": (
                f'id = "{self.plugin_id}"\nversion = "{self.version}"\napi = ">=1.0,<2"\nsummary = "Says a word"\n'
                f'license = "MIT"\npermissions = {{ "word.read" = "Hear the word" }}\n{self.manifest}'
            ),
            "plugin.py": PLUGIN.format(
                top=self.top, register=self.register, hooks=self.hooks, made_with=self.made_with
            ),
            "operations.py": OPERATIONS.format(word=self.word, more=self.more, top=self.operations_top),
        }
        return {**{f"{self.package}/{name}": text for name, text in {**own, **self.files}.items()}, **self.beside}

    def wheel(self, folder: Path) -> Path:
        """Write it as a wheel into a new folder below `folder`."""
        info = f"{self.package}-{self.version}.dist-info"
        needs = "".join(f"Requires-Dist: {need}\n" for need in self.needs)
        about = {
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {self.package}\nVersion: {self.version}\n{needs}",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/entry_points.txt": f"[platform_kernel.plugins]\n{self.plugin_id} = {self.package}:plugin\n",
        }
        file = folder / f"{next(_numbers)}" / f"{self.package}-{self.version}-py3-none-any.whl"
        return write_wheel(file, {**self.contents(), **about}, info)


def write_wheel(file: Path, contents: Mapping[str, str], info: str) -> Path:
    """A wheel of these files, with its RECORD."""
    rows = [f"{name},sha256={_digest(text)},{len(text.encode())}" for name, text in contents.items()]
    file.parent.mkdir(parents=True)
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in contents.items():
            archive.writestr(name, text)
        archive.writestr(f"{info}/RECORD", "\n".join([*rows, f"{info}/RECORD,,", ""]))
    return file


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.stdout)


class Pk(Protocol):
    """`await pk(kernel, "plugins", "install", wheel)`: runs the command line on a kernel's data folder."""

    def __call__(self, kernel: KernelProcess, *words: object, status: int = 0) -> Awaitable[Ran]:
        """Run it, with --json; AssertionError when it ends with another status."""
        ...


async def run_pk(kernel: KernelProcess, *words: object, status: int | None = 0) -> Ran:
    """Run `pk WORDS --data-dir ... --json`. `status=None`: however it ends."""
    program = Path(sys.executable).parent / "pk"
    process = await asyncio.create_subprocess_exec(
        program, *map(str, words), "--data-dir", str(kernel.data_dir), "--json",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(COMMAND_LIMIT_S):
        stdout, stderr = await process.communicate()
    ran = Ran(process.returncode or 0, stdout.decode(), stderr.decode())
    assert status is None or ran.status == status, f"pk {words} ended with {ran}\n{kernel.log_tail()}"
    return ran


@pytest.fixture
def pk() -> Pk:
    """The command line."""
    return run_pk


@pytest.fixture(autouse=True)
def no_plugin_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """The kernel that all tests share is left as it was: whoever asks it next meets no plugin of another test."""
    if "kernel" not in request.fixturenames:
        yield
        return
    kernel: KernelProcess = request.getfixturevalue("kernel")
    before = installed(kernel)  # a module's own fixture takes away what it brought
    yield
    for plugin_id in installed(kernel) - before:
        removal = {"verb": "remove", "plugin_id": plugin_id, "data": "purge", "cascade": True}
        ask(kernel.data_dir, "POST", "/plugins", removal, limit_s=COMMAND_LIMIT_S)


def installed(kernel: KernelProcess) -> set[str]:
    """Ids of the third parties' plugins of a kernel."""
    items = ask(kernel.data_dir, "GET", "/plugins")["items"]
    return {one["id"] for one in items if not one["id"].startswith("kernel.")}


class Plant(Protocol):
    """`recipe = plant("acme.word", word="Hi")`: a recipe under an id that no other test has."""

    def __call__(self, short: str, **changes: Any) -> Recipe:
        """Make it."""
        ...


@pytest.fixture
def plant() -> Plant:
    """Recipes under ids of their own."""

    def make(short: str, **changes: Any) -> Recipe:
        return Recipe(f"acme.{short}{next(_numbers)}", **changes)

    return make


async def plugins_of(kernel: KernelProcess) -> dict[str, dict[str, Any]]:
    """What `pk plugins list` says, by id."""
    return {one["id"]: one for one in (await run_pk(kernel, "plugins", "list")).document["items"]}


async def words_heard(client: Client, recipe: Recipe, asked: int = 16) -> set[str | int]:
    """What many new connections hear, whichever worker takes each: the words, or the statuses."""
    answers: list[Answer] = await asyncio.gather(*(client.get(recipe.route) for _ in range(asked)))
    return {answer["text"] if answer.status == 200 else answer.status for answer in answers}
