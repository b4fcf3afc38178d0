"""A stranger's whole journey without this checkout: our wheel in an environment of its own, a plugin from nothing to nothing.

What the plugin answers is drawn anew each time, so that nothing of it can be known beforehand.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
from pathlib import Path
from typing import Any

import asyncpg

from plugin_api.testing import KernelProcess, Tenant

ROOT = Path(__file__).parents[2]
AREA = "/api/v1/x/acme.guest"
SCHEMA = "x_acme_guest"
LIMIT_S = 180.0
MIGRATION = "-- phase: expand\n-- up\nalter table notes add column {field} bigint not null default {number};\n-- down\n"


async def run(*words: object, cwd: Path) -> str:
    """Run a program to its end as somebody who knows nothing of this checkout; what it printed."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PK_", "PYTHON", "VIRTUAL"))
    }
    process = await asyncio.create_subprocess_exec(
        *map(str, words), cwd=cwd, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(LIMIT_S):
        stdout, stderr = await process.communicate()
    assert process.returncode == 0, f"{words} ended with {process.returncode}: {(stdout + stderr).decode()[-3000:]}"
    return stdout.decode()


class Outside(KernelProcess):
    """A kernel out of the stranger's environment."""

    def __init__(self, programs: Path) -> None:
        super().__init__(["--no-demo"], {"PYTHONPATH": ""})
        self.programs = programs

    def _command(self) -> list[str]:
        return [str(self.programs / "pk"), *super()._command()[1:]]

    async def pk(self, *words: object) -> Any:
        """Run the command line on it; what it says."""
        told = await run(self.programs / "pk", *words, "--data-dir", self.data_dir, "--json", cwd=self.programs)
        return json.loads(told)

    def plugin_files(self) -> set[str]:
        """Every file in DIR/plugins."""
        found = (self.data_dir / "plugins").rglob("*")
        return {str(path.relative_to(self.data_dir)) for path in found if path.is_file()}

    async def document(self) -> Any:
        """Its OpenAPI document."""
        return (await self.client().get("/api/v1/openapi.json")).expect(200).json

    async def in_database(self) -> list[str]:
        """What PostgreSQL has of the plugin: its schema's tables, and its roles."""
        connection = await asyncpg.connect(
            host=str(self.data_dir / "run" / "postgres"), user="kernel", database="postgres"
        )
        try:
            rows = await connection.fetch(
                "select c.relname::text as name from pg_class c join pg_namespace n on n.oid = c.relnamespace "
                "where n.nspname = $1 and c.relkind = 'r' union all select nspname from pg_namespace where nspname = $1 "
                "union all select rolname from pg_roles where rolname like $1 || '%'",
                SCHEMA,
            )
        finally:
            await connection.close()
        return sorted(row["name"] for row in rows)


async def environment_with_our_wheel(place: Path) -> Path:
    """A virtual environment with our wheel in it; its folder of programs.

    Our dependencies are those of this environment, looked up behind its own: nothing is fetched, and the links of this
    environment to the checkout are not followed.
    """
    await run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", place / "dist", cwd=ROOT)
    await run(sys.executable, "-m", "venv", "--without-pip", place / "venv", cwd=place)
    programs = place / "venv" / "bin"
    (wheel,) = (place / "dist").glob("*.whl")
    install = ("install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", wheel)
    await run(sys.executable, "-m", "pip", "--python", programs / "python", *install, cwd=place)
    (own,) = (place / "venv" / "lib").glob("python*/site-packages")
    (own / "dependencies.pth").write_text(f"{Path(asyncpg.__file__).parents[1]}\n")
    return programs


async def find_host(programs: Path) -> Path:
    """Where the environment's programs find the host."""
    return Path((await run(programs / "python", "-P", "-c", "import host; print(host.__file__)", cwd=programs)).strip())


def edit(project: Path, file: str, old: str, new: str) -> None:
    """Change a file as its author would in an editor."""
    text = (project / file).read_text()
    assert text.count(old) == 1, f"{file} has {old!r} {text.count(old)} times"
    (project / file).write_text(text.replace(old, new))


async def build(programs: Path, project: Path) -> Path:
    """The plugin's wheel, by pip."""
    place = project.parent / f"wheels-{secrets.token_hex(4)}"
    await run(
        programs / "python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
        "--disable-pip-version-check", "--wheel-dir", place, project, cwd=project.parent,
    )  # fmt: skip
    return next(place.glob("*.whl"))


def routes(document: Any) -> set[str]:
    """Those of the plugin."""
    return {f"{method} {path}" for path, one in document["paths"].items() if path.startswith(AREA) for method in one}


def greeting_of(document: Any) -> dict[str, Any]:
    """The fields that the document promises of a greeting, with their schemas."""
    schema = document["paths"][f"{AREA}/greetings/{{name}}"]["get"]["responses"]["200"]["content"]["application/json"][
        "schema"
    ]
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    assert set(schema["required"]) == set(schema["properties"])
    return dict(schema["properties"])


async def greeting(tenant: Tenant) -> dict[str, Any]:
    """What somebody is greeted with."""
    return dict((await tenant.owner.get(f"{AREA}/greetings/World")).expect(200).json)


async def why(tenant: Tenant) -> str:
    """How the tenant's owner comes to read notes, or why not."""
    asked = {"permission": "acme.guest.note.read"}
    return str((await tenant.owner.post("/api/v1/iam/check", asked)).expect(200)["why"]["reason"])


async def test_a_plugin_comes_and_goes_without_this_checkout(tmp_path: Path) -> None:
    programs = await environment_with_our_wheel(tmp_path)
    assert (await find_host(programs)).is_relative_to(tmp_path / "venv")
    assert (await find_host(Path(sys.executable).parent)).is_relative_to(ROOT), "here it is the checkout's"
    word, field, number = f"Hi{secrets.token_hex(4)}", f"field_{secrets.token_hex(4)}", secrets.randbelow(2**53)

    # from nothing to a wheel
    await run(programs / "pk", "new", "plugin", "acme.guest", cwd=tmp_path)
    project = tmp_path / "acme-guest"
    edit(project, "acme_guest/settings.py", '= "Hello"', f'= "{word}"')
    checked = json.loads(await run(programs / "pk", "check", project, "--json", cwd=tmp_path))
    assert (checked["errors"], checked["warnings"]) == (0, 0)
    first = await build(programs, project)

    kernel = Outside(programs)
    try:
        await kernel.start()
        tenant = await kernel.sign_up()
        empty, files, nothing = await kernel.document(), kernel.plugin_files(), await kernel.in_database()
        assert (routes(empty), nothing, await why(tenant)) == (set(), [], "unknown_permission")

        # installed
        await kernel.pk("plugins", "install", first)
        assert await greeting(tenant) == {"text": f"{word} World"}
        one = await kernel.document()
        assert (set(greeting_of(one)), len(routes(one)), await why(tenant)) == ({"text"}, 4, "granted")
        note = (await tenant.owner.post(f"{AREA}/notes", {"text": word})).expect(201)
        assert {"notes", SCHEMA} <= set(await kernel.in_database())

        # upgraded: a column with a number that nobody knows, and it is told
        edit(project, "acme_guest/manifest.toml", 'version = "1.0.0"', 'version = "1.1.0"')
        edit(project, "pyproject.toml", 'version = "1.0.0"', 'version = "1.1.0"')
        (project / "acme_guest/migrations/0002_more.sql").write_text(MIGRATION.format(field=field, number=number))
        edit(
            project,
            "acme_guest/operations.py",
            "    text: str\n\n\nclass NewNote",
            f"    text: str\n    {field}: int\n\n\nclass NewNote",
        )
        found = f'await (await call.tx()).fetch_one("select coalesce(max({field}), 0) as n from notes")'
        edit(
            project, "acme_guest/operations.py", '        return Greeting(f"{self._settings.salutation} {request.name}")',
            f'        row = {found}\n        return Greeting(f"{{self._settings.salutation}} {{request.name}}", row["n"])',
        )  # fmt: skip
        second = await build(programs, project)
        await kernel.pk("plugins", "upgrade", "acme.guest", second)
        assert await greeting(tenant) == {"text": f"{word} World", field: number}
        two = greeting_of(await kernel.document())
        assert (set(two), two[field]["type"]) == ({"text", field}, "integer")

        # rolled back, and forth again
        await kernel.pk("plugins", "rollback", "acme.guest")
        assert await greeting(tenant) == {"text": f"{word} World"}
        assert await kernel.document() == one
        assert (await tenant.owner.get(f"{AREA}/notes/{note['id']}")).expect(200)["text"] == word
        await kernel.pk("plugins", "rollback", "acme.guest")
        assert field in await greeting(tenant)
        (listed,) = (each for each in (await kernel.pk("plugins", "list"))["items"] if each["id"] == "acme.guest")
        assert (listed["version"], listed["leaks"], listed["last_error"]) == ("1.1.0", [], "")

        # gone
        await kernel.pk("plugins", "remove", "acme.guest", "--data", "purge")
        assert (await tenant.owner.get(f"{AREA}/greetings/World")).expect(404)
        assert (await kernel.document(), await why(tenant)) == (empty, "unknown_permission")
        assert (kernel.plugin_files(), await kernel.in_database()) == (files, [])
        assert "acme.guest" not in {each["id"] for each in (await kernel.pk("plugins", "list"))["items"]}
        assert "left something behind" not in kernel.log_file.read_text()
    finally:
        await kernel.close()
