"""Holds: placed on every scope or on none, ended exactly once, expired by themselves."""

from __future__ import annotations

import pytest

from limiter.periods import PERIOD_NAMES
from tests.support.answers import Admitted, Denied, Recorded, Released, Said
from tests.support.clock import DrivenClock
from tests.support.commands import counted_commands
from tests.support.driver import HOLD_MS, Driver
from tests.support.keyspace import dump
from tests.support.servers import Server

MANY = 1_200


def chat_holds(driver: Driver, chat: str) -> list[int]:
    """What is held, from the chat up to its root."""
    return [state.held for state in driver.usage(chat).chats]


def test_a_hold_is_on_every_scope_and_leaves_every_scope(acme: Driver) -> None:
    acme.check(0, "r0", chat="c1", new=True)
    answer = acme.check(7, "r1", chat="c2", parent="c1", new=True)
    assert isinstance(answer, Admitted)
    assert (answer.reservation_id, answer.held_micros) == ("r1", 7)
    assert (acme.usage().workspace.held, chat_holds(acme, "c2")) == (7, [7, 7])
    assert isinstance(acme.release("r1"), Released)
    assert (acme.usage().workspace.held, chat_holds(acme, "c2")) == (0, [0, 0])


def test_a_denied_check_changes_nothing(acme: Driver) -> None:
    """Also where only the last scope denies, and where the chat would have been new."""
    acme.configure(2, {"limit.monthly": 5})
    acme.check(0, "r0", chat="c1", limit=100, new=True)
    before = dump(acme.client)
    answer = acme.check(6, "r1", chat="c2", parent="c1", limit=50, new=True)
    assert isinstance(answer, Denied)
    assert dump(acme.client) == before


def test_a_denied_check_names_the_chats_first_and_then_every_period(acme: Driver) -> None:
    acme.configure(2, {f"limit.{name}": 5 for name in PERIOD_NAMES})
    acme.check(0, "r0", chat="c1", limit=4, new=True)
    answer = acme.check(6, "r1", chat="c2", parent="c1", limit=3, new=True)
    assert isinstance(answer, Denied)
    found = [(violation.scope_id, violation.period) for violation in answer.violations]
    assert found == [
        *[("c2", "lifetime"), ("c1", "lifetime")],
        *[("", name) for name in PERIOD_NAMES],
    ]


@pytest.mark.parametrize(
    ("spent", "held", "estimate", "is_admitted"),
    [
        (0, 0, 10, True),
        (0, 0, 11, False),
        (6, 3, 1, True),
        (6, 3, 2, False),
        (6, 4, 0, False),
        (10, 0, 0, False),
        (9, 0, 0, True),
    ],
)
def test_a_limit_denies_when_it_is_reached_or_would_be_passed(
    acme: Driver, spent: int, held: int, estimate: int, is_admitted: bool
) -> None:
    acme.configure(2, {"limit.daily": 10})
    acme.record(spent, "e1")
    acme.check(held, "held")
    assert isinstance(acme.check(estimate, "asked"), Admitted) == is_admitted


def test_zero_blocks_everything_and_no_limit_blocks_nothing(acme: Driver) -> None:
    assert isinstance(acme.check(10**12, "r1"), Admitted)
    acme.configure(2, {"limit.hourly": 0})
    assert isinstance(acme.check(0, "r2"), Denied)
    acme.configure(3, {"limit.hourly": None})
    assert isinstance(acme.check(10**12, "r2"), Admitted)


def test_without_an_estimate_the_default_one_is_held(acme: Driver) -> None:
    acme.configure(2, {"default_estimate": 12})
    defaulted, given, none = acme.check(None, "r1"), acme.check(3, "r2"), acme.check(0, "r3")
    assert isinstance(defaulted, Admitted)
    assert isinstance(given, Admitted)
    assert isinstance(none, Admitted)
    assert [a.held_micros for a in (defaulted, given, none)] == [12, 3, 0]
    assert (none.reservation_id, none.expires_at) == ("", 0)


def test_a_retried_check_holds_once_and_answers_the_same(acme: Driver, clock: DrivenClock) -> None:
    first = acme.check(7, "r1")
    clock.advance(1_000)
    again = acme.check(7, "r1")
    assert isinstance(first, Admitted)
    assert isinstance(again, Admitted)
    assert again.duplicate
    assert (again.held_micros, again.expires_at) == (first.held_micros, first.expires_at)
    assert acme.usage().workspace.held == 7


def test_a_reservation_id_with_another_payload_is_refused(acme: Driver) -> None:
    acme.check(7, "r1", payload="one")
    before = dump(acme.client)
    assert acme.check(8, "r1", payload="another") == Said("id_reused")
    assert dump(acme.client) == before


def test_a_check_after_a_denial_is_evaluated_afresh(acme: Driver) -> None:
    acme.configure(2, {"limit.hourly": 5})
    assert isinstance(acme.check(6, "r1"), Denied)
    acme.configure(3, {"limit.hourly": 6})
    assert isinstance(acme.check(6, "r1"), Admitted)


@pytest.mark.parametrize(
    ("end", "letter"), [("record", "r"), ("record by its own id", "r"), ("release", "l")]
)
def test_a_check_of_a_settled_reservation_is_refused(acme: Driver, end: str, letter: str) -> None:
    acme.check(7, "r1")
    if end == "release":
        acme.release("r1")
    else:
        acme.record(7, "e1" if end == "record" else "r1", "r1")
    assert acme.check(7, "r1") == Said("settled", (letter,))


