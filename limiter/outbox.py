"""Records that the ledger takes by itself, and how they get into Redis in the end.

It takes what Redis cannot take now, and what Redis took and may have lost again. Each row stays to
be told to Redis until its entry comes back; a row for which none can come is loaded instead, with
the whole workspace. It must not decide over limits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from limiter.durable import Storage
from limiter.errors import LimiterError, RedisUnavailable, ScriptError, Unavailable
from limiter.models import LATE_STATES, Recorded
from limiter.redis.store import RedisStore
from limiter.snapshot import Snapshot
from limiter.stored import ResolvedRecord

logger = logging.getLogger(__name__)

Event = tuple[str, str]  # workspace and event id


class Outbox:
    """`charge` tells Redis of a record, and answers as it does."""

    def __init__(
        self,
        redis: RedisStore,
        storage: Storage,
        snapshot: Snapshot,
        *,
        charge: Callable[[ResolvedRecord], Awaitable[Recorded]],
    ) -> None:
        self._redis = redis
        self._storage = storage
        self._snapshot = snapshot
        self._charge = charge
        self._lookup = _Lookup(storage)
        self._after: str | None = None

    async def confirm(self, record: ResolvedRecord, recorded: Recorded) -> Recorded | None:
        """The answer to a record that is durable for certain; None if the ledger does not have it.

        That its entry is not in the stream any more is no proof: a Redis that was emptied since it
        answered has no entries either.
        """
        event = (record.workspace_id, record.event_id)
        if _says_nothing(record, recorded) or self._snapshot.has_committed(*event):
            return recorded
        # Another process brought it into the ledger, or nobody did.
        if await self._lookup.fingerprint(event) == record.fingerprint:
            return recorded
        return None

    async def put(self, record: ResolvedRecord) -> Recorded:
        """Charges the record in the ledger. Raises WorkspaceNotFound, IdReused, ….

        Whether Redis had taken it before it went away, the event id will tell.
        """
        queued = await self._storage.queue_record(record)
        return Recorded(
            duplicate=not queued.inserted,
            late=queued.reservation_state in LATE_STATES,
            queued=True,
            priced=record.priced,
            event_id=record.event_id,
            charged_micros=queued.charged_micros,
            reservation_state=queued.reservation_state,
            periods={},
            chat=None,
        )

    async def bring_back(self) -> int:
        """Tells Redis of the rows that it has not confirmed yet. Returns how many it knows now.

        Raises Unavailable; what is left is brought by the next call. A workspace whose server is
        away keeps no other waiting, and neither do very many of them: the next call then begins
        where this one ended. Redis knows an event that it had taken after all. A row waits until
        its entry has come back to the ledger, because only that proves that Redis did not lose the
        charge again.
        """
        told = 0
        away: dict[str, RedisUnavailable] = {}
        without_entry: dict[int, int] = {}
        stuck: dict[int, tuple[str, str]] = {}
        try:
            rows = await self._storage.unapplied(after=self._after)
            self._after = rows[-1].record.workspace_id if rows else None
            for row in rows:
                workspace_id = row.record.workspace_id
                if workspace_id in away:
                    continue
                try:
                    recorded = await self._charge(row.record)
                except RedisUnavailable as error:
                    away[workspace_id] = error
                    continue
                except Unavailable:
                    raise
                except LimiterError as error:
                    # It knows the event with another payload, whose entry will replace the row; or
                    # it cannot take this one at all. Neither may keep the other rows waiting.
                    stuck[row.id] = (workspace_id, f"{error.code}: {error}")
                    continue
                told += 1
                if _says_nothing(row.record, recorded):
                    without_entry[row.id] = recorded.charged_micros
                elif recorded.duplicate:
                    stuck[row.id] = (workspace_id, "its entry did not come back")
        finally:
            if without_entry:
                ids = list(without_entry)
                await self._storage.mark_applied(ids, charged_micros=without_entry)
        if not away:
            self._after = None
        if stuck:
            await self._give_up(stuck)
        if away:
            raise next(iter(away.values()))
        return told

    async def _give_up(self, stuck: dict[int, tuple[str, str]]) -> None:
        """Ends the telling of rows whose entry, now that the streams were emptied, cannot come.

        The charge stands as the ledger has it, and gets into Redis with the workspace, which is
        loaded again.
        """
        await self._snapshot.settle_all(workspace_id for workspace_id, _ in stuck.values())
        reasons = {row_id: reason for row_id, (_, reason) in stuck.items()}
        for workspace_id in await self._storage.give_up(reasons):
            logger.error(
                "workspace %s: it is loaded with what Redis could not be told of", workspace_id
            )
            try:
                await self._redis.forget(workspace_id)
            except ScriptError as error:
                logger.error("workspace %s cannot be repaired: %s", workspace_id, error)


class _Lookup:
    """What the ledger has of events; callers that ask at the same time share a query."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lock = asyncio.Lock()
        self._asked: set[Event] = set()
        self._next_query: asyncio.Task[dict[Event, str]] | None = None

    async def fingerprint(self, event: Event) -> str | None:
        """That of the event's row; None if there is no row. Raises StoreUnavailable."""
        self._asked.add(event)
        if self._next_query is None:
            self._next_query = asyncio.create_task(self._query())
            self._next_query.add_done_callback(_look_at)
        # Shielded: a caller that gives up must not take it from the others.
        return (await asyncio.shield(self._next_query)).get(event)

    async def _query(self) -> dict[Event, str]:
        # One at a time: whoever asks meanwhile shares the next one.
        async with self._lock:
            asked, self._asked, self._next_query = self._asked, set(), None
            return await self._storage.fingerprints(asked)


def _look_at(task: asyncio.Task[dict[Event, str]]) -> None:
    """For the case that every caller has given up: asyncio would complain."""
    if not task.cancelled():
        task.exception()


def _says_nothing(record: ResolvedRecord, recorded: Recorded) -> bool:
    """Whether it was a running total that had not changed, which leaves no entry in the stream."""
    return (
        record.source is not None
        and recorded.charged_micros == 0
        and recorded.reservation_state is None
    )
