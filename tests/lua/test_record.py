"""Records: charged in full, exactly once, whatever became of the reservation."""

from __future__ import annotations

import pytest

from limiter.periods import PERIOD_NAMES
from tests.support.answers import Admitted, Denied, Recorded, Released, Said
from tests.support.clock import DrivenClock
from tests.support.driver import HOLD_MS, Argument, Driver
from tests.support.keyspace import dump


def recorded(answer: object) -> Recorded:
    assert isinstance(answer, Recorded), answer
    return answer


def spent(driver: Driver) -> int:
    """What the workspace spent, the same in every window as no time has passed."""
    (micros,) = set(driver.usage().workspace.spent.values())
    return micros


def test_a_record_charges_every_period_the_chat_and_its_ancestors(acme: Driver) -> None:
    acme.record(5, "e1", chat="c1", new=True)
    acme.record(7, "e2", chat="c2", parent="c1", new=True)
    acme.record(11, "e3")
    usage = acme.usage("c2")
    assert usage.workspace.spent == dict.fromkeys(PERIOD_NAMES, 23)
    assert [(chat.chat_id, chat.spent, chat.own) for chat in usage.chats] == [
        ("c2", 7, 7),
        ("c1", 12, 5),
    ]


@pytest.mark.parametrize("cost", [0, 3, 10, 25])
def test_a_record_ends_its_hold_and_charges_the_actual_cost(acme: Driver, cost: int) -> None:
    acme.configure(2, {"limit.daily": 20})
    acme.check(10, "r1", chat="c1", new=True)
    answer = recorded(acme.record(cost, "e1", "r1"))
    assert (answer.charged, answer.state) == (cost, "h")
    assert (answer.workspace.held, spent(acme)) == (0, cost)
    assert answer.chat is not None
    assert (answer.chat.chat_id, answer.chat.held, answer.chat.spent) == ("c1", 0, cost)
    assert isinstance(acme.check(1, "r2"), Admitted if cost < 20 else Denied)


def test_a_record_after_the_expiry_is_charged_in_full(acme: Driver, clock: DrivenClock) -> None:
    acme.check(10, "r1", chat="c1", new=True)
    clock.advance(HOLD_MS)
    answer = recorded(acme.record(10, "e1", "r1"))
    assert (answer.charged, answer.state) == (10, "e")
    assert answer.chat is not None
    assert (answer.chat.chat_id, answer.chat.spent) == ("c1", 10)
    assert (answer.workspace.held, spent(acme)) == (0, 10)


@pytest.mark.parametrize("own_id", [True, False])
def test_each_call_says_in_which_state_it_found_the_reservation(acme: Driver, own_id: bool) -> None:
    """Record twice, record after release, release after record, release twice."""

    def record(reservation_id: str, event_id: str) -> tuple[int, bool, str]:
        event_id = reservation_id if own_id else event_id
        answer = recorded(acme.record(4, event_id, reservation_id))
        return answer.charged, answer.duplicate, answer.state

    def release(reservation_id: str) -> tuple[int, str]:
        answer = acme.release(reservation_id)
        assert isinstance(answer, Released)
        return answer.micros, answer.state

    acme.check(9, "r1")
    assert record("r1", "e1") == (4, False, "h")
    assert record("r1", "e1") == (4, True, "h")
    assert release("r1") == (0, "r")

    acme.check(9, "r2")
    assert release("r2") == (9, "h")
    assert release("r2") == (0, "l")
    assert record("r2", "e2") == (4, False, "l")
    assert record("r2", "e2") == (4, True, "l")
    assert release("r2") == (0, "r")

    assert release("r3") == (0, "u")
    assert record("r3", "e3") == (4, False, "u")
    assert (acme.usage().workspace.held, spent(acme)) == (0, 12)


@pytest.mark.parametrize("own_id", [True, False])
def test_a_further_record_of_a_reservation_is_charged_to_its_chat(
    acme: Driver, own_id: bool
) -> None:
    acme.check(9, "r1", chat="c1", new=True)
    acme.record(4, "r1" if own_id else "e1", "r1")
    answer = recorded(acme.record(5, "e2", "r1"))
    assert (answer.charged, answer.state) == (5, "r")
    assert answer.chat is not None
    assert (answer.chat.chat_id, answer.chat.spent) == ("c1", 9)


@pytest.mark.parametrize("reservation_id", ["", "r1", "e1"])
def test_a_repeated_record_gives_the_first_answer_and_no_other_effect(
    acme: Driver, clock: DrivenClock, reservation_id: str
) -> None:
    acme.check(9, reservation_id or "other", chat="c1", new=True)
    first = recorded(acme.record(9, "e1", reservation_id))
    clock.advance(1_000)
    before = dump(acme.client)
    again = recorded(acme.record(9, "e1", reservation_id))
    assert dump(acme.client) == before
    assert again.duplicate
    assert (again.charged, again.state, again.chat) == (first.charged, first.state, first.chat)


def test_an_event_id_with_another_payload_is_refused(acme: Driver) -> None:
    acme.record(9, "e1", payload="one")
    before = dump(acme.client)
    assert acme.record(8, "e1", payload="another") == Said("id_reused")
    assert dump(acme.client) == before


