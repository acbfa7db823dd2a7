"""The snapshot pass: moves what scripts appended to the streams into durable storage.

Read, commit, acknowledge, in this order: a pass that dies anywhere is repeated by whoever comes
next, and the commit takes each entry once. It must not touch counters and knows no SQL.
"""

from __future__ import annotations

import asyncio
import logging
import time

from limiter.durable import PoisonedEntry, Storage, parse_entry
from limiter.redis.stream import LedgerStreams, RawEntry

logger = logging.getLogger(__name__)

BATCH_MAX = 1_000

# An entry that lay unacknowledged for so many intervals belongs to a process that is gone.
_ABANDONED_INTERVALS = 10
_ABANDONED_MS_MIN = 5_000


class Snapshot:
    """Passes over all partitions, one at a time a process. `interval_ms`: how often they come."""

    def __init__(
        self, streams: LedgerStreams, storage: Storage, *, partitions: int, interval_ms: int
    ) -> None:
        self._streams = streams
        self._storage = storage
        self._partitions = partitions
        self._abandoned_ms = max(_ABANDONED_MS_MIN, _ABANDONED_INTERVALS * interval_ms)
        self._lock = asyncio.Lock()
        self._completed_at: float | None = None

    @property
    def age_ms(self) -> int | None:
        """Since the last pass that left nothing behind; None before the first."""
        if self._completed_at is None:
            return None
        return int((time.monotonic() - self._completed_at) * 1000)

    async def run_once(self) -> int:
        """Drains every partition of what was there when it came by. Returns the entries moved.

        Raises RedisUnavailable or StoreUnavailable; what was read stays in the stream.
        """
        moved = 0
        async with self._lock:
            for partition in range(self._partitions):
                moved += await self._drain(partition)
            self._completed_at = time.monotonic()
        return moved

    async def _drain(self, partition: int) -> int:
        streams = self._streams
        # Bounded by what is there now: a busy partition must not keep the others waiting.
        left = await streams.length(partition)
        if left == 0:
            return 0
        moved = 0
        for entries in (
            await streams.abandoned(partition, self._abandoned_ms, BATCH_MAX),
            await streams.own(partition, BATCH_MAX),
        ):
            await self._move(partition, entries)
            moved += len(entries)
        while moved < left:
            entries = await streams.new(partition, BATCH_MAX)
            if not entries:
                break
            await self._move(partition, entries)
            moved += len(entries)
        return moved

    async def _move(self, partition: int, raw: list[RawEntry]) -> None:
        if not raw:
            return
        entries = []
        for item in raw:
            try:
                entries.append(
                    parse_entry(item.fields, partition=partition, stream_id=item.stream_id)
                )
            except PoisonedEntry as error:
                logger.error("stream entry %s is poisoned: %s", item.stream_id, error)
                await self._storage.dead_letter(partition, item.stream_id, item.fields, str(error))
        await self._storage.apply(entries)
        await self._streams.acknowledge(partition, [item.stream_id for item in raw])
