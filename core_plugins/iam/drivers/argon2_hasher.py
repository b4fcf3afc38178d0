"""argon2id (RFC 9106) in a bounded pool of threads: hashing takes tens of milliseconds and lets go of the interpreter."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from argon2 import PasswordHasher as Argon2
from argon2 import Type
from argon2.exceptions import InvalidHashError, VerificationError

from core_plugins.iam.model.passwords import normalized
from plugin_api.errors import LimitReached

T = TypeVar("T")
HASH_BYTES: Final = 32
SALT_BYTES: Final = 16


class Argon2Hasher:
    """The `PasswordHasher` of `model.passwords`, by argon2id with one lane."""

    def __init__(self, *, memory_kib: int, passes: int, threads: int, queue_max: int) -> None:
        self._argon2 = Argon2(
            time_cost=passes,
            memory_cost=memory_kib,
            parallelism=1,
            hash_len=HASH_BYTES,
            salt_len=SALT_BYTES,
            type=Type.ID,
        )
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="iam-hash")
        self._places = threads + queue_max
        self._taken = 0
        self._decoy: str | None = None

    async def hash(self, password: str) -> str:
        """Hash a password with a new salt."""
        return await self._run(lambda: self._argon2.hash(normalized(password)))

    async def verify(self, stored: str | None, password: str) -> bool:
        """Compare with a stored hash, or, as slowly, with nothing."""
        return await self._run(lambda: self._verify(stored, normalized(password)))

    def is_outdated(self, stored: str) -> bool:
        """Whether a hash has other parameters than those of now."""
        try:
            return self._argon2.check_needs_rehash(stored)
        except InvalidHashError:
            return True

    def close(self) -> None:
        """Let the threads go; what waits for one is cancelled."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _verify(self, stored: str | None, password: bytes) -> bool:
        expected = stored if stored is not None else self._make_decoy()
        try:
            self._argon2.verify(expected, password)
        except (VerificationError, InvalidHashError):
            return False
        return stored is not None

    def _make_decoy(self) -> str:
        # Two threads may make one each: both serve.
        if self._decoy is None:
            self._decoy = self._argon2.hash(secrets.token_bytes(SALT_BYTES))
        return self._decoy

    def warm_up(self) -> None:
        """Make the hash that unknown accounts are compared with; the first comparison would take twice as long."""
        self._make_decoy()

    async def _run(self, work: Callable[[], T]) -> T:
        """Run in a thread. LimitReached when every place is taken: not Unavailable, which would open a breaker."""
        if self._taken >= self._places:
            raise LimitReached(
                f"{self._places} passwords are being checked in this worker already; try again", retry_after_s=1
            )
        self._taken += 1
        future = self._pool.submit(work)
        future.add_done_callback(self._done_later(asyncio.get_running_loop()))
        return await asyncio.wrap_future(future)

    def _done_later(self, loop: asyncio.AbstractEventLoop) -> Callable[[object], None]:
        """A place is free when the thread is, not when the caller has gone away."""

        def done(_: object) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._leave)

        return done

    def _leave(self) -> None:
        self._taken -= 1
