"""Running servers as somebody other than root, whoever started the kernel.

Started by a plain user, servers simply run as that user. Started by root, the first of these that works here is used:

- `mapped`: `unshare` puts the server into a user namespace where root is called `nobody`. It has no capability at all and
  sees itself as that account, yet still owns the kernel's files, so the data folder may lie below root's home.
- `dropped`: the server gets the uid of `nobody`, and its own folders belong to that account. It cannot pass through the
  0700 data folder, so it is handed those folders already opened.

No account is created, and nothing outside the data folder is changed.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from msgspec import Struct

from plugin_api.servers import StartRefused

_PROBE_LIMIT_S: Final = 5.0
Way = Literal["same", "mapped", "dropped"]


class Privileges(Struct, frozen=True):
    """Who servers run as, and how they get there."""

    way: Way
    uid: int
    gid: int
    """The account that the server sees itself as."""

    @property
    def owner(self) -> tuple[int, int]:
        """Uid and gid that the server's files belong to, as seen from outside."""
        return (self.uid, self.gid) if self.way == "dropped" else (os.geteuid(), os.getegid())

    def wrap(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` as that account, in the same process: its pid is the program's own."""
        return [*_unshare(self.uid, self.gid), *argv] if self.way == "mapped" else list(argv)

    def hint(self) -> str:
        """What to add to the report of a program that could not be run."""
        if self.way != "dropped":
            return ""
        return (
            f"; it was run as uid {self.uid}, because root's servers give up root and user namespaces are not to be had "
            "here: start the kernel as a plain user, or put its Python environment where every account can read it"
        )

    def give(self, folder: Path) -> None:
        """Make `folder` and all in it belong to the server's account, when they do not yet."""
        found = folder.stat()
        if (found.st_uid, found.st_gid) == self.owner or os.geteuid() != 0:
            return
        for _, folders, files, descriptor in os.fwalk(folder.resolve()):
            for name in (*folders, *files):
                os.chown(name, *self.owner, dir_fd=descriptor, follow_symlinks=False)
        os.chown(folder, *self.owner)  # last: an interrupted change is taken up again


def _unshare(uid: int, gid: int) -> list[str]:
    return ["unshare", "--user", f"--map-user={uid}", f"--map-group={gid}", "--"]


def choose_privileges(*, without: frozenset[Way] = frozenset()) -> Privileges:
    """Find out how servers can be run here; `without` leaves ways out.

    Raises:
        StartRefused: we are root and there is no other account, or no way is left.
    """
    if os.geteuid() != 0:
        return Privileges("same", os.geteuid(), os.getegid())
    account = _find_account()
    if account is None:
        raise StartRefused(
            "servers never run as root and /etc/passwd has no other account (such as nobody); start the kernel as a plain user"
        )
    uid, gid = account.pw_uid, account.pw_gid
    if "mapped" not in without and _can_map(uid, gid):
        return Privileges("mapped", uid, gid)
    if "dropped" not in without:
        return Privileges("dropped", uid, gid)
    raise StartRefused(
        "servers never run as root and there is no way to give it up here; start the kernel as a plain user"
    )


def _find_account() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        others = [account for account in pwd.getpwall() if account.pw_uid != 0]
        return max(others, key=lambda account: account.pw_uid, default=None)


def _can_map(uid: int, gid: int) -> bool:
    if shutil.which("unshare") is None:
        return False
    words = [*_unshare(uid, gid), "id", "-u"]
    try:
        ran = subprocess.run(words, capture_output=True, text=True, timeout=_PROBE_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return ran.returncode == 0 and ran.stdout.strip() == str(uid)
