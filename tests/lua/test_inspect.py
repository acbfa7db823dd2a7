"""Inspecting and sweeping: what lies there is read as it is, and what nobody reads is removed."""

from __future__ import annotations

from typing import Any

from limiter.periods import DAY_MS, PERIOD_NAMES, PERIODS
from tests.support.clock import START_MS, DrivenClock
from tests.support.driver import Driver
from tests.support.keyspace import dump


def inspect(driver: Driver, *chats: str) -> list[Any]:
    return with_keys(driver, "inspect", *[driver.names.chat("acme", chat) for chat in chats])


def sweep(driver: Driver, *keys: str) -> list[Any]:
    return with_keys(driver, "sweep", *keys)


def with_keys(driver: Driver, name: str, *keys: str) -> list[Any]:
    """Calls a script that takes keys alone."""
    text = driver.scripts[name].text
    all_keys = [driver.workspace_key, *keys]
    reply: list[Any] = driver.client.execute_command("EVAL", text, len(all_keys), *all_keys)
    return reply


def keys_of_chats_and_sources(driver: Driver) -> list[str]:
    found = driver.client.execute_command("KEYS", "*:acme:[cs][ho]*:*")
    return sorted(key.decode() for key in found)


def test_it_reads_every_counter_and_changes_none(acme: Driver, clock: DrivenClock) -> None:
    acme.record(30, "e1", chat="c1", priced=False, new=True)
    clock.advance(DAY_MS)
    acme.record(400, "e2")
    acme.check(5, "r1", chat="c1")
    clock.advance(7)
    before = dump(acme.client)
    status, epoch, seq, changed, held, holds, unpriced, windows, chats, now = inspect(
        acme, "c1", "c2"
    )
    assert dump(acme.client) == before
    assert [status, epoch, seq, int(changed)] == [b"inspected", b"1", b"4", START_MS + DAY_MS]
    assert int(now) == START_MS + DAY_MS + 7
    assert [held, holds, unpriced] == [b"5", b"1", b"1"]
    assert chats == [[b"30", b"30", b"5"], []]
    spent = {"hourly": 400, "daily": 430, "weekly": 430, "monthly": 430}
    for period, (total, open_start, open_micros, *closed) in zip(PERIODS, windows, strict=True):
        assert int(total) == spent[period.name]
        assert int(open_start) == int(changed) - int(changed) % period.bucket_ms
        assert int(open_micros) == 400
        assert closed == ([] if period.name == "hourly" else [f"{START_MS}:30".encode()])


def test_nothing_leaves_and_nothing_expires_by_being_looked_at(
    acme: Driver, clock: DrivenClock
) -> None:
    acme.record(30, "e1")
    acme.check(5, "r1")
    clock.advance(40 * DAY_MS)
    before = dump(acme.client)
    windows = inspect(acme)[7]
    assert [int(window[0]) for window in windows] == [30] * len(PERIOD_NAMES)
    assert dump(acme.client) == before


def test_large_numbers_are_exact(acme: Driver) -> None:
    micros = 2**53 - 1
    acme.record(micros, "e1", chat="c1", new=True)
    reply = inspect(acme, "c1")
    assert {int(window[0]) for window in reply[7]} == {micros}
    assert [int(part) for part in reply[8][0]] == [micros, micros, 0]


def test_what_is_cold_is_said(cold: Driver) -> None:
    assert inspect(cold, "c1") == [b"cold"]


def test_a_sweep_removes_what_an_earlier_epoch_left_and_nothing_else(acme: Driver) -> None:
    for chat in ("c1", "c2"):
        acme.record(3, f"e-{chat}", chat=chat, new=True)
    for source in ("s", "t"):
        acme.record(5, f"e-{source}", source=source, stored_total=0)
    keys = keys_of_chats_and_sources(acme)
    assert len(keys) == 4
    before = dump(acme.client)
    assert sweep(acme, *keys) == [b"swept", 0]
    assert dump(acme.client) == before

    acme.forget()
    acme.load()
    acme.load_chat("c2", spent=3)
    acme.record(9, "e-t2", source="t", stored_total=5)
    assert sweep(acme, *keys) == [b"swept", 2]
    assert keys_of_chats_and_sources(acme) == [acme.names.chat("acme", "c2"), keys[3]]
    acme.forget()
    assert sweep(acme, *keys) == [b"swept", 2]
    assert keys_of_chats_and_sources(acme) == []
