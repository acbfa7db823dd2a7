"""Looking at many workspaces and at holds: as `usage` has them, and nothing is changed by it."""

from __future__ import annotations

from typing import Any

import pytest

from limiter.periods import DAY_MS, HOUR_MS, PERIOD_NAMES, SECOND_MS
from tests.support.answers import WorkspaceState
from tests.support.clock import DrivenClock
from tests.support.driver import Driver, workspace_state
from tests.support.keyspace import dump

MINUTE_MS = 60 * SECOND_MS


def look(driver: Driver, name: str, *args: int | str, keys: tuple[str, ...] = ()) -> list[Any]:
    """Calls a script that must not change anything."""
    before = dump(driver.client)
    all_keys = keys or (driver.workspace_key,)
    reply: list[Any] = driver.client.execute_command(
        "EVAL", driver.scripts[name].text, len(all_keys), *all_keys, *args
    )
    assert dump(driver.client) == before
    return reply


def spend(acme: Driver, clock: DrivenClock) -> None:
    """Records over five weeks, and a hold that expires soon beside one that does not."""
    for number, pause_ms in enumerate((0, 30 * DAY_MS, 6 * DAY_MS, 23 * HOUR_MS, 50 * MINUTE_MS)):
        clock.advance(pause_ms)
        acme.record(10**number, f"e{number}")
    acme.check(7, "soon", hold_ms=MINUTE_MS)
    acme.check(50, "later", hold_ms=DAY_MS)


LATER_MS = [
    *[0, 59 * SECOND_MS, MINUTE_MS, 11 * MINUTE_MS, HOUR_MS + 30 * SECOND_MS, DAY_MS - 1, DAY_MS],
    *[8 * DAY_MS, 30 * DAY_MS, 30 * DAY_MS + 6 * HOUR_MS, 400 * DAY_MS],
]


@pytest.mark.parametrize("later_ms", LATER_MS)
def test_a_glance_is_what_usage_says(acme: Driver, clock: DrivenClock, later_ms: int) -> None:
    acme.configure(2, {"limit.hourly": 500_000, "limit.daily": 0})
    spend(acme, clock)
    clock.advance(later_ms)
    status, now, [block] = look(acme, "glance")
    assert (status, now) == (b"glanced", clock.now_ms)
    assert workspace_state(block) == acme.usage().workspace


@pytest.mark.parametrize("later_ms", [MINUTE_MS, DAY_MS])
def test_what_expiry_charges_stays_used(acme: Driver, clock: DrivenClock, later_ms: int) -> None:
    """Held until somebody calls, spent then: what is used of a limit is the same."""
    acme.configure(2, {"on_hold_expiry": "charge"})
    spend(acme, clock)
    clock.advance(later_ms)
    glanced = workspace_state(look(acme, "glance")[2][0])
    told = acme.usage().workspace
    assert used(glanced) == used(told)


def used(state: WorkspaceState) -> dict[str, int]:
    return {name: state.spent[name] + state.held for name in PERIOD_NAMES}


def test_many_are_looked_at_in_one_call(acme: Driver) -> None:
    acme.record(3, "e1")
    zeta = Driver(acme.client, acme.scripts, workspace_id="zeta")
    zeta.load({"limit.weekly": 40})
    cold = acme.names.workspace("cold")
    _, _, blocks = look(acme, "glance", keys=(zeta.workspace_key, cold, acme.workspace_key))
    assert blocks[1] == []
    assert workspace_state(blocks[0]).limits["weekly"] == 40
    assert workspace_state(blocks[2]).spent == dict.fromkeys(PERIOD_NAMES, 3)


def test_live_holds_are_listed_the_next_to_expire_first(acme: Driver, clock: DrivenClock) -> None:
    acme.check(9, "later", hold_ms=3_000, chat="c1", new=True)
    acme.check(5, "soon", hold_ms=1_000)
    acme.check(7, "middle", hold_ms=2_000)
    clock.advance(500)
    status, now, *holds = look(acme, "list_holds", 10)
    start = clock.now_ms - 500
    assert (status, now) == (b"holds", clock.now_ms)
    expected = [("soon", 5, "", 1_000), ("middle", 7, "", 2_000), ("later", 9, "c1", 3_000)]
    assert holds == [
        [name.encode(), str(micros).encode(), chat.encode(), str(start + ms).encode()]
        for name, micros, chat, ms in expected
    ]
    assert look(acme, "list_holds", 2)[2:] == holds[:2]
    clock.advance(500)
    assert look(acme, "list_holds", 10)[2:] == holds[1:]
    clock.advance(DAY_MS)
    assert look(acme, "list_holds", 10)[2:] == []


def test_what_cannot_be_listed_is_said(cold: Driver) -> None:
    assert look(cold, "list_holds", 10) == [b"cold"]
    for limit in ("0", "-1", "1.5", ""):
        assert look(cold, "list_holds", limit) == [b"invalid", b"limit"]
