"""`pk dev`: what an author saves, the running kernel serves."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from plugin_api.testing import KernelProcess, Tenant, until
from tests.plugins.conftest import Pk, Plant, Recipe, words_heard

LIMIT_S = 60.0
PROJECT = """[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{package}"
version = "1.0.0"

[project.entry-points."platform_kernel.plugins"]
"{plugin_id}" = "{package}:plugin"

[tool.setuptools]
packages = ["{package}"]

[tool.setuptools.package-data]
{package} = ["manifest.toml", "README.md"]
"""


def project(recipe: Recipe, folder: Path) -> Path:
    """The recipe as a source folder."""
    files = {**recipe.contents(), "pyproject.toml": PROJECT.format(package=recipe.package, plugin_id=recipe.plugin_id)}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def heed_ctrl_c() -> None:
    """Whoever runs these tests in the background has switched Ctrl-C off for all that they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@asynccontextmanager
async def developing(kernel: KernelProcess, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """`pk dev` at work; ended by Ctrl-C."""
    program = Path(sys.executable).parent / "pk"
    words = [str(program), "dev", str(folder), "--data-dir", str(kernel.data_dir)]
    with (folder.parent / "stderr").open("wb") as said:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=said,
            preexec_fn=heed_ctrl_c,
        )
    try:
        yield process
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), LIMIT_S) == 130
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_what_is_saved_is_served_and_what_is_wrong_is_told(
    kernel: KernelProcess, tenant: Tenant, pk: Pk, plant: Plant, tmp_path: Path
) -> None:
    recipe = plant("dev")
    folder = project(recipe, tmp_path / "project")
    said = tmp_path / "stderr"
    operations = folder / recipe.package / "operations.py"

    async def is_heard(word: str) -> bool:
        return await words_heard(tenant.owner, recipe, 2) == {word}

    async with developing(kernel, folder):
        await until(lambda: is_heard("Hello"), "the first version serves", LIMIT_S)
        sound = operations.read_text()
        operations.write_text(sound.replace('"Hello"', '"Hi"'))
        await until(lambda: is_heard("Hi"), "what was saved serves", LIMIT_S)
        operations.write_text("def broken(:\n")
        await until(lambda: "operations.py" in said.read_text(), "what is wrong is told", LIMIT_S)
        assert await is_heard("Hi")
        operations.write_text(sound.replace('"Hello"', '"Moin"'))
        await until(lambda: is_heard("Moin"), "what was mended serves", LIMIT_S)
    assert await is_heard("Moin")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", recipe.package, "pyproject.toml"][1:]


async def test_a_folder_that_is_none_is_refused_at_once(kernel: KernelProcess, pk: Pk, tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "pk"
    words = [program, "dev", str(tmp_path), "--data-dir", str(kernel.data_dir)]
    process = await asyncio.create_subprocess_exec(*words, stderr=asyncio.subprocess.PIPE)
    _, stderr = await process.communicate()

    assert process.returncode == 1
    assert b"pk new plugin" in stderr
