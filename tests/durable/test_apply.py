"""Stream entries brought into the ledger and its aggregates, once each, on both stores."""

from __future__ import annotations

import itertools

import pytest

from limiter.durable import Entry, Storage
from limiter.durable.books import FORGET_MS
from limiter.money import MICROS_MAX
from limiter.periods import DAY_MS, HOUR_MS, PERIODS
from limiter.stored import StoredHold, StoredSource, StoredWorkspace
from tests.durable.stream import START_MS, UNLIMITED, Stream, chat_of


async def workspace_of(storage: Storage, workspace_id: str = "acme") -> StoredWorkspace:
    await storage.create_workspace(workspace_id, UNLIMITED, actor="test")
    workspace = await storage.workspace(workspace_id)
    assert workspace is not None
    assert await storage.drift(workspace_id) == []
    return workspace


async def totals(storage: Storage) -> dict[str, int]:
    """What is in each window."""
    windows = (await workspace_of(storage)).windows
    return {period: sum(micros for _, micros in windows[period]) for period in windows}


async def events(storage: Storage) -> list[str]:
    return [row.event_id async for row in storage.ledger_rows("acme")]


# --------------------------------------------------------------------------- records


async def test_a_record_is_a_ledger_row_and_in_every_window(storage: Storage) -> None:
    stream = Stream()
    entry = stream.record("e1", 9_000, data='{"usage": 1}', priced=False)
    applied = await storage.apply([entry])
    assert (applied.inserted, applied.duplicates, applied.rewound) == (1, [], set())
    workspace = await workspace_of(storage)
    assert workspace.windows == {period.name: [(START_MS, 9_000)] for period in PERIODS}
    assert (workspace.seq, workspace.clock_ms, workspace.spent_at_ms) == (1, START_MS, START_MS)
    assert workspace.unpriced_records == 1
    [row] = [row async for row in storage.ledger_rows("acme")]
    assert (row.event_id, row.charged_micros, row.data) == ("e1", 9_000, '{"usage": 1}')
    assert row.applied
    assert not row.priced
    assert not row.late


async def test_nothing_is_applied_of_nothing(storage: Storage) -> None:
    assert (await storage.apply([])).inserted == 0


async def test_buckets_begin_where_the_scripts_begin_them(storage: Storage) -> None:
    stream = Stream(at_ms=START_MS + 31_000)
    await storage.apply([stream.record("e1", 1)])
    stream.at_ms += HOUR_MS
    await storage.apply([stream.record("e2", 2), stream.record("e3", 4)])
    windows = (await workspace_of(storage)).windows
    assert windows["hourly"] == [(START_MS + 30_000, 1), (START_MS + HOUR_MS + 30_000, 6)]
    assert windows["daily"] == [(START_MS, 1), (START_MS + HOUR_MS, 6)]


async def test_a_bucket_is_loaded_until_all_of_it_is_older_than_its_window(
    storage: Storage,
) -> None:
    stream = Stream()
    await storage.apply([stream.record("e1", 5)])
    for after_ms, counts in [(HOUR_MS + 29_999, True), (HOUR_MS + 30_000, False)]:
        stream.at_ms = START_MS + after_ms
        await storage.apply([stream.release("r1")])
        loaded = (await workspace_of(storage)).windows["hourly"]
        assert loaded == ([(START_MS, 5)] if counts else [])
    assert (await totals(storage))["daily"] == 5


async def test_a_charge_of_nothing_is_a_row_and_no_bucket(storage: Storage) -> None:
    stream = Stream()
    await storage.apply([stream.record("e1", 0)])
    workspace = await workspace_of(storage)
    assert workspace.spent_at_ms == 0
    assert not any(workspace.windows.values())
    assert await events(storage) == ["e1"]


async def test_the_largest_amounts_are_exact(storage: Storage) -> None:
    stream = Stream()
    await storage.apply([stream.record("e1", MICROS_MAX - 1, chat="c1")])
    await storage.apply([stream.record("e2", 1, chat="c1")])
    assert set((await totals(storage)).values()) == {MICROS_MAX}
    assert (await chat_of(storage, "c1")).spent_micros == MICROS_MAX


