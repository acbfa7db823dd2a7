"""Cold scopes: said and never taken for zero; put back only where absent, with every counter."""

from __future__ import annotations

import random

import pytest

from limiter.periods import DAY_MS, PERIODS
from tests.support.answers import Admitted, Answer, Denied, Recorded, Said, Usage
from tests.support.clock import START_MS, DrivenClock
from tests.support.driver import Driver
from tests.support.keyspace import dump
from tests.support.ledger import Ledger

COLD = Said("cold", ("workspace",))


def fold(driver: Driver) -> Ledger:
    ledger = Ledger()
    ledger.add(fields for _, fields in driver.entries())
    return ledger


@pytest.mark.parametrize(
    "call",
    [
        lambda driver: driver.check(5, "r1"),
        lambda driver: driver.record(5, "e1"),
        lambda driver: driver.release("r1"),
        lambda driver: driver.configure(1, {"limit.hourly": 5}),
    ],
    ids=["check", "record", "release", "configure"],
)
def test_a_cold_workspace_is_said_and_nothing_changes(cold: Driver, call: object) -> None:
    assert callable(call)
    before = dump(cold.client)
    answer: Answer = call(cold)
    assert answer in (COLD, Said("cold"))
    assert dump(cold.client) == before


def test_usage_of_what_is_cold_is_no_zero(cold: Driver) -> None:
    assert cold.call("usage", cold.memory_ms, "") == [b"cold", b"workspace"]
    cold.load()
    assert cold.call("usage", cold.memory_ms, "c1") == [b"cold", b"chat", b"c1", b"1"]
    assert cold.configure(1, {"limit.lifetime": 5}, chat="c1") == Said("cold")


@pytest.mark.parametrize("call", ["check", "record", "release"])
def test_an_ancestor_that_is_cold_is_named(acme: Driver, call: str) -> None:
    acme.check(0, "r", chat="c1", new=True)
    acme.check(5, "r1", chat="c2", parent="c1", new=True)
    acme.client.execute_command("DEL", acme.names.chat("acme", "c1"))
    answer = {
        "check": lambda: acme.check(5, "r2", chat="c2"),
        "record": lambda: acme.record(5, "e1", chat="c2"),
        "release": lambda: acme.release("r1"),
    }[call]()
    assert answer == Said("cold", ("chat", "c1"))


def test_a_hold_whose_chat_is_cold_expires_once_the_chat_is_back(
    acme: Driver, clock: DrivenClock
) -> None:
    acme.check(5, "r1", chat="c1", hold_ms=1_000, new=True)
    acme.client.execute_command("DEL", acme.names.chat("acme", "c1"))
    clock.advance(1_000)
    before = dump(acme.client)
    assert acme.check(1, "r2") == Said("cold", ("chat", "c1"))
    assert dump(acme.client) == before
    acme.load_chat("c1", held=5)
    assert isinstance(acme.check(1, "r2"), Admitted)
    assert acme.usage("c1").chats[0].held == 0


def test_what_is_there_is_not_loaded_over(acme: Driver) -> None:
    acme.record(5, "e1", chat="c1", new=True)
    before = dump(acme.client)
    assert acme.load({"limit.hourly": 1}, windows={"hourly": [(START_MS, 9)]}) == Said("present")
    assert acme.load_chat("c1", spent=9) == Said("present")
    assert dump(acme.client) == before


