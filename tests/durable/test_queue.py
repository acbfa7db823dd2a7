"""Records while Redis is away: in the ledger at once, and as Redis made them in the end."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from limiter.durable import Queued, Storage
from limiter.durable.fold import SETTLE_SLACK_MS
from limiter.durable.ledger import NO_PARTITION
from limiter.durable.queue import increment
from limiter.errors import (
    ChatCycle,
    ChatParentImmutable,
    ChatParentUnknown,
    CounterOverflow,
    IdReused,
    ReservationChatMismatch,
    WorkspaceNotFound,
)
from limiter.models import HOLD_MS_MAX
from limiter.money import MICROS_MAX
from limiter.periods import DAY_MS, HOUR_MS
from limiter.stored import ResolvedRecord, StoredEvent, StoredSource, StoredWorkspace
from tests.durable.stream import START_MS, UNLIMITED, Stream, chat_of

MINUTE_MS = 60_000


@pytest.fixture
async def acme(storage: Storage) -> Storage:
    await storage.create_workspace("acme", UNLIMITED, actor="test")
    return storage


def queued(event_id: str, cost: int, **fields: Any) -> ResolvedRecord:
    return ResolvedRecord(
        workspace_id="acme", event_id=event_id, cost_micros=cost, fingerprint="fp", **fields
    )


async def workspace_of(storage: Storage) -> StoredWorkspace:
    workspace = await storage.workspace("acme")
    assert workspace is not None
    assert await storage.drift("acme") == []
    return workspace


async def hourly(storage: Storage) -> list[tuple[int, int]]:
    """By the ledger, and so by its aggregates: what waits for Redis is counted."""
    assert await storage.drift("acme") == []
    recomputed = await storage.recompute("acme")
    assert recomputed is not None
    return list(recomputed.windows["hourly"])


async def spent(storage: Storage, chat_id: str) -> int:
    """By the ledger, like `hourly`."""
    recomputed = await storage.recompute("acme")
    assert recomputed is not None
    return recomputed.chats[chat_id].spent_micros


async def test_a_queued_record_counts_at_once_and_waits_for_redis(acme: Storage) -> None:
    record = queued("e1", 9, chat_id="c1", data="{}", priced=False)
    answer = await acme.queue_record(record, now_ms=START_MS)
    assert answer == Queued(inserted=True, charged_micros=9, chat_id="c1", reservation_state=None)
    assert await hourly(acme) == [(START_MS, 9)]
    assert await spent(acme, "c1") == 9
    [waiting] = await acme.unapplied()
    assert waiting.record == record
    [row] = [row async for row in acme.ledger_rows("acme")]
    assert (row.id, row.applied) == (waiting.id, False)


async def test_redis_is_loaded_without_what_it_is_still_to_be_told_of(acme: Storage) -> None:
    """It will charge that itself; loaded with it, it would have it twice."""
    stream = Stream()
    batch = [stream.chat("root"), stream.chat("leaf", "root"), stream.chat("other", "root")]
    batch += [stream.record("e1", 1, chat="leaf", source="s", total=1, priced=False)]
    await acme.apply(batch)
    before = await workspace_of(acme)
    chats = [await chat_of(acme, name) for name in ("root", "leaf", "other")]
    await acme.queue_record(
        queued("e2", 9, chat_id="leaf", source="s", priced=False), now_ms=START_MS
    )
    await acme.queue_record(queued("e3", 4), now_ms=START_MS)
    after = await workspace_of(acme)
    assert after == replace(before, events=[StoredEvent("e2", "fp", 8), StoredEvent("e3", "fp", 4)])
    assert [await chat_of(acme, name) for name in ("root", "leaf", "other")] == chats
    assert await acme.source("acme", "s") == StoredSource(1, None)
    # Once told, it is loaded with all of it.
    waiting = await acme.unapplied()
    await acme.mark_applied([row.id for row in waiting], now_ms=START_MS)
    told = await workspace_of(acme)
    assert (told.windows["hourly"], told.unpriced_records) == ([(START_MS, 13)], 2)
    assert [(await chat_of(acme, name)).spent_micros for name in ("root", "leaf", "other")] == [
        9,
        9,
        0,
    ]


async def test_time_does_not_go_back(acme: Storage) -> None:
    await acme.apply([Stream(at_ms=START_MS + HOUR_MS).record("e1", 1)])
    await acme.queue_record(queued("e2", 2), now_ms=START_MS)
    assert await hourly(acme) == [(START_MS + HOUR_MS, 3)]


async def test_the_wall_clock_serves_where_none_is_given(acme: Storage) -> None:
    await acme.queue_record(queued("e1", 1))
    assert (await workspace_of(acme)).clock_ms > START_MS


async def test_the_same_record_again_is_answered_and_not_charged(acme: Storage) -> None:
    await acme.queue_record(queued("e1", 9, reservation_id="r1"), now_ms=START_MS)
    again = await acme.queue_record(queued("e1", 9, reservation_id="r1"), now_ms=START_MS + 5)
    assert again == Queued(
        inserted=False, charged_micros=9, chat_id=None, reservation_state="unknown"
    )
    assert await hourly(acme) == [(START_MS, 9)]
    with pytest.raises(IdReused):
        await acme.queue_record(
            ResolvedRecord(workspace_id="acme", event_id="e1", fingerprint="other", cost_micros=9)
        )


async def test_what_the_ledger_has_from_redis_is_not_queued(acme: Storage) -> None:
    await acme.apply([Stream().record("e1", 5)])
    assert not (await acme.queue_record(queued("e1", 5))).inserted
    assert await acme.unapplied() == []


async def test_concurrent_calls_of_two_storages_charge_once(acme: Storage, store_url: str) -> None:
    async with Storage(store_url) as other:
        answers = await asyncio.gather(
            *(each.queue_record(queued("e1", 9), now_ms=START_MS) for each in [acme, other] * 10)
        )
    assert sum(answer.inserted for answer in answers) == 1
    assert await hourly(acme) == [(START_MS, 9)]


async def test_an_unknown_workspace_is_refused(storage: Storage) -> None:
    with pytest.raises(WorkspaceNotFound):
        await storage.queue_record(queued("e1", 9))


async def test_the_range_of_exact_sums_is_not_left(acme: Storage) -> None:
    stream = Stream()
    await acme.apply([stream.chat("c1"), stream.hold("r1", 3), stream.hold("r2", 4, chat="c1")])
    most = MICROS_MAX - 7
    for chat_id in (None, "c1"):
        with pytest.raises(CounterOverflow):
            await acme.queue_record(queued("e1", most + 1, chat_id=chat_id), now_ms=START_MS)
    await acme.queue_record(queued("e1", most), now_ms=START_MS)
    with pytest.raises(CounterOverflow):
        await acme.queue_record(queued("e2", 1), now_ms=START_MS)
    assert await hourly(acme) == [(START_MS, most)]


# --------------------------------------------------------------------------- reservations


async def test_a_queued_record_ends_its_reservation(acme: Storage) -> None:
    stream = Stream()
    await acme.apply([stream.chat("c1"), stream.hold("r1", 9, chat="c1")])
    answer = await acme.queue_record(queued("e1", 5, reservation_id="r1"), now_ms=START_MS)
    assert (answer.reservation_state, answer.chat_id) == ("held", "c1")
    assert (await workspace_of(acme)).holds == []
    assert await spent(acme, "c1") == 5
    assert (await chat_of(acme, "c1")).held_micros == 0


async def test_the_news_of_its_hold_may_come_after(acme: Storage) -> None:
    stream = Stream()
    created, hold = stream.chat("c1"), stream.hold("r1", 9, chat="c1")
    answer = await acme.queue_record(
        queued("e1", 5, reservation_id="r1", chat_id="c1"), now_ms=START_MS + 50
    )
    assert answer.reservation_state == "unknown"
    await acme.apply([created, hold])
    assert (await workspace_of(acme)).holds == []
    assert (await chat_of(acme, "c1")).held_micros == 0


async def test_another_chat_than_the_reservations_is_refused(acme: Storage) -> None:
    stream = Stream()
    await acme.apply([stream.hold("r1", 9, chat="c1"), stream.hold("r2", 9)])
    for reservation_id in ("r1", "r2"):
        with pytest.raises(ReservationChatMismatch):
            await acme.queue_record(queued("e1", 5, reservation_id=reservation_id, chat_id="c2"))
    assert await hourly(acme) == []


async def test_an_expired_hold_that_was_charged_is_credited_once(acme: Storage) -> None:
    stream = Stream()
    await acme.apply([stream.hold("r1", 9), stream.expire("r1", charged=9)])
    late = await acme.queue_record(queued("e1", 12, reservation_id="r1"), now_ms=START_MS)
    assert (late.charged_micros, late.reservation_state) == (3, "expired")
    # Redis is told the whole cost, as it knows of the expiry itself.
    assert [waiting.record.cost_micros for waiting in await acme.unapplied()] == [12]
    second = await acme.queue_record(queued("e2", 4, reservation_id="r1"), now_ms=START_MS)
    assert (second.charged_micros, second.reservation_state) == (4, "recorded")
    assert await hourly(acme) == [(START_MS, 16)]


async def test_an_ended_hold_is_kept_as_long_as_news_of_it_may_come(acme: Storage) -> None:
    stream = Stream()
    hold = stream.hold("r1", 9, hold_ms=HOLD_MS_MAX)
    await acme.queue_record(queued("e1", 5, reservation_id="r1"), now_ms=START_MS + 50)
    stream.at_ms += HOLD_MS_MAX
    await acme.apply([stream.release("r0")])
    assert await acme.prune(400 * DAY_MS, 100) == 0
    await acme.apply([hold])
    assert (await workspace_of(acme)).holds == []


# --------------------------------------------------------------------------- sources


@pytest.mark.parametrize(
    ("total", "sequence", "known", "known_sequence", "charged", "kept", "kept_sequence"),
    [
        (10, None, 0, None, 10, 10, None),
        (15, None, 10, None, 5, 15, None),
        (15, None, 15, None, 0, 15, None),
        (0, None, 15, None, 0, 15, None),
        (4, None, 15, None, 4, 4, None),  # it restarted
        (15, 2, 10, 1, 5, 15, 2),
        (4, 3, 15, 2, 4, 4, 3),  # it restarted, and says so
        (4, 2, 15, 2, 0, 15, 2),  # it is late
        (20, 1, 15, 2, 0, 15, 2),  # it is late
        (20, None, 15, 2, 5, 20, 2),
    ],
)
def test_increments(
    total: int,
    sequence: int | None,
    known: int,
    known_sequence: int | None,
    charged: int,
    kept: int,
    kept_sequence: int | None,
) -> None:
    assert increment(total, sequence, known, known_sequence) == (charged, kept, kept_sequence)


async def test_a_running_total_charges_what_it_grew_by(acme: Storage) -> None:
    await acme.apply([Stream().record("e1", 10, source="s", total=10)])
    answer = await acme.queue_record(queued("e2", 15, source="s"), now_ms=START_MS)
    assert answer.charged_micros == 5
    answer = await acme.queue_record(queued("e3", 18, source="s", sequence=4), now_ms=START_MS)
    assert answer.charged_micros == 3
    answer = await acme.queue_record(queued("e4", 2, source="s", sequence=3), now_ms=START_MS)
    assert answer.charged_micros == 0
    reports = [(row.record.cost_micros, row.record.sequence) for row in await acme.unapplied()]
    assert reports == [(15, None), (18, 4), (2, 3)]


async def test_a_source_that_redis_never_told_of(acme: Storage) -> None:
    await acme.queue_record(queued("e1", 15, source="s"), now_ms=START_MS)
    assert await acme.source("acme", "s") is None
    await acme.queue_record(queued("e2", 20, source="s"), now_ms=START_MS)
    assert await hourly(acme) == [(START_MS, 20)]


async def test_entries_know_better_than_a_total_that_was_queued(acme: Storage) -> None:
    stream = Stream()
    await acme.apply([stream.record("e1", 10, source="s", total=10)])
    undrained = stream.record("e2", 30, source="s", total=40)
    # The store does not know of the 40 yet, so 50 looks like 40 more.
    await acme.queue_record(queued("e3", 50, source="s"), now_ms=START_MS + MINUTE_MS)
    await acme.apply([undrained])
    assert await acme.source("acme", "s") == StoredSource(40, None)
    # What comes next is worked out from the 40; and Redis then charges 10, which is what stands.
    await acme.apply([stream.record("e3", 10, source="s", total=50)])
    assert await acme.source("acme", "s") == StoredSource(50, None)
    assert sum(micros for _, micros in await hourly(acme)) == 50
    assert await acme.unapplied() == []


# --------------------------------------------------------------------------- chats


async def test_a_queued_record_creates_its_chat(acme: Storage) -> None:
    await acme.apply([Stream().chat("root")])
    await acme.queue_record(
        queued("e1", 5, chat_id="leaf", parent_chat_id="root", spend_limit_micros=50)
    )
    leaf = await chat_of(acme, "leaf")
    assert (leaf.parent_chat_id, leaf.depth, leaf.limit_micros) == ("root", 2, 50)
    assert await spent(acme, "root") == 5
    # Later ones need not say where it is, and their limit is not taken.
    await acme.queue_record(queued("e2", 5, chat_id="leaf", spend_limit_micros=9))
    assert (await chat_of(acme, "leaf")).limit_micros == 50
    assert await spent(acme, "root") == 10
    await workspace_of(acme)


async def test_redis_knows_better_where_a_chat_is(acme: Storage) -> None:
    stream = Stream()
    undrained = [stream.chat("root"), stream.chat("leaf", "root", limit=70)]
    await acme.queue_record(queued("e1", 5, chat_id="leaf"))
    assert (await chat_of(acme, "leaf")).parent_chat_id is None
    await acme.apply(undrained)
    leaf = await chat_of(acme, "leaf")
    assert (leaf.parent_chat_id, leaf.depth, leaf.limit_micros) == ("root", 2, 70)
    assert await spent(acme, "root") == 5
    await workspace_of(acme)


async def test_a_queued_records_chat_is_placed_once_however_often_its_place_is_told(
    acme: Storage,
) -> None:
    stream = Stream()
    await acme.apply([stream.chat("root"), stream.chat("other"), stream.hold("r1", 3, chat="leaf")])

    async def queue(event_id: str, cost: int) -> None:
        record = queued(event_id, cost, chat_id="leaf", parent_chat_id="root")
        await acme.queue_record(record, now_ms=START_MS)

    async def sums() -> dict[str, tuple[int, int]]:
        assert await acme.drift("acme") == []
        waiting = await acme.unapplied()
        await acme.mark_applied([row.id for row in waiting], now_ms=START_MS)
        found = [await chat_of(acme, name) for name in ("root", "leaf", "other")]
        return {chat.chat_id: (chat.spent_micros, chat.held_micros) for chat in found}

    await queue("e1", 5)
    await queue("e2", 4)
    assert await sums() == {"root": (9, 3), "leaf": (9, 3), "other": (0, 0)}
    # Redis tells of the same place.
    await acme.apply([stream.chat("leaf", "root")])
    assert await sums() == {"root": (9, 3), "leaf": (9, 3), "other": (0, 0)}
    await queue("e3", 1)
    assert await sums() == {"root": (10, 3), "leaf": (10, 3), "other": (0, 0)}


async def test_a_queued_records_chat_moves_with_all_it_spent_where_redis_has_it(
    acme: Storage,
) -> None:
    stream = Stream()
    await acme.apply([stream.chat("root"), stream.chat("other"), stream.hold("r1", 3, chat="leaf")])
    for event_id in ("e1", "e2"):
        record = queued(event_id, 5, chat_id="leaf", parent_chat_id="root")
        await acme.queue_record(record, now_ms=START_MS)
    waiting = await acme.unapplied()
    await acme.mark_applied([row.id for row in waiting], now_ms=START_MS)
    await acme.apply([stream.chat("leaf", "other")])
    assert await acme.drift("acme") == []
    found = [await chat_of(acme, name) for name in ("root", "leaf", "other")]
    assert [(chat.spent_micros, chat.held_micros) for chat in found] == [(0, 0), (10, 3), (10, 3)]


async def test_trees_stay_trees(acme: Storage) -> None:
    stream = Stream()
    await acme.apply([stream.chat("root"), stream.chat("leaf", "root")])
    refused = [
        ("leaf", "other", ChatParentImmutable),
        ("new", "none", ChatParentUnknown),
        ("new", "new", ChatCycle),
    ]
    for chat_id, parent, error in refused:
        with pytest.raises(error):
            await acme.queue_record(queued("e1", 5, chat_id=chat_id, parent_chat_id=parent))
    assert await hourly(acme) == []


# --------------------------------------------------------------------------- back to Redis


async def test_the_entry_of_a_queued_record_takes_its_place(acme: Storage) -> None:
    stream = Stream(at_ms=START_MS + HOUR_MS)
    await acme.queue_record(queued("e1", 9, chat_id="c1"), now_ms=START_MS)
    entry = stream.record("e1", 9, chat="c1")
    applied = await acme.apply([entry])
    assert (applied.inserted, applied.duplicates) == (0, [])
    # It counts when Redis counted it: its windows, and these, then lose it at the same moment.
    assert await hourly(acme) == [(START_MS + HOUR_MS, 9)]
    assert await acme.unapplied() == []
    assert (await workspace_of(acme)).events == []
    assert (await chat_of(acme, "c1")).spent_micros == 9
    for again in ([entry], [entry, entry]):
        applied = await acme.apply(again)
        assert (applied.inserted, applied.duplicates) == (0, [])
    assert await hourly(acme) == [(START_MS + HOUR_MS, 9)]


async def test_marking_and_the_entry_may_come_in_any_order(acme: Storage) -> None:
    stream = Stream()
    for event_id in ("e1", "e2"):
        await acme.queue_record(queued(event_id, 9), now_ms=START_MS)
    first, second = await acme.unapplied()
    entries = [stream.record("e1", 9), stream.record("e2", 9)]
    await acme.apply(entries[:1])
    await acme.mark_applied([first.id, second.id], now_ms=START_MS + 5)
    assert await acme.unapplied() == []
    applied = await acme.apply(entries)
    assert (applied.inserted, applied.duplicates) == (0, [])
    assert await hourly(acme) == [(START_MS, 18)]


async def test_a_charge_long_after_marking_is_a_second_one(acme: Storage) -> None:
    """Redis was loaded with the sums, so no entry came; then it forgot the id."""
    await acme.queue_record(queued("e1", 9), now_ms=START_MS)
    [waiting] = await acme.unapplied()
    await acme.mark_applied([waiting.id], now_ms=START_MS + 5)
    stream = Stream(at_ms=START_MS + 5 + SETTLE_SLACK_MS + 1)
    applied = await acme.apply([stream.record("e1", 9)])
    assert [duplicate.event_id for duplicate in applied.duplicates] == ["e1"]
    assert await hourly(acme) == [(START_MS, 9)]


async def test_what_redis_charged_instead_counts(acme: Storage) -> None:
    await acme.queue_record(queued("e1", 9, chat_id="c1"), now_ms=START_MS)
    await acme.queue_record(queued("e2", 4), now_ms=START_MS)
    first, second = await acme.unapplied(limit=10)
    await acme.mark_applied([first.id, second.id], charged_micros={first.id: 0}, now_ms=START_MS)
    assert await hourly(acme) == [(START_MS, 4)]
    assert (await chat_of(acme, "c1")).spent_micros == 0
    await acme.mark_applied([first.id], charged_micros={first.id: 7}, now_ms=START_MS)
    assert await hourly(acme) == [(START_MS, 4)]


async def test_a_row_that_is_given_up_counts_waits_no_more_and_takes_no_entry(
    acme: Storage,
) -> None:
    stream = Stream()
    await acme.apply([stream.record("e0", 1)])
    for event_id in ("e1", "e2"):
        await acme.queue_record(queued(event_id, 9, chat_id="c1", priced=False), now_ms=START_MS)
    first, second = await acme.unapplied()
    assert await acme.give_up({first.id: "why", 12345: "nobody's"}) == {"acme"}
    assert [row.id for row in await acme.unapplied()] == [second.id]
    [letter] = await acme.dead_letters()
    assert (letter.partition, letter.stream_id, letter.reason) == (NO_PARTITION, "acme:e1", "why")
    assert json.loads(letter.fields)["charged_micros"] == "9"
    workspace = await workspace_of(acme)
    # It is loaded with it, and whatever Redis has is behind that.
    assert workspace.windows["hourly"] == [(START_MS, 10)]
    assert (workspace.seq, workspace.unpriced_records) == (stream.seq + 1, 1)
    assert (await chat_of(acme, "c1")).spent_micros == 9
    # A charge of it that Redis makes after all is one too many.
    applied = await acme.apply([stream.record("e1", 9), stream.record("e2", 9)])
    assert [duplicate.event_id for duplicate in applied.duplicates] == ["e1"]
    assert applied.rewound == {"acme"}
    assert await hourly(acme) == [(START_MS, 19)]


async def test_only_rows_that_wait_are_given_up(acme: Storage) -> None:
    stream = Stream()
    for event_id in ("e1", "e2"):
        await acme.queue_record(queued(event_id, 9), now_ms=START_MS)
    reasons = {row.id: "why" for row in await acme.unapplied()}
    await acme.apply([stream.record("e1", 9)])
    await acme.mark_applied(list(reasons), now_ms=START_MS)
    assert await acme.give_up(reasons) == set()
    assert await acme.give_up({}) == set()
    assert await acme.dead_letters() == []
    assert (await workspace_of(acme)).seq == stream.seq


async def test_marking_nothing_is_harmless(acme: Storage) -> None:
    await acme.mark_applied([])
    await acme.mark_applied([12345])
    assert (await workspace_of(acme)).windows["hourly"] == []


async def test_a_record_that_redis_had_made_before_it_went_away(acme: Storage) -> None:
    """Its answer was lost, so it was queued; its entry was still in the stream."""
    stream = Stream()
    entry = stream.record("e1", 9)
    await acme.queue_record(queued("e1", 9), now_ms=START_MS + MINUTE_MS)
    [waiting] = await acme.unapplied()
    await acme.mark_applied([waiting.id], now_ms=START_MS + 2 * MINUTE_MS)
    assert (await acme.apply([entry])).duplicates == []
    assert await hourly(acme) == [(START_MS, 9)]


async def test_waiting_records_come_in_their_order_and_in_parts(acme: Storage) -> None:
    await acme.create_workspace("other", UNLIMITED, actor="test")
    for number in range(5):
        record = queued(f"e{number}", 1)
        if number % 2:
            record = ResolvedRecord(
                workspace_id="other", event_id=f"e{number}", fingerprint="fp", cost_micros=1
            )
        await acme.queue_record(record)
    names = [waiting.record.event_id for waiting in await acme.unapplied(limit=4)]
    assert names == ["e0", "e2", "e4", "e1"]