async def test_workspaces_do_not_mix(storage: Storage) -> None:
    one, other = Stream("one"), Stream("other")
    batch = [one.record("e1", 1, chat="c"), other.record("e1", 2, chat="c"), other.hold("r1", 4)]
    assert (await storage.apply(batch)).inserted == 2
    assert (await chat_of(storage, "c", "one")).spent_micros == 1
    assert (await chat_of(storage, "c", "other")).spent_micros == 2
    assert (await workspace_of(storage, "one")).holds == []
    assert len((await workspace_of(storage, "other")).holds) == 1
    assert await storage.workspaces() == ["one", "other"]


# --------------------------------------------------------------------------- once, whatever comes


def everything(stream: Stream) -> list[Entry]:
    """A bit of each type, with every dependency there is between entries."""
    return [
        stream.chat("root", limit=500),
        stream.chat("leaf", "root"),
        stream.hold("r1", 100, chat="leaf"),
        stream.hold("r2", 50, chat="leaf"),
        stream.hold("r3", 25, chat="root"),
        stream.hold("r4", 12),
        stream.record("e1", 90, chat="leaf", reservation="r1"),
        stream.release("r2", chat="leaf"),
        stream.expire("r3", charged=25, chat="root"),
        stream.record("e2", 7, source="s1", total=7, sequence=1),
        stream.record("e3", 5, source="s1", total=12, sequence=2, priced=False),
    ]


async def assert_everything(storage: Storage) -> None:
    workspace = await workspace_of(storage)
    assert set((await totals(storage)).values()) == {90 + 25 + 7 + 5}
    assert [hold.reservation_id for hold in workspace.holds] == ["r4"]
    assert (workspace.seq, workspace.unpriced_records) == (11, 1)
    root, leaf = await chat_of(storage, "root"), await chat_of(storage, "leaf")
    assert (root.spent_micros, root.own_spent_micros, root.held_micros) == (115, 25, 0)
    assert (leaf.spent_micros, leaf.own_spent_micros, leaf.held_micros) == (90, 90, 0)
    assert (root.limit_micros, root.depth, leaf.limit_micros, leaf.depth) == (500, 1, None, 2)
    assert (leaf.parent_chat_id, leaf.root_chat_id, leaf.revision) == ("root", "root", 0)
    assert await storage.source("acme", "s1") == StoredSource(12, 2)
    assert sorted(await events(storage)) == ["e1", "e2", "e3", "expiry:r3"]


async def test_a_batch_in_order(storage: Storage) -> None:
    applied = await storage.apply(everything(Stream()))
    assert applied.inserted == 4
    await assert_everything(storage)


async def test_redelivery_changes_nothing_and_says_nothing(storage: Storage) -> None:
    batch = everything(Stream())
    await storage.apply(batch)
    for again in (batch, batch[3:8], *([entry] for entry in batch), [*batch, *batch]):
        applied = await storage.apply(again)
        assert (applied.inserted, applied.duplicates, applied.rewound) == (0, [], set())
    await assert_everything(storage)


async def test_entries_one_by_one_and_backwards(storage: Storage) -> None:
    for entry in reversed(everything(Stream())):
        assert (await storage.apply([entry])).rewound == set()
    await assert_everything(storage)


async def test_one_batch_that_holds_everything_twice(storage: Storage) -> None:
    batch = everything(Stream())
    assert (await storage.apply([*batch, *reversed(batch)])).inserted == 4
    await assert_everything(storage)


@pytest.mark.parametrize("end", ["record", "release", "expire"])
async def test_every_order_of_a_hold_its_end_and_their_redelivery(
    storage: Storage, end: str
) -> None:
    stream = Stream()
    await storage.apply([stream.chat("c")])
    for number, order in enumerate(set(itertools.permutations([0, 0, 1, 1]))):
        name = f"r{number}"
        hold = stream.hold(name, 5, chat="c")
        ends = {
            "record": lambda name=name: stream.record(name, 0, chat="c", reservation=name),
            "release": lambda name=name: stream.release(name, chat="c"),
            "expire": lambda name=name: stream.expire(name, chat="c"),
        }
        entries = (hold, ends[end]())
        for which in order:
            await storage.apply([entries[which]])
        assert (await workspace_of(storage)).holds == []
    assert (await chat_of(storage, "c")).held_micros == 0


# --------------------------------------------------------------------------- second charges


