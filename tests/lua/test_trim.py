"""Trimming: what is in durable storage leaves the stream, and nothing that nobody has read."""

from __future__ import annotations

from typing import Any

from tests.support.clock import DrivenClock
from tests.support.driver import Driver


def ids(driver: Driver) -> list[str]:
    return [stream_id for stream_id, _ in driver.entries()]


def filled(driver: Driver, count: int) -> list[str]:
    """So many records; the ids of their entries."""
    for number in range(count):
        driver.record(1, f"e{number}")
    return ids(driver)


def trim(driver: Driver, first: str, last: str) -> list[Any]:
    return driver.call("trim", first, last)


def test_all_up_to_the_last_goes_and_the_rest_stays(acme: Driver) -> None:
    read = filled(acme, 5)
    assert trim(acme, read[0], read[2]) == [b"trimmed", 3]
    assert ids(acme) == read[3:]
    assert trim(acme, read[3], read[4]) == [b"trimmed", 2]
    assert ids(acme) == []


def test_what_came_since_it_was_read_stays(acme: Driver) -> None:
    read = filled(acme, 2)
    acme.record(1, "later")
    assert trim(acme, read[0], read[-1]) == [b"trimmed", 2]
    assert [fields["event"] for _, fields in acme.entries()] == ["later"]


def test_twice_is_once(acme: Driver) -> None:
    read = filled(acme, 3)
    assert trim(acme, read[0], read[1]) == [b"trimmed", 2]
    assert trim(acme, read[0], read[1]) == [b"trimmed", 0]
    assert ids(acme) == read[2:]


def test_an_entry_that_was_retracted_is_not_counted(acme: Driver) -> None:
    read = filled(acme, 3)
    acme.client.execute_command("XDEL", acme.stream_key, read[2])
    assert trim(acme, read[0], read[2]) == [b"trimmed", 2]
    assert ids(acme) == []


def test_a_stream_that_began_anew_with_a_clock_behind_keeps_what_nobody_has_read(
    acme: Driver, clock: DrivenClock
) -> None:
    """Its entries may be older, by their ids, than what was read before Redis was emptied."""
    read = filled(acme, 3)
    acme.client.execute_command("DEL", acme.stream_key)
    acme.client.execute_command("XADD", acme.stream_key, "1-1", "type", "news")
    assert trim(acme, read[0], read[-1]) == [b"trimmed", 0]
    assert ids(acme) == ["1-1"]


def test_no_stream_has_nothing(acme: Driver) -> None:
    acme.client.execute_command("DEL", acme.stream_key)
    assert trim(acme, "1-0", "2-0") == [b"trimmed", 0]
    assert acme.client.execute_command("EXISTS", acme.stream_key) == 0
