"""What sessions and refresh tokens mean, and what is remembered of credentials."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from core_plugins.iam.model.recognition import (
    Recognised,
    Recollection,
    session_key,
    tenant_key,
    user_key,
)
from core_plugins.iam.model.sessions import Presented, Session, judge
from host.stamps import FileStamps, create_stamps
from plugin_api.call import Actor, Identity
from plugin_api.ids import uuid7
from plugin_api.testing import FakeClock

TENANT, USER, SESSION = uuid7(), uuid7(), uuid7()
IDENTITY = Identity(TENANT, Actor("user", str(USER)), 7, USER, SESSION)


@pytest.fixture
def stamps(tmp_path: Path) -> Iterator[FileStamps]:
    create_stamps(tmp_path / "stamps")
    with FileStamps(tmp_path / "stamps") as made:
        yield made


class Memory:
    """A recollection, with what it depends on within reach."""

    def __init__(self, stamps: FileStamps, clock: FakeClock, entries_max: int = 100) -> None:
        self.clock = clock
        self.stamps = stamps
        self.epoch = 1
        self.recollection = Recollection(stamps, clock.monotonic, lambda: self.epoch, entries_max=entries_max)

    def learn(self, credential: str, *, expires_in_s: float | None = None) -> None:
        look_up = self.recollection.start(self.clock.now())
        look_up.watch.on(tenant_key(TENANT), user_key(TENANT, USER), session_key(SESSION))
        ends = None if expires_in_s is None else self.clock.now() + timedelta(seconds=expires_in_s)
        self.recollection.remember(credential, Recognised(IDENTITY, ends), look_up)

    def knows(self, credential: str) -> bool:
        return self.recollection.recall(credential) is not None


@pytest.fixture
def memory(stamps: FileStamps, fake_clock: FakeClock) -> Memory:
    return Memory(stamps, fake_clock)


def test_what_was_learned_is_recalled_for_five_seconds(memory: Memory) -> None:
    memory.learn("a")
    assert memory.knows("a")
    assert not memory.knows("b")

    memory.clock.advance(4.9)
    assert memory.knows("a")
    memory.clock.advance(0.2)
    assert not memory.knows("a")


def test_nothing_is_recalled_past_its_own_end(memory: Memory) -> None:
    memory.learn("a", expires_in_s=2)

    memory.clock.advance(1.9)
    assert memory.knows("a")
    memory.clock.advance(0.1)
    assert not memory.knows("a")

    memory.learn("b", expires_in_s=0)
    assert not memory.knows("b")


def test_time_that_the_look_up_took_counts(memory: Memory) -> None:
    look_up = memory.recollection.start(memory.clock.now())
    ends = memory.clock.now() + timedelta(seconds=3)
    memory.clock.advance(2.5)
    memory.recollection.remember("a", Recognised(IDENTITY, ends), look_up)

    assert memory.knows("a")
    memory.clock.advance(0.6)
    assert not memory.knows("a")


@pytest.mark.parametrize(
    "key", [tenant_key(TENANT), user_key(TENANT, USER), session_key(SESSION)], ids=["tenant", "user", "session"]
)
def test_a_touched_stamp_ends_it_at_once(memory: Memory, key: str) -> None:
    memory.learn("a")
    memory.stamps.touch(key)

    assert not memory.knows("a")


def test_another_process_is_felt(memory: Memory, tmp_path: Path) -> None:
    memory.learn("a")
    with FileStamps(tmp_path / "stamps") as other:
        other.touch(session_key(SESSION))

    assert not memory.knows("a")


def test_a_change_during_the_look_up_is_not_remembered(memory: Memory) -> None:
    """The stamp is read before the row: a revocation in between makes the entry stale from its beginning."""
    look_up = memory.recollection.start(memory.clock.now())
    look_up.watch.on(session_key(SESSION))
    memory.stamps.touch(session_key(SESSION))
    memory.recollection.remember("a", Recognised(IDENTITY), look_up)

    assert not memory.knows("a")
    assert not look_up.watch.still_holds()


def test_a_new_permission_ends_every_mask(memory: Memory) -> None:
    memory.learn("a")
    memory.epoch += 1

    assert not memory.knows("a")


def test_memory_is_bounded_and_keeps_what_is_used(stamps: FileStamps, fake_clock: FakeClock) -> None:
    memory = Memory(stamps, fake_clock, entries_max=10)
    memory.learn("used")
    for number in range(1_000):
        memory.learn(f"other-{number}")
        assert memory.knows("used")

    assert 20 >= len(memory.recollection)
    memory.recollection.forget("used")
    assert not memory.knows("used")


# ------------------------------------------------------------------------------------------ refresh tokens


def test_a_fresh_token_is_good_until_it_expires(fake_clock: FakeClock) -> None:
    now = fake_clock.now()

    assert Presented.FRESH is judge(used_at=None, expires_at=now + timedelta(seconds=1), now=now)
    assert Presented.DEAD is judge(used_at=None, expires_at=now, now=now)


def test_a_used_token_is_repeated_within_ten_seconds_and_reused_later(fake_clock: FakeClock) -> None:
    used, end = fake_clock.now(), fake_clock.now() + timedelta(days=30)

    assert Presented.REPEATED is judge(used_at=used, expires_at=end, now=used)
    assert Presented.REPEATED is judge(used_at=used, expires_at=end, now=used + timedelta(seconds=10))
    assert Presented.REUSED is judge(used_at=used, expires_at=end, now=used + timedelta(seconds=10, microseconds=1))
    assert Presented.REUSED is judge(used_at=used, expires_at=end, now=end + timedelta(days=1))


def test_a_session_lives_while_everything_around_it_does(fake_clock: FakeClock) -> None:
    now = fake_clock.now()
    session = Session(SESSION, USER, "bearer", None, now + timedelta(days=1), None, now, "active", "active")

    assert session.lives(now)
    for change in (
        {"user_status": "suspended"},
        {"tenant_status": "suspended"},
        {"revoked_at": now},
        {"expires_at": now},
    ):
        assert not msgspec.structs.replace(session, **change).lives(now), change


def test_the_last_use_is_written_once_a_minute(fake_clock: FakeClock) -> None:
    now = fake_clock.now()
    session = Session(SESSION, USER, "bearer", None, now + timedelta(days=1), None, now, "active", "active")

    assert not session.was_used_long_ago(now + timedelta(seconds=60))
    assert session.was_used_long_ago(now + timedelta(seconds=61))