async def test_an_event_that_redis_forgot_is_reported(storage: Storage) -> None:
    stream = Stream()
    await storage.apply([stream.record("e1", 10, chat="c1")])
    stream.at_ms += 2 * HOUR_MS
    second = stream.record("e1", 10, chat="c1")
    for _ in range(2):  # and again, for as long as its entry is not acknowledged
        applied = await storage.apply([second])
        assert applied.inserted == 0
        [duplicate] = applied.duplicates
        assert (duplicate.workspace_id, duplicate.event_id) == ("acme", "e1")
        assert (duplicate.at_ms, duplicate.charged_micros) == (stream.at_ms, 10)
        assert (duplicate.chat_id, duplicate.priced) == ("c1", True)
        assert (duplicate.partition, duplicate.stream_id) == (0, second.stream_id)
        assert duplicate.same_fingerprint
    assert set((await totals(storage)).values()) == {0, 10}
    assert (await chat_of(storage, "c1")).spent_micros == 10
    assert (await workspace_of(storage)).seq == 2


async def test_a_second_charge_in_the_same_batch_and_with_another_payload(
    storage: Storage,
) -> None:
    stream = Stream()
    first, second = stream.record("e1", 10), stream.record("e1", 11, fingerprint="other")
    applied = await storage.apply([second, first])
    [duplicate] = applied.duplicates
    assert (applied.inserted, duplicate.charged_micros) == (1, 11)
    assert not duplicate.same_fingerprint
    assert set((await totals(storage)).values()) == {10}


async def test_the_second_charge_of_an_expired_hold_is_reported(storage: Storage) -> None:
    stream = Stream()
    await storage.apply([stream.hold("r1", 10), stream.expire("r1", charged=10)])
    applied = await storage.apply([stream.hold("r1", 10), stream.expire("r1", charged=10)])
    assert [duplicate.event_id for duplicate in applied.duplicates] == ["expiry:r1"]
    assert set((await totals(storage)).values()) == {10}


# --------------------------------------------------------------------------- holds


async def test_holds_are_loaded_with_all_that_redis_needs(storage: Storage) -> None:
    stream = Stream()
    batch = [
        stream.chat("root"),
        stream.chat("leaf", "root"),
        stream.hold("late", 7, chat="leaf", hold_ms=900_000),
        stream.hold("soon", 5, hold_ms=300_000),
    ]
    await storage.apply(batch)
    assert (await workspace_of(storage)).holds == [
        StoredHold("soon", 5, START_MS + 300_000, None, "fp"),
        StoredHold("late", 7, START_MS + 900_000, "leaf", "fp"),
    ]
    for chat_id in ("leaf", "root"):
        assert (await chat_of(storage, chat_id)).held_micros == 7


async def test_a_record_of_another_chat_frees_the_chat_that_held(storage: Storage) -> None:
    stream = Stream()
    await storage.apply([stream.hold("r1", 7, chat="one")])
    await storage.apply([stream.record("e1", 3, chat="other", reservation="r1")])
    one, other = await chat_of(storage, "one"), await chat_of(storage, "other")
    assert (one.held_micros, one.spent_micros) == (0, 0)
    assert (other.held_micros, other.spent_micros) == (0, 3)
    await workspace_of(storage)


async def test_a_reservation_id_can_be_held_anew_after_its_end(storage: Storage) -> None:
    stream = Stream()
    await storage.apply([stream.chat("one"), stream.chat("other")])
    for number, order in enumerate(itertools.permutations(range(3)), start=1):
        name = f"r{number}"
        first = [stream.hold(name, 7, chat="one"), stream.release(name, chat="one")]
        entries = [*first, stream.hold(name, 9, chat="other")]
        for which in order:
            await storage.apply([entries[which]])
        assert [hold.micros for hold in (await workspace_of(storage)).holds] == [9] * number
        assert (await chat_of(storage, "one")).held_micros == 0
        assert (await chat_of(storage, "other")).held_micros == 9 * number


async def test_a_hold_that_must_have_ended_long_ago_is_no_news(storage: Storage) -> None:
    stream = Stream()
    hold = stream.hold("r1", 7, hold_ms=1_000)
    stream.at_ms += 1_000 + FORGET_MS
    await storage.apply([stream.record("e1", 1)])
    await storage.apply([hold])
    assert (await workspace_of(storage)).holds == []


async def test_a_late_record_says_so(storage: Storage) -> None:
    stream = Stream()
    batch = [stream.hold("r1", 7), stream.expire("r1")]
    batch.append(stream.record("e1", 5, reservation="r1", state="e"))
    await storage.apply(batch)
    [row] = [row async for row in storage.ledger_rows("acme")]
    assert row.late
    assert (row.reservation_id, row.reservation_state) == ("r1", "expired")


