"""Amounts are exact up to 2^53 - 1, and refused beyond."""

from __future__ import annotations

import pytest

from limiter.periods import DAY_MS, PERIOD_NAMES
from tests.support.answers import Admitted, Denied, Recorded, Said
from tests.support.clock import START_MS, DrivenClock
from tests.support.driver import HOLD_MS, Driver
from tests.support.keyspace import dump

MICROS_MAX = 2**53 - 1
AMOUNTS = [
    1,
    99_999_999_999_999,
    100_000_000_000_001,
    999_999_999_999_999,
    2**52 + 1,
    MICROS_MAX - 1,
    MICROS_MAX,
]

each_amount = pytest.mark.parametrize("micros", AMOUNTS)


@each_amount
def test_a_charge_is_exact_from_the_call_to_the_last_bucket(
    acme: Driver, clock: DrivenClock, micros: int
) -> None:
    answer = acme.record(micros, "e1", chat="c1", new=True)
    assert isinstance(answer, Recorded)
    assert answer.charged == micros
    usage = acme.usage("c1")
    assert usage.workspace.spent == dict.fromkeys(PERIOD_NAMES, micros)
    assert (usage.chats[0].spent, usage.chats[0].own) == (micros, micros)
    assert acme.entries()[-1][1]["charged"] == str(micros)
    raw = acme.client.execute_command("HGET", acme.workspace_key, "spent.hourly")
    assert raw == str(micros).encode()

    # The same in a closed bucket, and out of it again.
    clock.advance(DAY_MS)
    acme.record(0, "e2")
    assert acme.usage().workspace.spent["weekly"] == micros
    clock.advance(40 * DAY_MS)
    assert acme.usage().workspace.spent == dict.fromkeys(PERIOD_NAMES, 0)


@each_amount
def test_a_bucket_that_closes_keeps_the_amount(
    acme: Driver, clock: DrivenClock, micros: int
) -> None:
    acme.record(micros - 1, "e1")
    clock.advance(7 * DAY_MS)
    acme.record(1, "e2")
    spent = acme.usage().workspace.spent
    assert (spent["weekly"], spent["monthly"]) == (micros, micros)
    member = acme.client.execute_command("ZRANGE", f"{acme.workspace_key}:monthly", 0, -1)
    assert member == ([f"{START_MS}:{micros - 1}".encode()] if micros > 1 else [])


@each_amount
def test_a_hold_is_exact_and_so_is_its_end(acme: Driver, clock: DrivenClock, micros: int) -> None:
    acme.configure(2, {"limit.hourly": MICROS_MAX, "on_hold_expiry": "charge"})
    answer = acme.check(micros, "r1", chat="c1", limit=MICROS_MAX, new=True)
    assert isinstance(answer, Admitted)
    assert answer.held_micros == micros
    usage = acme.usage("c1")
    assert (usage.workspace.held, usage.chats[0].held) == (micros, micros)
    clock.advance(HOLD_MS)
    usage = acme.usage("c1")
    assert (usage.workspace.held, usage.chats[0].held) == (0, 0)
    assert (usage.workspace.spent["hourly"], usage.chats[0].spent) == (micros, micros)


@each_amount
def test_a_limit_is_exact(acme: Driver, micros: int) -> None:
    acme.configure(2, {"limit.monthly": micros})
    acme.record(micros - 1, "e1")
    assert isinstance(acme.check(2, "r1"), Denied)
    assert isinstance(acme.check(1, "r1"), Admitted)
    assert isinstance(acme.check(0, "r2"), Denied)


@each_amount
def test_what_is_loaded_is_exact(cold: Driver, micros: int) -> None:
    cold.load(
        {"limit.monthly": micros},
        windows={"monthly": [(START_MS, micros - 1)]},
        spent_at=START_MS,
        holds=[("r1", 1, START_MS + HOLD_MS, "c1", "f")],
    )
    cold.load_chat("c1", spent=micros - 1, own=micros - 1, held=1, limit=micros)
    usage = cold.usage("c1")
    assert usage.workspace.spent["monthly"] == micros - 1
    assert usage.workspace.limits["monthly"] == micros
    assert (usage.chats[0].spent, usage.chats[0].limit) == (micros - 1, micros)


def test_a_running_total_is_exact(acme: Driver) -> None:
    acme.record(MICROS_MAX - 3, "e1", source="s", stored_total=MICROS_MAX - 7)
    answer = acme.record(MICROS_MAX, "e2", source="s")
    assert isinstance(answer, Recorded)
    assert answer.charged == 3
    assert answer.workspace.spent["hourly"] == 7


@pytest.mark.parametrize("scope", ["workspace", "chat", "ancestor"])
def test_a_sum_beyond_is_refused_and_changes_nothing(acme: Driver, scope: str) -> None:
    """Whatever time has done to the windows, a chat still has all it ever spent."""
    acme.check(0, "r", chat="c1", new=True)
    acme.check(0, "r", chat="c2", parent="c1", new=True)
    named = {"workspace": None, "chat": "c1", "ancestor": "c2"}[scope]
    acme.record(MICROS_MAX - 1, "e1", chat=None if scope == "workspace" else "c1")
    acme.check(1, "r1", chat=named)
    before = dump(acme.client)
    assert acme.record(1, "e2", chat=named) == Said("counter_overflow")
    assert acme.check(1, "r2", chat=named) == Said("counter_overflow")
    assert acme.record(3, "e2", "r1") == Said("counter_overflow")
    assert dump(acme.client) == before
    assert isinstance(acme.record(1, "e2", "r1"), Recorded)
    assert acme.usage("c1").workspace.spent["hourly"] == MICROS_MAX


def test_loaded_sums_beyond_are_refused(cold: Driver) -> None:
    windows = {"weekly": [(START_MS, MICROS_MAX)]}
    holds = [("r1", 1, START_MS + HOLD_MS, "", "f")]
    before = dump(cold.client)
    answer = cold.load(windows=windows, spent_at=START_MS, holds=holds)
    assert answer == Said("invalid", ("sums",))
    assert dump(cold.client) == before
