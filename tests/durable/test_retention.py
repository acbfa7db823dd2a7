"""Pruning: old rows go in small batches, live windows stay, and every sum is as before."""

from __future__ import annotations

import pytest
from sqlalchemy import Table, func, select

from limiter.durable import Storage
from limiter.durable.books import FORGET_MS
from limiter.durable.engine import Database
from limiter.durable.schema import reservations, window_buckets
from limiter.periods import DAY_MS, PERIODS
from limiter.stored import ResolvedRecord
from tests.durable.stream import START_MS, UNLIMITED, Stream, chat_of

RETENTION_MS = 100 * DAY_MS
LONGEST_MS = max(period.window_ms + period.bucket_ms for period in PERIODS)
WELL_BEYOND_MS = START_MS + 10_000 * DAY_MS


async def prune(storage: Storage, retention_ms: int = RETENTION_MS, batch: int = 1_000) -> int:
    """Everything there is to prune; the wall clock is far ahead, the workspaces' is what counts."""
    deleted = 0
    for _ in range(1_000):
        batch_deleted = await storage.prune(retention_ms, batch, now_ms=WELL_BEYOND_MS)
        if batch_deleted == 0:
            return deleted
        deleted += batch_deleted
    raise AssertionError("pruning does not end")


async def rows_of(storage: Storage, workspace_id: str = "acme") -> list[str]:
    return [row.event_id async for row in storage.ledger_rows(workspace_id)]


async def count_of(store_url: str, table: Table) -> int:
    database = Database(store_url)
    try:
        statement = select(func.count()).select_from(table)
        return await database.read(lambda connection: connection.scalar(statement) or 0)
    finally:
        await database.close()


async def test_old_rows_go_and_sums_stay(storage: Storage) -> None:
    stream = Stream()
    await storage.create_workspace("acme", UNLIMITED, actor="test")
    await storage.apply([stream.chat("root"), stream.chat("leaf", "root")])
    for day in range(130):
        stream.at_ms = START_MS + day * DAY_MS
        chat = (None, "root", "leaf")[day % 3]
        await storage.apply([stream.record(f"e{day}", day, chat=chat, priced=day % 5 != 0)])
    workspace = await storage.workspace("acme")
    chats = [await chat_of(storage, name) for name in ("root", "leaf")]

    assert await storage.prune(RETENTION_MS, 10, now_ms=WELL_BEYOND_MS) >= 10
    assert await storage.drift("acme") == []
    await prune(storage, batch=7)

    assert await rows_of(storage) == [f"e{day}" for day in range(29, 130)]
    assert await storage.workspace("acme") == workspace
    assert [await chat_of(storage, name) for name in ("root", "leaf")] == chats
    assert await storage.drift("acme") == []
    # And it goes on from there.
    await storage.apply([stream.record("more", 5, chat="leaf", priced=False)])
    assert (await chat_of(storage, "root")).spent_micros == chats[0].spent_micros + 5
    assert await storage.drift("acme") == []
    assert await prune(storage) == 0


async def test_a_live_window_is_never_touched(storage: Storage) -> None:
    stream = Stream()
    for number, age_ms in enumerate([LONGEST_MS + 2 * DAY_MS, LONGEST_MS, DAY_MS, 0]):
        stream.at_ms = START_MS + 100 * DAY_MS - age_ms
        await storage.apply([stream.record(f"e{number}", 1)])
    await prune(storage, retention_ms=0)
    assert await rows_of(storage) == ["e1", "e2", "e3"]
    assert await storage.drift("acme") == []


@pytest.mark.parametrize("wall_ms", [0, START_MS])
async def test_a_clock_that_is_behind_prunes_nothing(storage: Storage, wall_ms: int) -> None:
    stream = Stream()
    await storage.apply([stream.record("e1", 1)])
    stream.at_ms += 500 * DAY_MS
    await storage.apply([stream.record("e2", 1)])
    await storage.prune(RETENTION_MS, 100, now_ms=wall_ms)
    assert await rows_of(storage) == ["e1", "e2"]


async def test_a_wall_clock_that_is_ahead_prunes_nothing(storage: Storage) -> None:
    await storage.apply([Stream().record("e1", 1)])
    assert await prune(storage) == 0
    assert await rows_of(storage) == ["e1"]


async def test_idle_workspaces_are_pruned_by_the_clock_of_busy_ones(storage: Storage) -> None:
    idle, busy = Stream("idle"), Stream("busy", at_ms=START_MS + 500 * DAY_MS)
    await storage.apply([idle.chat("c"), idle.record("e1", 5, chat="c"), busy.record("e1", 1)])
    await prune(storage)
    assert await rows_of(storage, "idle") == []
    assert (await chat_of(storage, "c", "idle")).spent_micros == 5
    assert await storage.drift("idle") == []
    assert await storage.drift("busy") == []


async def test_what_redis_was_not_told_of_stays(storage: Storage) -> None:
    await storage.create_workspace("acme", UNLIMITED, actor="test")
    record = ResolvedRecord(
        workspace_id="acme", event_id="queued", fingerprint="fp", cost_micros=5, chat_id="c"
    )
    await storage.queue_record(record, now_ms=START_MS)
    stream = Stream(at_ms=START_MS + 500 * DAY_MS)
    await storage.apply([stream.record("e1", 1)])
    await prune(storage)
    assert await rows_of(storage) == ["queued", "e1"]
    [waiting] = await storage.unapplied()
    await storage.mark_applied([waiting.id], now_ms=START_MS)
    await prune(storage)
    assert await rows_of(storage) == ["e1"]
    assert await storage.drift("acme") == []


async def test_a_batch_is_a_bound(storage: Storage) -> None:
    streams = [Stream(f"w{number}") for number in range(4)]
    for stream in streams:
        await storage.apply([stream.record(f"e{number}", 1) for number in range(5)])
    late = Stream("late", at_ms=START_MS + 500 * DAY_MS)
    await storage.apply([late.record("e", 1)])
    left = [len(await rows_of(storage, stream.workspace_id)) for stream in streams]
    assert sum(left) == 20
    assert await storage.prune(RETENTION_MS, 8, now_ms=WELL_BEYOND_MS) == 8
    left = [len(await rows_of(storage, stream.workspace_id)) for stream in streams]
    assert sum(left) == 12


async def test_buckets_that_left_their_windows_go(storage: Storage, store_url: str) -> None:
    stream = Stream()
    for _ in range(10):
        await storage.apply([stream.record(f"e{stream.seq}", 1)])
        stream.at_ms += DAY_MS
    await prune(storage)
    # Hourly and daily ones of the last days, weekly ones of a week, all the monthly ones.
    left = await count_of(store_url, window_buckets)
    assert 20 <= left <= 26
    assert await storage.drift("acme") == []


async def test_ended_holds_go_once_no_news_of_them_can_come(
    storage: Storage, store_url: str
) -> None:
    stream = Stream()
    hold = stream.hold("r1", 5, chat="c", hold_ms=1_000)
    await storage.apply([hold, stream.release("r1", chat="c"), stream.hold("r2", 7)])
    for after_ms, left in [(1_000 + FORGET_MS - 1, 2), (1_000 + FORGET_MS, 1)]:
        stream.at_ms = START_MS + after_ms
        await storage.apply([stream.record(f"e{after_ms}", 1)])
        await prune(storage)
        assert await count_of(store_url, reservations) == left
    # Delivered once more, it stays what it was: over.
    await storage.apply([hold])
    assert (await chat_of(storage, "c")).held_micros == 0
    assert await count_of(store_url, reservations) == 1