# --------------------------------------------------------------------------- sources


async def test_the_latest_total_of_a_source_wins(storage: Storage) -> None:
    stream = Stream()
    first = stream.record("e1", 10, source="s", total=10)
    restart = stream.record("e2", 3, source="s", total=3, sequence=8)
    await storage.apply([restart])
    await storage.apply([first])
    assert await storage.source("acme", "s") == StoredSource(3, 8)
    assert await storage.source("acme", "none") is None


# --------------------------------------------------------------------------- chat trees


async def test_spend_and_holds_reach_every_ancestor(storage: Storage) -> None:
    stream = Stream()
    names = [f"c{depth}" for depth in range(1, 65)]
    batch = [
        stream.chat(name, parent)
        for parent, name in itertools.pairwise([None, *names])
        if name is not None
    ]
    batch += [stream.record("e1", 10, chat="c64"), stream.hold("r1", 3, chat="c33")]
    await storage.apply(batch)
    for depth, name in enumerate(names, start=1):
        chat = await chat_of(storage, name)
        assert (chat.depth, chat.root_chat_id, chat.spent_micros) == (depth, "c1", 10)
        assert chat.own_spent_micros == (10 if depth == 64 else 0)
        assert chat.held_micros == (3 if depth <= 33 else 0)


async def test_a_chat_whose_news_is_late_takes_its_place_with_all_it_has(
    storage: Storage,
) -> None:
    stream = Stream()
    root, middle = stream.chat("root"), stream.chat("middle", "root")
    leaf, other = stream.chat("leaf", "middle", limit=99), stream.chat("other", "leaf")
    await storage.apply([stream.record("e1", 10, chat="leaf"), stream.hold("r1", 5, chat="leaf")])
    await storage.apply([other, stream.record("e2", 1, chat="other")])
    assert (await chat_of(storage, "leaf")).spent_micros == 11
    await storage.apply([leaf])
    await storage.apply([middle])
    await storage.apply([root])
    for name, depth, spent in [
        ("root", 1, 11),
        ("middle", 2, 11),
        ("leaf", 3, 11),
        ("other", 4, 1),
    ]:
        chat = await chat_of(storage, name)
        assert (chat.root_chat_id, chat.depth, chat.spent_micros) == ("root", depth, spent)
    assert (await chat_of(storage, "root")).held_micros == 5
    assert (await chat_of(storage, "leaf")).limit_micros == 99
    await workspace_of(storage)


async def test_what_is_below_a_chat_moves_along_with_it(storage: Storage) -> None:
    stream = Stream()
    placed = [stream.chat("root"), stream.chat("leaf", "root")]
    await storage.apply([stream.record("e1", 10, chat="leaf")])
    await storage.create_workspace("acme", UNLIMITED, actor="test")
    await storage.configure_chat("acme", "below", parent_chat_id="leaf", actor="test")
    await storage.configure_chat("acme", "deep", parent_chat_id="below", actor="test")
    assert (await chat_of(storage, "deep")).root_chat_id == "leaf"
    await storage.apply(placed)
    for name, depth in [("leaf", 2), ("below", 3), ("deep", 4)]:
        chat = await chat_of(storage, name)
        assert (chat.root_chat_id, chat.depth) == ("root", depth)


async def test_the_configured_limit_of_a_chat_outlasts_news_of_its_creation(
    storage: Storage,
) -> None:
    stream = Stream()
    created = stream.chat("c1", limit=5)
    await storage.create_workspace("acme", UNLIMITED, actor="test")
    await storage.apply([stream.record("e1", 1, chat="c1")])
    await storage.configure_chat("acme", "c1", limit_micros=77, actor="test")
    await storage.apply([created])
    chat = await chat_of(storage, "c1")
    assert (chat.limit_micros, chat.revision, chat.spent_micros) == (77, 1, 1)


async def test_a_chat_with_another_parent_than_the_stored_one_is_told_of(
    storage: Storage,
) -> None:
    stream = Stream()
    await storage.apply([stream.chat("a"), stream.chat("b"), stream.chat("c", "a")])
    applied = await storage.apply([stream.chat("c", "b"), stream.record("e1", 3, chat="c")])
    assert applied.rewound == {"acme"}
    assert (await chat_of(storage, "c")).parent_chat_id == "a"
    assert (await chat_of(storage, "a")).spent_micros == 3
    assert (await chat_of(storage, "b")).spent_micros == 0
    await workspace_of(storage)