def test_a_hold_expires_by_itself_at_its_moment(acme: Driver, clock: DrivenClock) -> None:
    acme.check(7, "r1", chat="c1", new=True)
    clock.advance(HOLD_MS - 1)
    assert (acme.usage().workspace.held, chat_holds(acme, "c1")) == (7, [7])
    clock.advance(1)
    usage = acme.usage("c1")
    assert (usage.workspace.held, usage.live_holds, chat_holds(acme, "c1")) == (0, 0, [0])
    assert usage.workspace.spent == dict.fromkeys(PERIOD_NAMES, 0)
    assert acme.check(7, "r1") == Said("settled", ("e",))
    assert acme.release("r1") == Released(clock.now_ms, 0, "e")


def test_an_expiry_charges_where_the_workspace_says_so(acme: Driver, clock: DrivenClock) -> None:
    acme.configure(2, {"on_hold_expiry": "charge"})
    acme.check(0, "r0", chat="c1", new=True)
    acme.check(7, "r1", chat="c2", parent="c1", new=True)
    clock.advance(HOLD_MS)
    usage = acme.usage("c2")
    assert usage.workspace.held == 0
    assert usage.workspace.spent == dict.fromkeys(PERIOD_NAMES, 7)
    assert [(chat.spent, chat.own, chat.held) for chat in usage.chats] == [(7, 7, 0), (7, 0, 0)]


@pytest.mark.parametrize(("cost", "charged_more"), [(7, 0), (5, 0), (10, 3)])
def test_a_late_record_is_credited_what_the_expiry_was_charged(
    acme: Driver, clock: DrivenClock, cost: int, charged_more: int
) -> None:
    acme.configure(2, {"on_hold_expiry": "charge"})
    acme.check(7, "r1")
    clock.advance(HOLD_MS)
    late = acme.record(cost, "e1", "r1")
    assert isinstance(late, Recorded)
    assert (late.charged, late.state) == (charged_more, "e")
    again = acme.record(4, "e2", "r1")
    assert isinstance(again, Recorded)
    assert (again.charged, again.state) == (4, "r")


@pytest.mark.parametrize("policy", ["refund", "charge"])
def test_a_thousand_holds_that_expire_at_once_leave_exact_counters(
    acme: Driver, clock: DrivenClock, policy: str
) -> None:
    """More than one call may expire: the caller is asked to call again until none is due."""
    acme.configure(2, {"on_hold_expiry": policy})
    acme.check(0, "r", chat="c1", new=True)
    acme.check(0, "r", chat="c2", parent="c1", new=True)
    by_chat = {"": 0, "c1": 0, "c2": 0}
    for number in range(MANY):
        chat = list(by_chat)[number % 3]
        acme.check(number + 1, f"r{number}", fresh=True, chat=chat, hold_ms=1_000 + number)
        by_chat[chat] += number + 1
    everything = sum(by_chat.values())
    assert acme.usage().workspace.held == everything
    clock.advance(1_000 + MANY)

    assert acme.call("usage", acme.memory_ms, "") == [b"again"]
    usage = acme.usage("c2")
    assert acme.again_count == 1
    assert (usage.workspace.held, usage.live_holds) == (0, 0)
    share = 1 if policy == "charge" else 0
    assert usage.workspace.spent == dict.fromkeys(PERIOD_NAMES, share * everything)
    leaf, root = usage.chats
    assert (leaf.held, leaf.spent, leaf.own) == (0, share * by_chat["c2"], share * by_chat["c2"])
    assert root.held == 0
    assert root.spent == share * (by_chat["c1"] + by_chat["c2"])
    assert root.own == share * by_chat["c1"]
    expired = [fields for _, fields in acme.entries() if fields["type"] == "expire"]
    assert sum(int(fields["charged"]) for fields in expired) == share * everything
    assert len({fields["reservation"] for fields in expired}) == MANY
    assert acme.client.execute_command("KEYS", "*:hold:*") == []


def test_a_check_with_nothing_to_evict_touches_no_sorted_set(
    real_server: Server, acme: Driver, clock: DrivenClock
) -> None:
    acme.configure(2, {f"limit.{name}": 1_000_000 for name in PERIOD_NAMES})
    for step in range(50):
        acme.record(5, f"e{step}", chat="c1", new=step == 0)
        clock.advance(60_000)
    acme.check(5, "held", chat="c1")

    with counted_commands(real_server.client) as counts:
        assert isinstance(acme.check(0, "r1", chat="c1"), Admitted)
        assert isinstance(acme.check(5, "held", chat="c1", payload="other"), Said)
    assert counts["EVALSHA"] == 2
    assert {name for name in counts if name.startswith(("Z", "BZ"))} == set()

    with counted_commands(real_server.client) as counts:
        assert isinstance(acme.check(5, "r2", chat="c1"), Admitted)
    assert {name: n for name, n in counts.items() if name.startswith("Z")} == {"ZADD": 1}


def test_the_commands_of_a_check_do_not_grow_with_the_calls_before_it(
    real_server: Server, acme: Driver, clock: DrivenClock
) -> None:
    seen = []
    for step in range(300):
        acme.check(5, f"r{step}", fresh=True)
        acme.record(5, f"e{step}", f"r{step}", fresh=True)
        clock.advance(30_000)
        if step in (2, 299):
            acme.usage()
            with counted_commands(real_server.client) as counts:
                acme.check(5, "asked", hold_ms=1)
            seen.append(counts)
            acme.release("asked")
    assert seen[0] == seen[1]
