"""Wheels that were sent over REST, until the parent has taken them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final
from uuid import uuid4

FOLDER: Final = Path("plugins", ".uploads")


def keep_upload(data_folder: Path, content: bytes) -> Path:
    """Write one to a file of its own, 0600; whoever asks removes it."""
    folder = data_folder / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    file = folder / f"{uuid4()}.whl"
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(content)
    return file


def forget_uploads(data_folder: Path) -> None:
    """Remove what workers of an earlier kernel left, which was killed before they could."""
    for file in (data_folder / FOLDER).glob("*.whl"):
        file.unlink(missing_ok=True)