@pytest.mark.parametrize("seed", range(4))
def test_what_the_stream_told_brings_every_counter_back(
    acme: Driver, clock: DrivenClock, seed: int
) -> None:
    rng = random.Random(seed)
    config = {"limit.monthly": 10**9, "limit.hourly": 10**7, "default_estimate": 7}
    acme.configure(2, config)
    chats = ["", "c1", "c2", "c3"]
    for chat, parent in [("c1", ""), ("c2", "c1"), ("c3", "c2")]:
        acme.check(0, "r", chat=chat, parent=parent, new=True)
    for step in range(120):
        chat = rng.choice(chats)
        reservation_id = f"r{step}"
        acme.check(rng.randrange(1, 1_000), reservation_id, chat=chat, hold_ms=2 * DAY_MS)
        if rng.random() < 0.6:
            acme.record(rng.randrange(1_000), f"e{step}", reservation_id, priced=step % 5 > 0)
        elif rng.random() < 0.5:
            acme.release(reservation_id)
        else:
            acme.record(rng.randrange(1_000), f"e{step}", chat=chat)
        clock.advance(rng.choice([0, 1_000, 40_000, 700_000, 20_000_000]))
    acme.record(11, "last", chat="c2")
    before = [acme.usage(chat) for chat in chats]
    assert before[0].live_holds > 5
    assert before[0].workspace.spent["monthly"] > before[0].workspace.spent["hourly"] > 0

    ledger = fold(acme)
    acme.client.execute_command("FLUSHALL")
    clock.set(clock.now_ms)
    ledger.restore(acme, config, revision=2)
    assert [acme.usage(chat) for chat in chats] == before

    # And it goes on as if nothing had been: the same bucket, the same sequence, the same holds.
    acme.record(3, "next", chat="c3")
    usage = acme.usage("c3")
    assert usage.workspace.spent["hourly"] == before[0].workspace.spent["hourly"] + 3
    assert [state.spent for state in usage.chats] == [s.spent + 3 for s in before[3].chats]
    assert int(acme.entries()[-1][1]["seq"]) == ledger.seq + 1
    clock.advance(40 * DAY_MS)
    end = acme.usage("c1")
    assert end.workspace.spent == {period.name: 0 for period in PERIODS}
    assert (end.workspace.held, end.chats[0].held) == (0, 0)


def test_a_loaded_hold_is_the_same_reservation(cold: Driver) -> None:
    expires_at = START_MS + 60_000
    cold.load(holds=[("r1", 40, expires_at, "c1", "payload"), ("r2", 2, expires_at, "", "p")])
    cold.load_chat("c1", held=40)
    again = cold.check(40, "r1", chat="c1")
    assert isinstance(again, Admitted)
    assert (again.duplicate, again.held_micros, again.expires_at) == (True, 40, expires_at)
    assert cold.check(40, "r1", chat="c1", payload="another") == Said("id_reused")
    assert cold.usage("c1").workspace.held == 42
    settled = cold.record(30, "e1", "r1")
    assert isinstance(settled, Recorded)
    assert settled.state == "h"
    assert settled.chat is not None
    assert (settled.chat.held, settled.chat.spent) == (0, 30)


def test_buckets_that_have_left_are_not_loaded(cold: Driver, clock: DrivenClock) -> None:
    windows = {
        period.name: [
            (START_MS - period.window_ms - 2 * period.bucket_ms, 1),
            (START_MS - period.window_ms - period.bucket_ms, 10),
            (START_MS - period.window_ms, 100),
            (START_MS - period.bucket_ms, 1_000),
        ]
        for period in PERIODS
    }
    cold.load(windows=windows, spent_at=START_MS - 1, clock=START_MS - 1)
    assert set(cold.usage().workspace.spent.values()) == {1_100}
    for period in PERIODS:
        clock.set(START_MS + period.bucket_ms)
        assert cold.usage().workspace.spent[period.name] == 1_000


def test_a_loaded_bucket_goes_on_where_it_is_still_open(cold: Driver, clock: DrivenClock) -> None:
    windows = {period.name: [(START_MS, 7)] for period in PERIODS}
    cold.load(windows=windows, spent_at=START_MS, clock=START_MS)
    cold.record(7, "e1")
    assert set(cold.usage().workspace.spent.values()) == {14}
    clock.advance(DAY_MS)
    cold.record(1, "e2")
    member = cold.client.execute_command("ZRANGE", f"{cold.workspace_key}:weekly", 0, -1)
    assert member == [f"{START_MS}:14".encode()]
    clock.advance(40 * DAY_MS)
    assert set(cold.usage().workspace.spent.values()) == {0}


def test_time_does_not_step_back_behind_what_is_stored(cold: Driver) -> None:
    later = START_MS + 5_000
    cold.load(clock=later)
    usage = cold.usage()
    assert isinstance(usage, Usage)
    assert usage.now == later


def test_limits_hold_from_the_first_call_after_a_load(cold: Driver) -> None:
    cold.load({"limit.daily": 50}, windows={"daily": [(START_MS, 40)]}, spent_at=START_MS)
    cold.load_chat("c1", limit=9, spent=8)
    assert isinstance(cold.check(11, "r1"), Denied)
    assert isinstance(cold.check(2, "r1", chat="c1"), Denied)
    assert isinstance(cold.check(1, "r1", chat="c1"), Admitted)


