"""Compares the counters of one workspace in Redis with what durable storage says they have to be.

Calls go on meanwhile, so it compares between two of them: what is compared is of the same entry on
both sides. It looks at Redis with a script that changes nothing, and loads nothing: a cold
workspace has no counters there to be wrong. It must not repair anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

from msgspec import Struct

from limiter.durable import Storage, Sums
from limiter.periods import PERIODS
from limiter.redis.store import RedisStore
from limiter.snapshot import Snapshot
from limiter.stored import ChatCounters, WorkspaceCounters

CHATS_PER_CALL = 500
# A workspace that is called all the time may need many looks until none of its calls is in between.
LOOKS_MAX = 50
_PAUSE_MS = 20

# By place and name of a counter: by how much it differs.
Differences = dict[tuple[str, str], int]


class CounterDrift(Struct, frozen=True, kw_only=True):
    """A counter, in the aggregates of durable storage or in Redis, that is not what it has to be.

    `ledger`: what it has to be, by the ledger or by the aggregates that are made of it.
    """

    workspace_id: str
    where: Literal["aggregates", "redis"]
    counter: str
    found: int
    ledger: int


class Look(Struct, kw_only=True):
    """What one look found. `is_hot` None: the workspace changed meanwhile.

    `chats`, `counters`: how many were compared in Redis.
    """

    is_hot: bool | None
    chats: int = 0
    counters: int = 0
    drift: list[CounterDrift] = []

    def differences(self) -> Differences:
        """They stay while calls go on, where the counters themselves do not."""
        return {(one.where, one.counter): one.found - one.ledger for one in self.drift}


# What the counters have to be, None if that cannot be said now; and the drift seen on the way.
_Wanted = tuple[Sums | None, list[CounterDrift]]


class Comparison:
    """Every method raises RedisUnavailable and StoreUnavailable, and ScriptError for a key that is
    not what it should be.
    """

    def __init__(self, redis: RedisStore, storage: Storage, snapshot: Snapshot) -> None:
        self._redis = redis
        self._storage = storage
        self._snapshot = snapshot

    async def is_hot(self, workspace_id: str) -> bool:
        return await self._redis.inspect(workspace_id) is not None

    async def with_ledger(self, workspace_id: str) -> Look:
        """All of the workspace, the aggregates included. Reads all its ledger rows each time."""
        return await self._settled(
            workspace_id,
            lambda: self._by_ledger(workspace_id),
            looks_max=LOOKS_MAX,
            may_pass=True,
        )

    async def with_aggregates(
        self, workspace_id: str, chat_ids: Sequence[str], *, looks_max: int, may_pass: bool
    ) -> Look:
        """The workspace and some of its chats, with what is cheap to ask.

        Unless it `may_pass`, one whose entries wait for durable storage stays unsettled.
        """

        async def wanted() -> _Wanted:
            return await self._storage.reads.sums(workspace_id, chat_ids), []

        return await self._settled(workspace_id, wanted, looks_max=looks_max, may_pass=may_pass)

    async def _settled(
        self,
        workspace_id: str,
        wanted: Callable[[], Awaitable[_Wanted]],
        *,
        looks_max: int,
        may_pass: bool,
    ) -> Look:
        """Looks until nothing was in between. Drift is believed when it is seen a second time."""
        suspect: Look | None = None
        look = Look(is_hot=None)
        for number in range(looks_max):
            # Where nothing is on its way, a first look needs no pass.
            look = await self._look(workspace_id, wanted, settles=may_pass and number > 0)
            if look.is_hot is not None:
                if not look.drift:
                    return look
                if suspect is not None and suspect.differences() == look.differences():
                    return look
                suspect = look
            await asyncio.sleep(_PAUSE_MS / 1_000)
        return look

    async def _look(
        self, workspace_id: str, wanted: Callable[[], Awaitable[_Wanted]], *, settles: bool
    ) -> Look:
        before = first = await self._redis.inspect(workspace_id)
        if settles:
            await self._snapshot.settle(workspace_id)
            first = await self._redis.inspect(workspace_id)
        sums, drift = await wanted()
        if first is None:
            return Look(is_hot=False, drift=drift)
        if sums is None or sums.has_queued:
            return Look(is_hot=None, drift=drift)
        redis = await self._inspect_all(workspace_id, first, list(sums.chats))
        if redis is None:
            return Look(is_hot=None, drift=drift)
        # Of one that stood still since before it was settled, durable storage should have all.
        stood_still = settles and before is not None and before.seq == redis.seq
        if redis.seq != sums.seq and not stood_still:
            return Look(is_hot=None, drift=drift)
        pairs = list(_pairs(redis, sums))
        drift += [
            CounterDrift(
                workspace_id=workspace_id, where="redis", counter=counter, found=found, ledger=right
            )
            for counter, found, right in pairs
            if found != right
        ]
        return Look(is_hot=True, chats=len(redis.chats), counters=len(pairs), drift=drift)

    async def _by_ledger(self, workspace_id: str) -> _Wanted:
        stored = await self._storage.workspace(workspace_id)
        recomputed = await self._storage.recompute(workspace_id)
        drift = [
            CounterDrift(
                workspace_id=workspace_id,
                where="aggregates",
                counter=found.what,
                found=found.stored,
                ledger=found.recomputed,
            )
            for found in await self._storage.drift(workspace_id)
        ]
        if stored is None or recomputed is None:
            return None, drift
        sums = Sums(
            seq=stored.seq,
            has_queued=bool(stored.events),
            held_micros=sum(hold.micros for hold in stored.holds),
            live_holds=len(stored.holds),
            unpriced_records=recomputed.unpriced_records,
            windows=dict(recomputed.windows),
            chats=recomputed.chats,
        )
        return sums, drift

    async def _inspect_all(
        self, workspace_id: str, first: WorkspaceCounters, chat_ids: list[str]
    ) -> WorkspaceCounters | None:
        """The workspace with all its chats that are hot; None if an entry came in between."""
        found: dict[str, ChatCounters] = {}
        latest = first
        for start in range(0, max(len(chat_ids), 1), CHATS_PER_CALL):
            ids = chat_ids[start : start + CHATS_PER_CALL]
            page = await self._redis.inspect(workspace_id, ids)
            if page is None or (page.epoch, page.seq) != (first.epoch, first.seq):
                return None
            found.update(page.chats)
            latest = page
        return replace(latest, chats=found)


def _pairs(redis: WorkspaceCounters, sums: Sums) -> Iterator[tuple[str, int, int]]:
    """Each counter's name, what Redis says, and what it has to be."""
    # Entries that never reached the ledger, or that Redis has lost.
    yield "seq", redis.seq, sums.seq
    yield "held", redis.held_micros, sums.held_micros
    yield "live holds", redis.live_holds, sums.live_holds
    yield "unpriced", redis.unpriced_records, sums.unpriced_records
    for period in PERIODS:
        window = redis.windows[period.name]
        # Redis takes out what has left a window when it is next called, and not before.
        left_by_ms = redis.clock_ms - period.window_ms - period.bucket_ms
        buckets = {
            start_ms: micros
            for start_ms, micros in sums.windows[period.name]
            if start_ms > left_by_ms
        }
        yield f"spent.{period.name}", window.spent_micros, sum(buckets.values())
        for start_ms in sorted(buckets.keys() | window.buckets.keys()):
            counter = f"{period.name} bucket {start_ms}"
            yield counter, window.buckets.get(start_ms, 0), buckets.get(start_ms, 0)
    for chat_id, chat in redis.chats.items():
        own = sums.chats[chat_id]
        yield f"chat {chat_id} spent.lifetime", chat.spent_micros, own.spent_micros
        yield f"chat {chat_id} own", chat.own_spent_micros, own.own_spent_micros
        yield f"chat {chat_id} held", chat.held_micros, own.held_micros