def test_a_record_may_not_name_another_chat_than_its_hold(acme: Driver) -> None:
    acme.check(0, "r0", chat="c2", new=True)
    acme.check(9, "r1", chat="c1", new=True)
    before = dump(acme.client)
    assert acme.record(8, "e1", "r1", chat="c2") == Said("reservation_chat")
    assert dump(acme.client) == before


def test_limits_do_not_stop_a_record(acme: Driver) -> None:
    acme.configure(2, {"limit.hourly": 0, "limit.monthly": 3})
    assert recorded(acme.record(9, "e1", chat="c1", limit=2, new=True)).charged == 9
    assert spent(acme) == 9


@pytest.mark.parametrize("limit", [3, 100, 0, None])
def test_a_limit_can_be_changed_at_any_time_and_spend_stays(
    acme: Driver, limit: int | None
) -> None:
    """Lowered below the spend, raised, set to zero, removed: at once, and no counter moves."""
    acme.configure(2, {"limit.daily": 20})
    acme.record(9, "e1")
    acme.configure(3, {"limit.daily": limit})
    usage = acme.usage()
    assert (usage.workspace.limits["daily"], spent(acme)) == (limit, 9)
    is_open = limit is None or limit > 9
    assert isinstance(acme.check(1, "r1"), Admitted if is_open else Denied)


def test_records_without_a_price_are_counted(acme: Driver) -> None:
    for number, priced in enumerate([True, False, False]):
        acme.record(0, f"e{number}", priced=priced)
        acme.record(0, f"e{number}", priced=priced)
    assert acme.usage().unpriced == 2


# Each: running total, sequence number, what is charged for it.
REPORTS: dict[str, list[tuple[int, Argument, int]]] = {
    "growing": [(100, None, 100), (150, None, 50), (151, None, 1)],
    "repeated": [(100, None, 100), (100, None, 0), (100, None, 0), (120, None, 20)],
    "zero is no update": [(100, None, 100), (0, None, 0), (130, None, 30)],
    "nothing yet": [(0, None, 0), (40, None, 40)],
    "restarted": [(100, None, 100), (30, None, 30), (35, None, 5)],
    "restarted with numbers": [(100, 1, 100), (30, 2, 30), (35, 3, 5)],
    "out of order": [(100, 1, 100), (150, 3, 50), (120, 2, 0), (160, 4, 10)],
    "out of order twice": [(150, 3, 150), (120, 2, 0), (140, 3, 0), (160, 4, 10)],
    "repeated number": [(100, 1, 100), (100, 1, 0), (150, 1, 0), (150, 2, 50)],
    "numbers that stop": [(100, 5, 100), (150, None, 50), (120, 4, 0), (160, 6, 10)],
    "numbers that start": [(100, None, 100), (150, 1, 50), (120, 0, 0)],
}


@pytest.mark.parametrize("name", REPORTS)
def test_of_a_running_total_its_growth_is_charged(acme: Driver, name: str) -> None:
    charged = []
    for number, (total, sequence, _) in enumerate(REPORTS[name]):
        answer = acme.record(total, f"e{number}", source="s", sequence=sequence, stored_total=0)
        charged.append(recorded(answer).charged)
    assert charged == [growth for _, _, growth in REPORTS[name]]
    assert spent(acme) == sum(charged)


def test_a_report_that_says_nothing_new_is_no_entry_unless_it_ends_a_hold(acme: Driver) -> None:
    acme.record(100, "e1", source="s", stored_total=0)
    acme.check(9, "r1")
    acme.record(100, "e2", source="s")
    acme.record(100, "e3", "r1", source="s")
    acme.record(0, "e4", source="s")
    records = [fields for _, fields in acme.entries() if fields["type"] == "record"]
    assert [(fields["event"], fields["state"]) for fields in records] == [("e1", "-"), ("e3", "h")]
    assert [(fields["charged"], fields["total"]) for fields in records] == [
        ("100", "100"),
        ("0", "100"),
    ]
    assert acme.usage().workspace.held == 0


def test_each_source_has_its_own_total(acme: Driver) -> None:
    acme.record(100, "e1", source="s", stored_total=0)
    assert recorded(acme.record(40, "e2", source="t", stored_total=0)).charged == 40
    assert recorded(acme.record(110, "e3", source="s")).charged == 10


def test_a_source_that_is_cold_is_asked_for_and_taken_from_what_is_stored(acme: Driver) -> None:
    before = dump(acme.client)
    assert acme.record(100, "e1", source="s", sequence=8) == Said("cold", ("source", "s"))
    assert dump(acme.client) == before
    answer = acme.record(100, "e1", source="s", sequence=8, stored_total=70, stored_sequence=7)
    assert recorded(answer).charged == 30
    answer = acme.record(100, "e2", source="u", sequence=7, stored_total=70, stored_sequence=7)
    assert recorded(answer).charged == 0


def test_a_repeated_report_is_a_duplicate_of_its_event(acme: Driver) -> None:
    acme.record(100, "e1", source="s", stored_total=0)
    acme.record(150, "e2", source="s")
    again = recorded(acme.record(100, "e1", source="s"))
    assert (again.charged, again.duplicate) == (100, True)
    assert spent(acme) == 150
