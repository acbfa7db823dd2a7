"""`limiter verify`: every counter once more from the ledger, beside the aggregates and Redis.

It looks at Redis with a script that changes nothing, and loads nothing: a cold workspace has no
counters there to be wrong. A running service goes on meanwhile, so a workspace is compared between
two of its calls: what is compared is of the same entry, on all sides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal

from msgspec import Struct

from limiter.commands.data import for_each, open_data, workspace_ids
from limiter.durable import Recomputed
from limiter.periods import PERIODS
from limiter.runtime import Parts
from limiter.settings import Settings
from limiter.stored import ChatCounters, StoredWorkspace, WorkspaceCounters

CONCURRENCY = 4
CHATS_PER_CALL = 500
# A workspace that is called all the time may need many looks until none of its calls is in between.
LOOKS_MAX = 50
_PAUSE_MS = 20
# Each brings a page of them; what is left after so many is reported as not compared.
BRING_BACK_MAX = 1_000

# Called with the workspaces done by now, and how many there are.
Progress = Callable[[int, int], None]


class CounterDrift(Struct, frozen=True, kw_only=True):
    """A counter, in the aggregates of durable storage or in Redis, that the ledger contradicts."""

    workspace_id: str
    where: Literal["aggregates", "redis"]
    counter: str
    found: int
    ledger: int


class Verified(Struct, kw_only=True):
    """`counters`: how many were compared in Redis. `unsettled`: workspaces that changed all the
    while, so that Redis was not compared.
    """

    workspaces: int = 0
    hot: int = 0
    chats: int = 0
    counters: int = 0
    drift: list[CounterDrift] = []
    unsettled: list[str] = []


class _Look(Struct, kw_only=True):
    """What one look found. `is_hot` None: the workspace changed meanwhile."""

    is_hot: bool | None
    chats: int = 0
    counters: int = 0
    drift: list[CounterDrift] = []


async def verify(settings: Settings, progress: Progress) -> Verified:
    """Compares everything. Raises StartupError, Unavailable."""
    async with open_data(settings) as parts:
        # Records that the ledger took while Redis was away count there only once it is told.
        for _ in range(BRING_BACK_MAX):
            if await parts.limiter.bring_back() == 0:
                break
        ids = await workspace_ids(parts.storage)
        verified = Verified()

        async def one(workspace_id: str) -> None:
            look = await _settled_look(parts, workspace_id)
            verified.workspaces += 1
            verified.hot += bool(look.is_hot)
            verified.chats += look.chats
            verified.counters += look.counters
            verified.drift += look.drift
            if look.is_hot is None:
                verified.unsettled.append(workspace_id)
            progress(verified.workspaces, len(ids))

        await for_each(ids, one, concurrency=CONCURRENCY)
    verified.drift.sort(key=lambda drift: (drift.workspace_id, drift.where, drift.counter))
    verified.unsettled.sort()
    return verified


async def _settled_look(parts: Parts, workspace_id: str) -> _Look:
    """Looks until nothing was in between. Drift is believed when it is seen a second time."""
    suspect: _Look | None = None
    look = _Look(is_hot=None)
    for _ in range(LOOKS_MAX):
        look = await _look(parts, workspace_id)
        if look.is_hot is not None:
            if not look.drift or (suspect is not None and suspect.drift == look.drift):
                return look
            suspect = look
        await asyncio.sleep(_PAUSE_MS / 1_000)
    return look


async def _look(parts: Parts, workspace_id: str) -> _Look:
    before = await parts.redis.inspect(workspace_id)
    await parts.snapshot.settle(workspace_id)
    first = await parts.redis.inspect(workspace_id)
    stored = await parts.storage.workspace(workspace_id)
    recomputed = await parts.storage.recompute(workspace_id)
    drift = [
        CounterDrift(
            workspace_id=workspace_id,
            where="aggregates",
            counter=found.what,
            found=found.stored,
            ledger=found.recomputed,
        )
        for found in await parts.storage.drift(workspace_id)
    ]
    if first is None:
        return _Look(is_hot=False, drift=drift)
    if stored is None or recomputed is None or stored.events:
        return _Look(is_hot=None, drift=drift)
    redis = await _inspect_all(parts, workspace_id, first, list(recomputed.chats))
    if redis is None:
        return _Look(is_hot=None, drift=drift)
    if redis.seq != stored.seq and (before is None or before.seq != redis.seq):
        return _Look(is_hot=None, drift=drift)
    pairs = list(_pairs(redis, stored, recomputed))
    drift += [
        CounterDrift(
            workspace_id=workspace_id, where="redis", counter=counter, found=found, ledger=ledger
        )
        for counter, found, ledger in pairs
        if found != ledger
    ]
    return _Look(is_hot=True, chats=len(redis.chats), counters=len(pairs), drift=drift)


async def _inspect_all(
    parts: Parts, workspace_id: str, first: WorkspaceCounters, chat_ids: list[str]
) -> WorkspaceCounters | None:
    """The workspace with all its chats that are hot; None if an entry came in between."""
    found: dict[str, ChatCounters] = {}
    latest = first
    for start in range(0, max(len(chat_ids), 1), CHATS_PER_CALL):
        page = await parts.redis.inspect(workspace_id, chat_ids[start : start + CHATS_PER_CALL])
        if page is None or (page.epoch, page.seq) != (first.epoch, first.seq):
            return None
        found.update(page.chats)
        latest = page
    return replace(latest, chats=found)


def _pairs(
    redis: WorkspaceCounters, stored: StoredWorkspace, recomputed: Recomputed
) -> Iterator[tuple[str, int, int]]:
    """Each counter's name, what Redis says, and what the ledger says."""
    # Entries that never reached the ledger, or that Redis has lost.
    yield "seq", redis.seq, stored.seq
    yield "held", redis.held_micros, sum(hold.micros for hold in stored.holds)
    yield "live holds", redis.live_holds, len(stored.holds)
    yield "unpriced", redis.unpriced_records, recomputed.unpriced_records
    for period in PERIODS:
        window = redis.windows[period.name]
        # Redis takes out what has left a window when it is next called, and not before.
        left_by_ms = redis.clock_ms - period.window_ms - period.bucket_ms
        buckets = {
            start_ms: micros
            for start_ms, micros in recomputed.windows[period.name]
            if start_ms > left_by_ms
        }
        yield f"spent.{period.name}", window.spent_micros, sum(buckets.values())
        for start_ms in sorted(buckets.keys() | window.buckets.keys()):
            counter = f"{period.name} bucket {start_ms}"
            yield counter, window.buckets.get(start_ms, 0), buckets.get(start_ms, 0)
    for chat_id, chat in redis.chats.items():
        sums = recomputed.chats[chat_id]
        yield f"chat {chat_id} spent.lifetime", chat.spent_micros, sums.spent_micros
        yield f"chat {chat_id} own", chat.own_spent_micros, sums.own_spent_micros
        yield f"chat {chat_id} held", chat.held_micros, sums.held_micros
