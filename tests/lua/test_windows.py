"""Rolling windows at their edges: never early, at most one bucket late, in bounded memory."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest

from limiter.periods import DAY_MS, PERIODS, Period
from tests.support.answers import Recorded, Usage
from tests.support.clock import START_MS, DrivenClock
from tests.support.driver import Argument, Driver, parse
from tests.support.servers import Server

BY_NAME = {period.name: period for period in PERIODS}
LISTPACK_ENTRIES_MAX = 128
WALK_MS = 32 * DAY_MS
BATCH = 500

each_period = pytest.mark.parametrize("period", PERIODS, ids=lambda period: period.name)


class Tally:
    """Every charge with its moment; sums are taken over them afresh from where they still count."""

    def __init__(self) -> None:
        self._at: list[int] = []
        self._total = [0]
        self._first: dict[tuple[str, str], int] = {}

    def charge(self, at: int, micros: int) -> None:
        self._at.append(at)
        self._total.append(self._total[-1] + micros)

    def spent(self, period: Period, now: int) -> int:
        """By the definition: a bucket counts until all of it is older than the window."""
        gone = now - period.window_ms - period.bucket_ms
        return self._since("exact", period, gone - gone % period.bucket_ms + period.bucket_ms)

    def at_least(self, period: Period, now: int) -> int:
        """What is not older than the window: it must count."""
        return self._since("young", period, now - period.window_ms)

    def at_most(self, period: Period, now: int) -> int:
        """What is younger than the window and one bucket more: nothing else may count."""
        return self._since("old", period, now - period.window_ms - period.bucket_ms + 1)

    def _since(self, which: str, period: Period, at: int) -> int:
        """The sum of what was charged at `at` or later. `at` never goes back for a `which`."""
        first = self._first.get((which, period.name), 0)
        while first < len(self._at) and self._at[first] < at:
            first += 1
        self._first[which, period.name] = first
        return self._total[-1] - self._total[first]


def moments(step_ms: int, walk_ms: int) -> Iterator[int]:
    """One in every bucket of that width: its first and its last millisecond, and any between."""
    rng = random.Random(step_ms)
    for start in range(START_MS, START_MS + walk_ms, step_ms):
        yield start + rng.choice([0, step_ms - 1, rng.randrange(step_ms)])


def walk(driver: Driver, step_ms: int, walk_ms: int) -> int:
    """Charges in every bucket and compares every answer with a tally; returns the steps taken."""
    driver.preload()
    tally, rng, steps = Tally(), random.Random(7), 0
    remaining = moments(step_ms, walk_ms)
    while batch := list(itertools.islice(remaining, BATCH)):
        amounts = [rng.randrange(1, 1_000_000) for _ in batch]
        pipeline = driver.client.pipeline(transaction=False)
        for at, micros in zip(batch, amounts, strict=True):
            steps += 1
            pipeline.execute_command(*DrivenClock.command(at))
            told: list[Argument] = [driver.memory_ms, f"e{steps}", 1, "f", micros]
            untold: list[Argument] = ["", "", "", "", "", "", "", "", "", "", 1, "{}"]
            pipeline.execute_command(*driver.command("record", *told, *untold))
        replies = pipeline.execute()[1::2]
        for at, micros, reply in zip(batch, amounts, replies, strict=True):
            tally.charge(at, micros)
            answer = parse(reply)
            assert isinstance(answer, Recorded)
            for name, spent in answer.workspace.spent.items():
                period = BY_NAME[name]
                assert spent == tally.spent(period, at), (name, at)
                assert tally.at_least(period, at) <= spent <= tally.at_most(period, at)
    return steps


@each_period
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_charge_leaves_within_one_bucket_after_the_window_and_never_before(
    acme: Driver, clock: DrivenClock, period: Period, place: str
) -> None:
    at = (
        START_MS
        + {"first": 0, "middle": period.bucket_ms // 2, "last": period.bucket_ms - 1}[place]
    )
    clock.set(at)
    acme.record(9_000, "e1")

    def spent_at(now: int) -> int:
        clock.set(now)
        return acme.usage().workspace.spent[period.name]

    leaves_at = START_MS + period.bucket_ms + period.window_ms
    assert at + period.window_ms < leaves_at <= at + period.window_ms + period.bucket_ms
    assert spent_at(at + period.window_ms - 1) == 9_000
    assert spent_at(at + period.window_ms) == 9_000
    assert spent_at(leaves_at - 1) == 9_000
    assert spent_at(leaves_at) == 0


@each_period
def test_charges_of_one_bucket_leave_together_and_the_next_one_stays(
    acme: Driver, clock: DrivenClock, period: Period
) -> None:
    moments_and_micros = [(0, 1), (period.bucket_ms - 1, 10), (period.bucket_ms, 100)]
    for offset, micros in moments_and_micros:
        clock.set(START_MS + offset)
        acme.record(micros, f"e{offset}")

    seen = []
    for leaves_at in (1, 2):
        for now in (-1, 0):
            clock.set(START_MS + leaves_at * period.bucket_ms + period.window_ms + now)
            seen.append(acme.usage().workspace.spent[period.name])
    assert seen == [111, 100, 100, 0]


@each_period
def test_every_window_is_right_at_every_bucket_of_one(acme: Driver, period: Period) -> None:
    """A walk past the window's end, so that each of its buckets fills, closes and leaves."""
    walk_ms = period.window_ms + 10 * period.bucket_ms
    assert walk(acme, period.bucket_ms, walk_ms) >= walk_ms // period.bucket_ms


@pytest.mark.servers("valkey")
def test_every_window_is_right_at_every_half_minute_of_a_month(acme: Driver) -> None:
    narrowest = min(period.bucket_ms for period in PERIODS)
    assert walk(acme, narrowest, WALK_MS) >= WALK_MS // narrowest


@each_period
def test_a_full_window_keeps_the_compact_encoding(
    real_server: Server, acme: Driver, period: Period
) -> None:
    key = f"{acme.workspace_key}:{period.name}"
    walk(acme, period.bucket_ms, period.window_ms + 5 * period.bucket_ms)
    client = real_server.client
    entries = int(client.execute_command("ZCARD", key))
    assert period.window_ms // period.bucket_ms <= entries <= LISTPACK_ENTRIES_MAX
    assert client.execute_command("OBJECT", "ENCODING", key) == b"listpack"
    for other in PERIODS:
        assert client.execute_command("ZCARD", f"{acme.workspace_key}:{other.name}") <= entries


def test_a_quiet_month_empties_every_window(acme: Driver, clock: DrivenClock) -> None:
    for step in range(20):
        acme.record(5, f"e{step}")
        clock.advance(3_000_000)
    clock.advance(WALK_MS)
    usage = acme.usage()
    assert isinstance(usage, Usage)
    assert usage.workspace.spent == dict.fromkeys(BY_NAME, 0)
    assert usage.frees_at == dict.fromkeys(BY_NAME)
    sets = [f"{acme.workspace_key}:{name}" for name in BY_NAME]
    assert acme.client.execute_command("EXISTS", *sets) == 0


def test_time_does_not_step_back_behind_the_last_charge(acme: Driver, clock: DrivenClock) -> None:
    acme.record(5, "e1")
    clock.advance(-3_600_000)
    late = acme.record(7, "e2")
    assert isinstance(late, Recorded)
    assert late.now == START_MS
    assert late.workspace.spent == dict.fromkeys(BY_NAME, 12)
    clock.set(START_MS + 1)
    assert acme.usage().now == START_MS + 1
