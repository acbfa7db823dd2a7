"""Explaining a call: what check would say of it, with nothing held, created or remembered."""

from __future__ import annotations

import random

from limiter.periods import HOUR_MS, PERIOD_NAMES
from tests.support.answers import Admitted, Denied, Said
from tests.support.clock import DrivenClock
from tests.support.driver import MEMORY_MS, Argument, Driver, chat_state, parse, workspace_state
from tests.support.keyspace import dump

ROUNDS = 60


def explained(
    driver: Driver, estimate: Argument, chat: Argument = None
) -> tuple[Denied, list[object]]:
    """The verdict in the shape of a denial, and what else is said."""
    reply = driver.call("explain", MEMORY_MS, estimate, chat)
    assert reply[0] == b"explained", reply
    _, now, micros, violations, workspace, chats = reply
    verdict = parse([b"denied", now, micros, violations])
    assert isinstance(verdict, Denied)
    return verdict, [workspace_state(workspace), [chat_state(block) for block in chats]]


def test_it_is_what_a_check_says(acme: Driver, clock: DrivenClock) -> None:
    acme.configure(2, {"limit.hourly": 1_000, "limit.daily": 3_000, "default_estimate": 7})
    acme.record(1, "e-c1", chat="c1", limit=2_000, new=True)
    acme.record(1, "e-c2", chat="c2", parent="c1", new=True)
    rng = random.Random(7)
    verdicts = set()
    for number in range(ROUNDS):
        estimate = rng.choice([None, 0, 1, rng.randrange(1_500)])
        chat = rng.choice([None, "c1", "c2"])
        acme.usage()  # what is due is settled by whoever comes first
        before = dump(acme.client)
        verdict, counters = explained(acme, estimate, chat)
        assert dump(acme.client) == before
        usage = acme.usage(chat)
        assert counters == [usage.workspace, usage.chats]
        answer = acme.check(estimate, f"r{number}", chat=chat)
        verdicts.add(type(answer))
        if isinstance(answer, Denied):
            assert answer == verdict
            clock.advance(rng.randrange(HOUR_MS))
        else:
            assert isinstance(answer, Admitted)
            assert verdict.violations == []
            assert answer.held_micros == verdict.estimate
            if rng.random() < 0.5 and answer.reservation_id:
                acme.release(answer.reservation_id)
            acme.record(rng.randrange(300), f"e{number}", chat=chat)
    assert verdicts == {Admitted, Denied}


def test_what_is_due_is_settled_first(acme: Driver, clock: DrivenClock) -> None:
    acme.configure(2, {"limit.hourly": 10})
    acme.check(10, "r", hold_ms=1_000)
    verdict, _ = explained(acme, 1)
    assert [violation.retry_after_ms for violation in verdict.violations] == [1_000]
    clock.advance(1_000)
    verdict, (workspace, _) = explained(acme, 1)
    assert verdict.violations == []
    assert workspace == acme.usage().workspace
    assert acme.usage().workspace.held == 0


def test_nothing_is_made_by_asking(acme: Driver, cold: Driver) -> None:
    before = dump(acme.client)
    reply = parse(acme.call("explain", MEMORY_MS, 1, "unheard-of"))
    assert reply == Said("cold", ("chat", "unheard-of"))
    assert dump(acme.client) == before
    cold.forget()
    assert cold.call("explain", MEMORY_MS, 1, None) == [b"cold", b"workspace"]


def test_what_makes_no_sense_is_refused(acme: Driver) -> None:
    for estimate in ("-1", "1.5", "nan", str(2**53)):
        assert acme.call("explain", MEMORY_MS, estimate, None) == [b"invalid", b"estimate_micros"]
    assert acme.call("explain", MEMORY_MS, 1, "a:b") == [b"invalid", b"chat_id"]
    assert acme.call("explain", "0", 1, None) == [b"invalid", b"memory_ms"]
    acme.record(2**53 - 1, "e")
    assert acme.call("explain", MEMORY_MS, 1, None) == [b"counter_overflow"]
    assert set(acme.usage().workspace.spent) == set(PERIOD_NAMES)