@pytest.mark.parametrize("chat", [None, "c1"])
def test_only_a_newer_revision_changes_the_configuration(acme: Driver, chat: str | None) -> None:
    acme.load_chat("c1")
    field = "limit.lifetime" if chat else "limit.daily"

    def limit() -> int | None:
        usage = acme.usage("c1")
        return usage.chats[0].limit if chat else usage.workspace.limits["daily"]

    seen = []
    for revision, value in [(5, 50), (5, 51), (4, 40), (6, 60), (7, None), (6, 61)]:
        answer = acme.configure(revision, {field: value}, chat=chat)
        assert isinstance(answer, Said)
        seen.append((answer.status, limit()))
    assert seen == [
        *[("configured", 50), ("stale", 50), ("stale", 50)],
        *[("configured", 60), ("configured", None), ("stale", None)],
    ]


def test_a_loaded_revision_makes_older_ones_stale(cold: Driver) -> None:
    cold.load({"limit.daily": 50}, revision=5)
    cold.load_chat("c1", limit=50, revision=5)
    for chat, field in [(None, "limit.daily"), ("c1", "limit.lifetime")]:
        assert cold.configure(5, {field: 1}, chat=chat) == Said("stale")
        assert cold.configure(6, {field: 1}, chat=chat) == Said("configured")


def test_configuring_touches_only_what_it_names(acme: Driver) -> None:
    acme.configure(2, {"limit.hourly": 10, "limit.daily": 20, "default_estimate": 3})
    acme.record(5, "e1")
    acme.check(2, "r1")
    acme.configure(3, {"limit.daily": 30})
    workspace = acme.usage().workspace
    assert workspace.limits == {"hourly": 10, "daily": 30, "weekly": None, "monthly": None}
    assert (set(workspace.spent.values()), workspace.held) == ({5}, 2)


def loaded_anew(driver: Driver) -> int:
    """Makes the workspace cold, as a flush would, and loads it; returns its epoch before that."""
    before = driver.epoch
    driver.forget()
    assert driver.load() == Said("loaded")
    return before


def test_a_chat_that_was_read_for_an_earlier_life_is_not_loaded(acme: Driver) -> None:
    before = loaded_anew(acme)
    latest, acme.epoch = acme.epoch, before
    assert acme.load_chat("c1", spent=5) == Said("stale")
    acme.epoch = latest
    assert acme.check(1, "r1", chat="c1") == Said("cold", ("chat", "c1"))


@pytest.mark.parametrize("call", ["check", "record"])
def test_that_a_chat_is_new_is_believed_of_this_life_alone(acme: Driver, call: str) -> None:
    before = loaded_anew(acme)
    latest, acme.epoch = acme.epoch, before
    if call == "check":
        answer = acme.check(1, "r1", chat="c1", new=True)
    else:
        answer = acme.record(1, "e1", chat="c1", new=True)
    assert answer == Said("cold", ("chat", "c1"))
    acme.epoch = latest
    assert acme.entries() == []


def test_a_running_total_that_was_read_for_an_earlier_life_is_asked_for_again(acme: Driver) -> None:
    before = loaded_anew(acme)
    latest, acme.epoch = acme.epoch, before
    assert acme.record(10, "e1", source="s", stored_total=4) == Said("cold", ("source", "s"))
    acme.epoch = latest
    answer = acme.record(10, "e1", source="s", stored_total=7)
    assert isinstance(answer, Recorded)
    assert answer.charged == 3


def test_what_waits_in_the_ledger_is_loaded_as_charged_and_known(cold: Driver) -> None:
    cold.load(
        spent_at=START_MS,
        windows={period.name: [(START_MS - START_MS % period.bucket_ms, 7)] for period in PERIODS},
        events=[("e1", "payload", 7)],
    )
    answer = cold.record(7, "e1")
    assert isinstance(answer, Recorded)
    assert (answer.duplicate, answer.charged) == (True, 7)
    assert set(answer.workspace.spent.values()) == {7}
    assert cold.record(7, "e1", payload="another") == Said("id_reused")
