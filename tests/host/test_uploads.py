"""Wheels that were sent are files of their own for as long as somebody wants them."""

from __future__ import annotations

from pathlib import Path

from host.uploads import FOLDER, forget_uploads, keep_upload


def test_what_a_killed_kernel_left_is_removed(tmp_path: Path) -> None:
    forget_uploads(tmp_path)
    (tmp_path / "plugins").mkdir()
    first, second = keep_upload(tmp_path, b"one"), keep_upload(tmp_path, b"two")
    assert (first.read_bytes(), second.read_bytes()) == (b"one", b"two")
    assert (first.stat().st_mode & 0o777, first.parent.stat().st_mode & 0o777) == (0o600, 0o700)

    forget_uploads(tmp_path)
    assert list((tmp_path / FOLDER).iterdir()) == []
