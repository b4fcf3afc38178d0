"""A package is proven unchanged, found again, and cleared away with what only it needed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from host.store import PackageDamaged
from plugin_api.errors import Conflict, NotFound

if TYPE_CHECKING:
    from tests.host.store.conftest import Shelf, Workshop

DIGEST = "ab" * 32


def append(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"#")


def swap_byte(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[0] ^= 1
    file.write_bytes(raw)


def to_link(file: Path) -> None:
    """The same contents, but elsewhere, where they may change unseen."""
    copy = file.parents[3] / "elsewhere"
    copy.write_bytes(file.read_bytes())
    file.unlink()
    file.symlink_to(copy)


def to_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("acme_hello/__init__.py", append),
        ("acme_hello/__init__.py", swap_byte),
        ("acme_hello/__init__.py", Path.unlink),
        ("acme_hello/__init__.py", to_link),
        ("acme_hello/__init__.py", to_pipe),
        ("acme_hello/manifest.toml", swap_byte),
        ("acme_hello-1.0.0.dist-info/entry_points.txt", append),
        ("acme_hello/late.py", Path.touch),
        ("acme_hello/__pycache__", Path.mkdir),
        ("empty", Path.mkdir),
        ("late", lambda path: path.symlink_to("acme_hello")),
        (".files.json", append),
        (".files.json", Path.unlink),
        (".files.json", lambda path: path.write_text("[]")),
    ],
)
def test_every_change_is_found(shelf: Shelf, workshop: Workshop, file: str, change: Callable[[Path], object]) -> None:
    package = shelf.prepare(workshop.plugin())
    shelf.store.verify(*package.key)

    change(Path(package.folder, file))

    with pytest.raises(PackageDamaged) as caught:
        shelf.store.verify(*package.key)
    assert isinstance(caught.value, Conflict) and caught.value.code == "package_damaged"
    for said in ("acme.hello 1.0.0", file, "install it again"):
        assert said in caught.value.detail


def test_a_cached_compilation_is_named(shelf: Shelf, workshop: Workshop) -> None:
    package = shelf.prepare(workshop.plugin())
    cache = Path(package.folder, "acme_hello", "__pycache__")
    cache.mkdir()
    (cache / "__init__.cpython-311.pyc").write_bytes(b"other code")

    with pytest.raises(PackageDamaged, match="__pycache__"):
        shelf.store.verify(*package.key)


@pytest.mark.parametrize(
    "key",
    [
        ("acme.hello", "1.0.0", DIGEST),
        ("acme.hello", "9.0.0", DIGEST),
        ("../..", "1.0.0", DIGEST),
        ("acme.hello", "../../1.0.0", DIGEST),
        ("acme.hello", "1.0.0", "../../../etc/passwd"),
        ("acme.hello", "1.0.0", ""),
    ],
)
def test_what_is_not_there(shelf: Shelf, workshop: Workshop, key: tuple[str, str, str]) -> None:
    shelf.prepare(workshop.plugin())

    for ask in (shelf.store.find, shelf.store.verify):
        with pytest.raises(NotFound) as caught:
            ask(*key)
        assert "package_missing" == caught.value.code


def test_another_digest_is_another_package(shelf: Shelf, workshop: Workshop) -> None:
    """The folder's name holds a part of the digest only."""
    package = shelf.prepare(workshop.plugin())

    with pytest.raises(PackageDamaged):
        shelf.store.verify(package.plugin_id, package.version, package.digest[:12] + "0" * 52)


def test_discarding_leaves_what_others_need(shelf: Shelf, workshop: Workshop) -> None:
    workshop.wheel("acme-lib")
    first = shelf.prepare(workshop.plugin("acme.one", requires=["acme-lib"]))
    before = shelf.left()
    second = shelf.prepare(workshop.plugin("acme.two", requires=["acme-lib"]))
    assert first.wheels[1] == second.wheels[1]

    shelf.store.discard(second)

    assert before == shelf.left()
    assert not (shelf.folder / "acme.two").exists()
    shelf.store.verify(*first.key)

    shelf.store.discard(first.key)
    shelf.store.discard(first)

    assert [] == shelf.left()


def test_a_sweep_keeps_what_it_is_told(shelf: Shelf, workshop: Workshop) -> None:
    old = shelf.prepare(workshop.plugin("acme.hello", "1.0.0"))
    new = shelf.prepare(workshop.plugin("acme.hello", "1.1.0"))
    other = shelf.prepare(workshop.plugin("acme.other"))
    (shelf.folder / ".drafts" / "left").mkdir()
    (shelf.folder / ".drafts" / "left" / "x").write_text("half")
    (shelf.folder / ".wheels" / "0" / "x").mkdir(parents=True)
    (shelf.folder / ".packages" / "acme.gone-1.0.0-abababababab.json").write_text("{}")

    removed = shelf.store.sweep([new.key])

    names = [str(Path(one.folder).relative_to(shelf.folder)) for one in (old, other)]
    wheels = [f".wheels/{sha256}" for sha256 in ("0", *old.wheels, *other.wheels)]
    assert sorted([".drafts/left", *names, *wheels]) == sorted(removed)
    shelf.store.verify(*new.key)
    assert ["acme.hello"] == [path.name for path in shelf.folder.iterdir() if not path.name.startswith(".")]
    assert [] == shelf.store.sweep([new.key])
    assert [] == shelf.store.sweep([new.key, old.key])


def test_a_sweep_leaves_what_is_not_of_the_store(shelf: Shelf, workshop: Workshop) -> None:
    shelf.prepare(workshop.plugin())
    (shelf.folder / "notes").mkdir()
    (shelf.folder / "notes" / "mine.txt").write_text("keep me")

    shelf.store.sweep([])

    assert ["notes/mine.txt"] == shelf.left()


def test_a_sweep_of_a_store_that_was_never_used(shelf: Shelf) -> None:
    assert [] == shelf.store.sweep([])
