"""Remembered ids: for as long as promised, not for ever, and in keys that go by themselves."""

from __future__ import annotations

import time

import pytest

from tests.support.answers import Recorded, Said
from tests.support.clock import START_MS, DrivenClock
from tests.support.commands import counted_commands
from tests.support.driver import Driver
from tests.support.servers import Server

MEMORY_MS = 60_000
WAIT_S_MAX = 10


@pytest.fixture
def brief(acme: Driver) -> Driver:
    """A workspace that remembers ids for a minute."""
    acme.memory_ms = MEMORY_MS
    return acme


def is_duplicate(driver: Driver) -> bool:
    answer = driver.record(9, "e1")
    assert isinstance(answer, Recorded)
    return answer.duplicate


@pytest.mark.parametrize("offset", [0, 1, MEMORY_MS // 2, MEMORY_MS - 1])
@pytest.mark.parametrize("last", [True, False])
def test_an_event_is_remembered_for_one_to_two_times_as_long_as_asked(
    brief: Driver, clock: DrivenClock, offset: int, last: bool
) -> None:
    clock.set(START_MS + offset)
    assert not is_duplicate(brief)
    forgotten_at = START_MS + 2 * MEMORY_MS
    assert MEMORY_MS < forgotten_at - clock.now_ms <= 2 * MEMORY_MS
    clock.set(forgotten_at - 1 if last else forgotten_at)
    assert is_duplicate(brief) == last


def test_a_duplicate_does_not_prolong_the_memory(brief: Driver, clock: DrivenClock) -> None:
    clock.set(START_MS)
    assert not is_duplicate(brief)
    clock.set(START_MS + MEMORY_MS)
    assert is_duplicate(brief)
    clock.set(START_MS + 2 * MEMORY_MS)
    assert not is_duplicate(brief)


@pytest.mark.parametrize("end", ["record", "release", "expire"])
def test_the_end_of_a_reservation_is_remembered_as_long(
    brief: Driver, clock: DrivenClock, end: str
) -> None:
    clock.set(START_MS)
    brief.check(5, "r1", hold_ms=1)
    if end == "record":
        brief.record(5, "e1", "r1")
    if end == "release":
        brief.release("r1")
    clock.advance(1)
    brief.usage()
    letter = {"record": "r", "release": "l", "expire": "e"}[end]
    clock.set(START_MS + 2 * MEMORY_MS - 1)
    assert brief.check(5, "r1") == Said("settled", (letter,))
    clock.set(START_MS + 2 * MEMORY_MS)
    late = brief.record(5, "e2", "r1")
    assert isinstance(late, Recorded)
    assert (late.state, late.charged) == ("u", 5)


def test_every_slice_expires_and_not_before_it_may(brief: Driver, clock: DrivenClock) -> None:
    for number in range(10):
        clock.set(START_MS + number * MEMORY_MS // 2)
        brief.record(1, f"e{number}")
    slices = brief.client.execute_command("KEYS", "*:events:*")
    assert len(slices) == 5
    for key in slices:
        # Real milliseconds, of which few have passed since the slice was begun.
        left_ms = int(brief.client.execute_command("PTTL", key))
        assert 2 * MEMORY_MS - WAIT_S_MAX * 1_000 < left_ms <= 2 * MEMORY_MS


def test_a_slice_is_given_its_end_once(
    real_server: Server, brief: Driver, clock: DrivenClock
) -> None:
    """Were it put off with every write, a busy workspace would keep its ids for longer."""
    clock.set(START_MS)
    with counted_commands(real_server.client) as counts:
        for number in range(10):
            clock.advance(MEMORY_MS // 10 - 1)
            brief.record(1, f"e{number}")
    assert counts["PEXPIRE"] == 1


def test_a_slice_is_gone_in_the_end(acme: Driver) -> None:
    acme.memory_ms = 20
    acme.record(1, "e1")
    deadline = time.monotonic() + WAIT_S_MAX
    while acme.client.execute_command("KEYS", "*:events:*"):
        assert time.monotonic() < deadline
        time.sleep(0.005)
