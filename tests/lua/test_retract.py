"""Retracting: a record that was counted twice is taken out of every counter again, once."""

from __future__ import annotations

from typing import Any

import pytest

from limiter.periods import DAY_MS, PERIOD_NAMES, PERIODS
from tests.support.clock import START_MS, DrivenClock
from tests.support.driver import Argument, Driver
from tests.support.keyspace import dump

RECORDS = (3, 40, 500)


def count(driver: Driver, clock: DrivenClock, apart_ms: int) -> None:
    """Three records of chat c2 below c1, each some time after the other."""
    driver.check(0, "r", chat="c1", new=True)
    driver.check(0, "r", chat="c2", parent="c1", new=True)
    for number, micros in enumerate(RECORDS):
        clock.set(START_MS + number * apart_ms)
        driver.record(micros, f"e{micros}", chat="c2")


def retract(driver: Driver, micros: int, entry: tuple[str, dict[str, str]]) -> list[Any]:
    entry_id, fields = entry
    args: list[Argument] = [driver.memory_ms, entry_id, fields["at"], micros, "c2", "c1"]
    return driver.call("retract", *args)


def entry_of(driver: Driver, micros: int) -> tuple[str, dict[str, str]]:
    """The entry of the record that charged so much."""
    (entry,) = [
        (entry_id, fields)
        for entry_id, fields in driver.entries()
        if fields.get("event") == f"e{micros}"
    ]
    return entry


@pytest.mark.parametrize("micros", RECORDS)
@pytest.mark.parametrize("apart_ms", [0, 1_000, 600_000, DAY_MS])
def test_a_record_is_taken_out_of_every_counter(
    acme: Driver, clock: DrivenClock, micros: int, apart_ms: int
) -> None:
    """Also where it shares its bucket with others, and where it has left some windows already."""
    count(acme, clock, apart_ms)
    before = acme.usage().workspace.spent
    at = START_MS + RECORDS.index(micros) * apart_ms
    for period in PERIODS:
        if at - at % period.bucket_ms + period.bucket_ms + period.window_ms > clock.now_ms:
            before[period.name] -= micros

    assert retract(acme, micros, entry_of(acme, micros)) == [b"retracted"]
    usage = acme.usage("c2")
    assert usage.workspace.spent == before
    rest = sum(RECORDS) - micros
    assert [(chat.spent, chat.own) for chat in usage.chats] == [(rest, rest), (rest, 0)]
    clock.advance(40 * DAY_MS)
    assert acme.usage().workspace.spent == dict.fromkeys(PERIOD_NAMES, 0)


def test_it_happens_once_and_removes_the_entry(acme: Driver, clock: DrivenClock) -> None:
    count(acme, clock, DAY_MS)
    entry = entry_of(acme, 40)
    assert retract(acme, 40, entry) == [b"retracted"]
    assert entry not in acme.entries()
    before = dump(acme.client)
    assert retract(acme, 40, entry) == [b"gone"]
    assert dump(acme.client) == before


def test_a_cold_workspace_only_loses_the_entry(acme: Driver, clock: DrivenClock) -> None:
    """Durable storage, from which it will come back, never counted the record twice."""
    count(acme, clock, DAY_MS)
    entry = entry_of(acme, 40)
    acme.forget()
    before = dump(acme.client)
    assert retract(acme, 40, entry) == [b"retracted"]
    after = dump(acme.client)
    stream = acme.stream_key.encode()
    assert after.pop(stream) != before.pop(stream)
    assert after == before
    assert entry not in acme.entries()


def test_a_cold_ancestor_is_left_cold(acme: Driver, clock: DrivenClock) -> None:
    count(acme, clock, DAY_MS)
    root = acme.names.chat("acme", "c1")
    acme.client.execute_command("DEL", root)
    assert retract(acme, 40, entry_of(acme, 40)) == [b"retracted"]
    assert acme.client.execute_command("EXISTS", root) == 0
    acme.load_chat("c1", spent=503)
    assert [(chat.spent, chat.own) for chat in acme.usage("c2").chats] == [(503, 503), (503, 0)]


@pytest.mark.parametrize("micros", RECORDS)
def test_nothing_goes_below_zero(acme: Driver, clock: DrivenClock, micros: int) -> None:
    """Neither a closed bucket nor the open one gives more than it has."""
    count(acme, clock, DAY_MS)
    assert retract(acme, 10_000, entry_of(acme, micros)) == [b"retracted"]
    usage = acme.usage("c2")
    assert usage.workspace.spent["monthly"] == sum(RECORDS) - micros
    assert [(chat.spent, chat.own) for chat in usage.chats] == [(0, 0), (0, 0)]


def test_a_bucket_that_is_empty_then_is_gone(acme: Driver, clock: DrivenClock) -> None:
    count(acme, clock, DAY_MS)
    monthly = f"{acme.workspace_key}:monthly"
    retract(acme, 3, entry_of(acme, 3))
    members = acme.client.execute_command("ZRANGE", monthly, 0, -1)
    assert members == [f"{START_MS + DAY_MS}:40".encode()]


def test_the_time_to_wait_is_right_afterwards(acme: Driver, clock: DrivenClock) -> None:
    count(acme, clock, DAY_MS)
    acme.configure(2, {"limit.monthly": 503})
    retract(acme, 40, entry_of(acme, 40))
    monthly = PERIODS[-1]
    first_leaves_at = START_MS + monthly.bucket_ms + monthly.window_ms
    assert acme.usage().frees_at["monthly"] == first_leaves_at
    clock.set(first_leaves_at - 1)
    assert acme.usage().workspace.spent["monthly"] == 503
    clock.set(first_leaves_at)
    assert acme.usage().workspace.spent["monthly"] == 500
