"""The way to one other kernel: a channel that comes back by itself, behind a breaker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from msgspec import Struct

from host.remote.errors import error_of, is_answer
from plugin_api.breaker import EXCLUDED, FAILURE, LEASE_SPARE_S, REFUSED, SUCCESS, Outcome, StreakBreaker
from plugin_api.errors import DeadlinePassed, KernelError, StoreUnavailable, Unavailable, Violation

RETRY_S: Final = 0.1
LATE_S: Final = 0.05
"""A caller that goes away so short before the deadline has waited for it in vain."""
RECONNECT_MS_MIN: Final = 100
RECONNECT_MS_MAX: Final = 2_000
"""A kernel that is back is found again that soon."""
_OPTIONS: Final = [
    ("grpc.initial_reconnect_backoff_ms", RECONNECT_MS_MIN),
    ("grpc.min_reconnect_backoff_ms", RECONNECT_MS_MAX),
    ("grpc.max_reconnect_backoff_ms", RECONNECT_MS_MAX),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", 64 << 20),
]
Metadata = Sequence[tuple[str, str | bytes]]


class ClientFiles(Struct, frozen=True):
    """Files in PEM with which this kernel shows itself."""

    certificate: str
    key: str
    authority: str

    def credentials(self) -> Any:
        """What a channel is given. OSError when one cannot be read."""
        read = [Path(name).read_bytes() for name in (self.authority, self.key, self.certificate)]
        return grpc.ssl_channel_credentials(*read)


class Link:
    """Calls one other kernel."""

    def __init__(self, address: str, files: ClientFiles, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.address = address
        self.breaker = StreakBreaker()
        self.last_error = ""
        self._files = files
        self._monotonic = monotonic
        """The breaker's time."""
        self._channel: Any = None

    async def ask(self, path: str, data: bytes, seconds: float, metadata: Metadata, *, reads: bool) -> bytes:
        """The bytes of its answer, within `seconds`. What only reads is tried once more when it is away.

        Raises:
            Unavailable: it is away, or its breaker is open; with the violation `commit_unknown` when something that is
                no reading may have happened all the same.
            DeadlinePassed: it was not in time.
            KernelError: whatever it answered.
        """
        end = time.monotonic() + seconds
        generation = self.breaker.enter(self._monotonic(), seconds + LEASE_SPARE_S)
        if generation == REFUSED:
            wait_s = self.breaker.wait_s(self._monotonic())
            detail = f"{self.address} failed again and again and is left alone for now; try again in {wait_s} s"
            refused = Unavailable(detail, retry_after_s=wait_s)
            refused.violations = (Violation("", "circuit_open", "the breaker of the way there is open"),)
            raise refused
        outcome: Outcome = EXCLUDED
        try:
            answer = await self._tried(path, data, end, metadata, reads=reads)
            outcome = SUCCESS
        except asyncio.CancelledError:
            # Whoever waits for us may see the same deadline first.
            outcome = FAILURE if time.monotonic() >= end - LATE_S else EXCLUDED
            raise
        except KernelError as error:
            outcome = _outcome_of(error)
            self.last_error = error.detail if outcome is FAILURE else self.last_error
            raise
        finally:
            self.breaker.leave(generation, outcome, self._monotonic())
        return answer

    async def _tried(self, path: str, data: bytes, end: float, metadata: Metadata, *, reads: bool) -> bytes:
        try:
            return await self._once(path, data, end, metadata, reads=reads)
        except Unavailable:
            if not reads or end - time.monotonic() <= RETRY_S:
                raise
        await asyncio.sleep(RETRY_S)
        return await self._once(path, data, end, metadata, reads=reads)

    async def _once(self, path: str, data: bytes, end: float, metadata: Metadata, *, reads: bool) -> bytes:
        left = end - time.monotonic()
        if left <= 0:
            raise DeadlinePassed("the call ran out of time; try again, or with less work in one call")
        try:
            answer: bytes = await self._open().unary_unary(path)(data, timeout=left, metadata=tuple(metadata))
        except grpc.aio.AioRpcError as failed:
            happened = not reads and not is_answer(failed) and not _never_left(failed)
            raise error_of(failed, self.address, may_have_happened=happened) from None
        return answer

    def _open(self) -> Any:
        if self._channel is None:
            try:
                self._channel = grpc.aio.secure_channel(self.address, self._files.credentials(), options=_OPTIONS)
            except OSError as error:
                raise Unavailable(f"the certificate towards {self.address} cannot be read: {error}") from error
        return self._channel

    async def close(self) -> None:
        """Hang up."""
        if self._channel is not None:
            await self._channel.close()


def _never_left(failed: Any) -> bool:
    """Whether there was no connection at all, so that nothing was sent."""
    return failed.code() is grpc.StatusCode.UNAVAILABLE and "failed to connect" in str(failed.details())


def _outcome_of(error: KernelError) -> Outcome:
    if isinstance(error, StoreUnavailable):
        return EXCLUDED
    return FAILURE if isinstance(error, Unavailable | DeadlinePassed) else SUCCESS
