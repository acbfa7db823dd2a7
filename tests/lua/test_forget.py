"""Forgetting: a workspace made cold comes back as durable storage knows it, all of it or none."""

from __future__ import annotations

import pytest

from limiter.periods import PERIOD_NAMES
from tests.support.answers import Admitted, Recorded, Said
from tests.support.clock import START_MS, DrivenClock
from tests.support.driver import HOLD_MS, Driver
from tests.support.keyspace import dump
from tests.support.ledger import Ledger

FORGOTTEN = Said("forgotten")
KEPT = Said("kept")


@pytest.fixture
def busy(acme: Driver) -> Driver:
    """Chat c2 below c1, spend in two buckets, a hold, a source that has reported."""
    acme.check(0, "r0", chat="c1", new=True)
    acme.record(30, "e1", chat="c2", parent="c1", new=True)
    acme.client.execute_command(*DrivenClock.command(START_MS + 60_000))
    acme.record(400, "e2", source="s", stored_total=0)
    acme.check(5, "r1", chat="c2")
    return acme


def fold(driver: Driver) -> Ledger:
    ledger = Ledger()
    ledger.add(fields for _, fields in driver.entries())
    return ledger


def test_all_of_a_workspace_is_cold_afterwards(busy: Driver) -> None:
    assert busy.forget() == FORGOTTEN
    assert busy.check(1, "r2") == Said("cold", ("workspace",))
    assert busy.load_chat("c1") == Said("stale")
    assert busy.forget() == Said("cold")
    busy.load()
    assert busy.usage().workspace.spent == dict.fromkeys(PERIOD_NAMES, 0)
    assert busy.usage().live_holds == 0
    anew = busy.check(5, "r1")
    assert isinstance(anew, Admitted)
    assert not anew.duplicate
    for chat in ("c1", "c2"):
        assert busy.check(1, "r2", chat=chat) == Said("cold", ("chat", chat))
    assert busy.record(500, "e3", source="s") == Said("cold", ("source", "s"))


def test_what_is_loaded_again_is_what_was_there(busy: Driver) -> None:
    before = busy.usage("c2")
    ledger = fold(busy)
    busy.forget()
    ledger.restore(busy, {})
    assert busy.usage("c2") == before
    again = busy.check(5, "r1", chat="c2")
    assert isinstance(again, Admitted)
    assert again.duplicate


def test_ids_are_remembered_all_the_same(busy: Driver) -> None:
    """They are what makes a retry harmless that comes while the workspace is loaded."""
    ledger = fold(busy)
    busy.forget()
    ledger.restore(busy, {})
    again = busy.record(30, "e1", chat="c2", parent="c1")
    assert isinstance(again, Recorded)
    assert again.duplicate


def test_a_chat_that_is_created_anew_has_nothing_of_an_earlier_one(busy: Driver) -> None:
    busy.configure(7, {"limit.lifetime": 99}, chat="c2")
    busy.forget()
    busy.load()
    busy.check(0, "r2", chat="c2", new=True)
    state = busy.usage("c2").chats[0]
    assert (state.parent, state.spent, state.own, state.held, state.limit) == ("", 0, 0, 0, None)
    assert busy.configure(1, {"limit.lifetime": 5}, chat="c2") == Said("configured")


def test_a_chat_that_is_loaded_anew_has_nothing_of_an_earlier_one(busy: Driver) -> None:
    busy.configure(7, {"limit.lifetime": 99}, chat="c2")
    busy.forget()
    busy.load()
    assert busy.load_chat("c2", spent=8, own=7) == Said("loaded")
    assert busy.load_chat("c2", spent=9) == Said("present")
    state = busy.usage("c2").chats[0]
    assert (state.parent, state.spent, state.own, state.held, state.limit) == ("", 8, 7, 0, None)


def test_a_source_that_is_loaded_anew_has_nothing_of_its_earlier_life(busy: Driver) -> None:
    busy.record(500, "e3", source="s", sequence=9)
    busy.forget()
    busy.load()
    charged = []
    for total, sequence in [(450, None), (460, 2)]:
        answer = busy.record(total, f"e{total}", source="s", sequence=sequence, stored_total=400)
        assert isinstance(answer, Recorded)
        charged.append(answer.charged)
    assert charged == [50, 10]


def test_only_a_workspace_that_is_behind_is_forgotten(busy: Driver) -> None:
    seq = int(busy.entries()[-1][1]["seq"])
    before = dump(busy.client)
    assert busy.forget(seq_below=seq) == KEPT
    assert dump(busy.client) == before
    assert busy.forget(seq_below=seq + 1) == FORGOTTEN


def test_only_a_workspace_that_is_idle_and_holds_nothing_is_forgotten(
    busy: Driver, clock: DrivenClock
) -> None:
    changed_at = START_MS + 60_000
    assert busy.forget(idle_since=changed_at) == KEPT
    busy.release("r1")
    assert busy.forget(idle_since=changed_at - 1) == KEPT
    before = dump(busy.client)
    assert busy.forget(idle_since=changed_at - 1) == KEPT
    assert dump(busy.client) == before
    clock.set(changed_at + HOLD_MS)
    assert busy.forget(idle_since=changed_at) == FORGOTTEN


def test_nothing_of_another_workspace_is_touched(busy: Driver) -> None:
    other = Driver(busy.client, busy.scripts, workspace_id="acme2")
    other.load()
    other.record(7, "e1", chat="c1", new=True)
    other.check(3, "r1", chat="c1")
    before = other.usage("c1")
    busy.forget()
    assert other.usage("c1") == before