async def test_news_that_would_close_a_circle_is_told_of(storage: Storage) -> None:
    stream = Stream()
    stream.depths["b"] = ("b", 1)
    below = stream.chat("a", "b")
    stream.depths["a"] = ("x", 1)
    circle = stream.chat("b", "a")
    await storage.apply([below, stream.record("e1", 3, chat="a")])
    assert (await storage.apply([circle])).rewound == {"acme"}
    assert (await chat_of(storage, "b")).spent_micros == 3
    await workspace_of(storage)


async def test_children_are_listed_in_order(storage: Storage) -> None:
    stream = Stream()
    await storage.apply(
        [stream.chat("root"), *(stream.chat(f"c{i}", "root") for i in range(9, 0, -1))]
    )
    assert await storage.chat_children("acme", "root", limit=3) == ["c1", "c2", "c3"]
    assert await storage.chat_children("acme", "c1") == []
    assert await storage.chat("acme", "none") is None


# --------------------------------------------------------------------------- a Redis that went back


async def test_numbers_given_out_again_are_noticed_and_lose_nothing(storage: Storage) -> None:
    stream = Stream()
    batch = [stream.record(f"e{n}", 1) for n in range(10)]
    await storage.apply(batch)
    after = stream.fork(back=4)  # numbers 7 to 10 are given out again
    retried, new = after.record("e9", 1), after.record("f1", 1)
    applied = await storage.apply([retried, new])
    assert applied.rewound == {"acme"}
    assert (applied.inserted, [d.event_id for d in applied.duplicates]) == (1, ["e9"])
    assert set((await totals(storage)).values()) == {11}
    assert (await workspace_of(storage)).seq == 10
    # Its redelivery is no further news, and neither is that of what was lost.
    assert (await storage.apply([new, *batch])).rewound == set()
    # Past the highest number all is well again.
    await storage.apply([after.record("f2", 1), after.record("f3", 1)])
    applied = await storage.apply([after.record("f4", 1)])
    assert (applied.rewound, (await workspace_of(storage)).seq) == (set(), 11)
    assert set((await totals(storage)).values()) == {14}


async def test_an_old_process_that_comes_late_is_noticed(storage: Storage) -> None:
    stream = Stream()
    await storage.apply([stream.record("e1", 1)])
    lost = [stream.record("e2", 1), stream.record("e3", 1)]
    after = stream.fork(back=2)
    assert (await storage.apply([after.record("f2", 1)])).rewound == set()
    assert (await storage.apply(lost)).rewound == {"acme"}
    assert set((await totals(storage)).values()) == {4}


async def test_holds_of_the_new_life_count(storage: Storage) -> None:
    stream = Stream()
    await storage.apply([stream.hold("r1", 5, chat="c"), stream.release("r1", chat="c")])
    after = stream.fork(back=2)
    await storage.apply([after.hold("r1", 6, chat="c")])
    assert [hold.micros for hold in (await workspace_of(storage)).holds] == [6]
    assert (await chat_of(storage, "c")).held_micros == 6


async def test_a_life_that_goes_on_from_what_was_loaded_is_no_news(storage: Storage) -> None:
    stream = Stream()
    await storage.apply([stream.record("e1", 1)])
    seq = (await workspace_of(storage)).seq
    after = Stream(seq=seq, at_ms=START_MS + DAY_MS, stream_ms=START_MS + DAY_MS)
    assert (await storage.apply([after.record("e2", 1)])).rewound == set()


# --------------------------------------------------------------------------- what the store refuses


async def test_an_entry_that_cannot_be_applied_is_put_aside_and_the_rest_goes_on(
    storage: Storage,
) -> None:
    stream = Stream()
    batch: list[Entry] = [stream.record(f"e{n}", 1, chat="c1") for n in range(20)]
    batch[13] = poison = stream.record("poison", MICROS_MAX, chat="c1")
    applied = await storage.apply(batch)
    assert (applied.inserted, applied.poisoned) == (19, 1)
    assert (await chat_of(storage, "c1")).spent_micros == 19
    [letter] = await storage.dead_letters()
    assert (letter.partition, letter.stream_id) == (0, poison.stream_id)
    assert "poison" in letter.fields
    await workspace_of(storage)
    await storage.apply(batch)
    assert len(await storage.dead_letters()) == 1
