"""The snapshot pass: moves what scripts appended to the streams into durable storage.

Read, commit, remove, in this order: a pass that dies anywhere is repeated by whoever comes next,
and the commit takes each entry once. The same pass notices what Redis must be told of:
records that the ledger had already, and workspaces of which Redis lost a part. It knows no SQL.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Collection, Iterable, Sequence
from itertools import islice
from typing import TypeVar

from limiter.durable import Applied, DuplicateRecord, Entry, PoisonedEntry, Storage, parse_entry
from limiter.durable.entries import ExpireEntry, HoldEntry, RecordEntry, ReleaseEntry
from limiter.errors import RedisUnavailable, ScriptError
from limiter.metrics import Metrics
from limiter.redis.keys import Keys
from limiter.redis.store import RedisStore
from limiter.redis.stream import LedgerStreams, RawEntry

logger = logging.getLogger(__name__)

Repaired = TypeVar("Repaired")

BATCH_MAX = 1_000
# To understand a whole batch takes longer than many calls, which would all wait for it.
UNDERSTOOD_AT_ONCE_MAX = 100

# Of so many records a process knows that the ledger has them, without asking it.
_COMMITTED_MAX = 20_000


class Snapshot:
    """Passes over all partitions, one at a time."""

    def __init__(
        self,
        streams: LedgerStreams,
        redis: RedisStore,
        storage: Storage,
        keys: Keys,
        *,
        metrics: Metrics | None = None,
    ) -> None:
        self._streams = streams
        self._redis = redis
        self._storage = storage
        self._keys = keys
        self._metrics = metrics or Metrics()
        self._lock = asyncio.Lock()
        self._next_pass: dict[int, asyncio.Task[None]] = {}
        self._committed: dict[tuple[str, str], None] = {}

    async def run_once(self) -> int:
        """Drains every partition of what was there when it came by. Returns the entries moved.

        Raises RedisUnavailable, after it has drained the partitions whose server answers, or
        StoreUnavailable; what was read stays in the stream.
        """
        started_at = time.monotonic()
        moved = 0
        try:
            waiting = await self._streams.waiting()
            self._metrics.entries_waiting(sum(waiting.values()))
            away = self._keys.partitions - len(waiting)
            for partition, entries in waiting.items():
                try:
                    async with self._lock:
                        moved += await self._drain(partition, entries)
                except RedisUnavailable as error:
                    logger.debug("partition %d: %s", partition, error)
                    away += 1
            if away:
                raise RedisUnavailable(f"{away} of {self._keys.partitions} partitions are away")
        except Exception:
            self._metrics.pass_failed()
            raise
        self._metrics.pass_completed(int((time.monotonic() - started_at) * 1_000_000))
        return moved

    async def settle(self, workspace_id: str) -> None:
        """Returns once durable storage has all that the workspace's partition holds now.

        Concurrent callers share a pass. Raises RedisUnavailable, StoreUnavailable.
        """
        partition = self._keys.partition(workspace_id)
        if await self._streams.length(partition) == 0:
            # A pass that is under way may carry entries of a Redis that was emptied meanwhile.
            async with self._lock, self._storage.turn():
                return
        task = self._next_pass.get(partition)
        if task is None:
            task = self._next_pass[partition] = asyncio.create_task(self._pass_over(partition))
        await asyncio.shield(task)

    async def settle_all(self, workspace_ids: Iterable[str]) -> None:
        """Settles several workspaces, each partition once. Raises as `settle` does."""
        for workspace_id in {self._keys.partition(name): name for name in workspace_ids}.values():
            await self.settle(workspace_id)

    def has_committed(self, workspace_id: str, event_id: str) -> bool:
        """Whether a pass of this process brought the record into the ledger, or found it there.

        False: it is not known here. Another process may have done so, or a while has gone by.
        """
        return (workspace_id, event_id) in self._committed

    async def reconcile(self, partitions: Collection[int] | None = None) -> int:
        """Forgets every workspace of which Redis knows less than the ledger; returns how many.

        For a server that may have lost its latest writes or been restored from an old dump, and the
        `partitions` that it has; None: all. Raises RedisUnavailable, after it has looked at all
        that can be reached.
        """
        forgotten, after = 0, None
        away: RedisUnavailable | None = None
        while page := await self._storage.workspace_seqs(after):
            after = page[-1][0]
            try:
                forgotten += await self._forget_behind(
                    pair
                    for pair in page
                    if partitions is None or self._keys.partition(pair[0]) in partitions
                )
            except RedisUnavailable as error:
                away = error
        if away is not None:
            raise away
        return forgotten

    async def _pass_over(self, partition: int) -> None:
        async with self._lock:
            # Who comes from now on needs the pass after this one.
            del self._next_pass[partition]
            # At least one turn: nobody else then has entries in its memory alone.
            await self._drain(partition, max(1, await self._streams.length(partition)))

    async def _drain(self, partition: int, left: int) -> int:
        """Moves so many entries: a busy partition must not keep the others waiting."""
        moved = 0
        while moved < left:
            async with self._storage.turn():
                entries = await self._streams.oldest(partition, BATCH_MAX)
                await self._move(partition, entries)
            if not entries:
                break
            moved += len(entries)
        return moved

    async def _move(self, partition: int, raw: Sequence[RawEntry]) -> None:
        if not raw:
            return
        entries = await self._understood(partition, raw)
        applied = await self._storage.apply(entries)
        if not applied.poisoned:
            self._remember(entries)
        for duplicate in applied.duplicates:
            await self._retract(duplicate)
        removed = await self._remove(partition, raw, applied.duplicates)
        self._count(entries, applied)
        unknown = set(applied.rewound)
        # A retraction has removed its entry itself.
        if removed + len(applied.duplicates) < len(raw):
            # Redis was emptied since they were read, and may have been loaded without them.
            unknown |= {entry.workspace_id for entry in entries}
        for workspace_id in unknown:
            logger.warning("workspace %s: Redis tells another story than the ledger", workspace_id)
            await self._repaired(workspace_id, self._redis.forget(workspace_id))
            self._metrics.workspace_forgotten("rewound")
        seqs: dict[str, int] = {}
        for entry in entries:
            seqs[entry.workspace_id] = max(entry.seq, seqs.get(entry.workspace_id, 0))
        await self._forget_behind(seqs.items())

    async def _remove(
        self, partition: int, raw: Sequence[RawEntry], retracted: Sequence[DuplicateRecord]
    ) -> int:
        """Takes a batch out of its stream; returns how many entries went."""
        gone = {duplicate.stream_id for duplicate in retracted}
        ids = [item.stream_id.decode() for item in raw]
        first = next((stream_id for stream_id in ids if stream_id not in gone), ids[0])
        return await self._redis.trim(partition, first=first, last=ids[-1])

    async def _understood(self, partition: int, raw: Sequence[RawEntry]) -> list[Entry]:
        entries = []
        for number, item in enumerate(raw):
            if number % UNDERSTOOD_AT_ONCE_MAX == 0:
                await asyncio.sleep(0)
            try:
                entries.append(
                    parse_entry(item.fields, partition=partition, stream_id=item.stream_id)
                )
            except PoisonedEntry as error:
                logger.error("stream entry %s is poisoned: %s", item.stream_id.decode(), error)
                await self._storage.dead_letter(partition, item.stream_id, item.named(), str(error))
                self._metrics.entries_poisoned(1)
        return entries

    def _count(self, entries: Sequence[Entry], applied: Applied) -> None:
        """Tells the metrics of a batch. Once it is removed it does not come again."""
        charged_micros = -sum(duplicate.charged_micros for duplicate in applied.duplicates)
        placed = recorded = released = expired = 0
        for entry in entries:
            if isinstance(entry, HoldEntry):
                placed += 1
            elif isinstance(entry, RecordEntry):
                charged_micros += entry.charged_micros
                recorded += entry.state == "held"
            elif isinstance(entry, ExpireEntry):
                charged_micros += entry.charged_micros
                expired += 1
            elif isinstance(entry, ReleaseEntry):
                released += 1
        self._metrics.entries_moved(len(entries), charged_micros=charged_micros)
        self._metrics.entries_poisoned(applied.poisoned)
        self._metrics.holds_moved(
            placed=placed, recorded=recorded, released=released, expired=expired
        )

    def _remember(self, entries: Iterable[Entry]) -> None:
        committed = self._committed
        for entry in entries:
            if isinstance(entry, RecordEntry):
                committed[entry.workspace_id, entry.event_id] = None
        for key in list(islice(committed, max(0, len(committed) - _COMMITTED_MAX))):
            del committed[key]

    async def _retract(self, duplicate: DuplicateRecord) -> None:
        """Takes a second charge back out of the counters, and its entry out of the stream."""
        chat_ids = []
        chat_id = duplicate.chat_id
        while chat_id is not None:
            chat_ids.append(chat_id)
            chat = await self._storage.chat(duplicate.workspace_id, chat_id)
            chat_id = None if chat is None else chat.parent_chat_id
        logger.warning(
            "workspace %s: record %s was charged before; its second charge is taken back",
            duplicate.workspace_id,
            duplicate.event_id,
        )
        retracting = self._redis.retract(
            duplicate.workspace_id,
            stream_id=duplicate.stream_id,
            at_ms=duplicate.at_ms,
            micros=duplicate.charged_micros,
            chat_ids=chat_ids,
        )
        await self._repaired(duplicate.workspace_id, retracting)
        self._metrics.record_retracted()

    async def _forget_behind(self, seqs: Iterable[tuple[str, int]]) -> int:
        """Forgets the workspaces whose last entry in Redis is older than the ledger's."""

        async def look(workspace_id: str, seq: int) -> bool:
            forgetting = self._redis.forget(workspace_id, seq_below=seq)
            is_behind = bool(await self._repaired(workspace_id, forgetting))
            if is_behind:
                logger.warning("workspace %s: Redis was behind the ledger", workspace_id)
                self._metrics.workspace_forgotten("behind")
            return is_behind

        return sum(await asyncio.gather(*(look(*pair) for pair in seqs)))

    @staticmethod
    async def _repaired(workspace_id: str, repair: Awaitable[Repaired]) -> Repaired | None:
        """What the repair says; None where it fails for good, which must not stop the others."""
        try:
            return await repair
        except ScriptError as error:
            logger.error("workspace %s cannot be repaired: %s", workspace_id, error)
            return None
