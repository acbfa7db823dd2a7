"""The work that nobody waits for: old ledger rows go, idle workspaces leave Redis, leftovers too.

A `tick` does a bounded part of it, so that snapshot passes are never kept waiting. Any number of
processes may do it at once. It must not decide over limits.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from limiter.durable import Storage
from limiter.errors import ScriptError
from limiter.periods import DAY_MS
from limiter.redis.keys import Keys
from limiter.redis.keyspace import KeyspaceWalk
from limiter.redis.store import RedisStore
from limiter.snapshot import Snapshot

logger = logging.getLogger(__name__)

# A round of pruning is a batch a tick until there is nothing left; then there is a pause.
PRUNE_ROWS = 2_000
PRUNE_PAUSE_S = 60
WALK_PAUSE_S_MAX = 60
# Where workspaces do not leave, only repairs make leftovers.
WALK_PAUSE_S_NEVER_IDLE = 3_600
# One sweep is one script call.
SWEEP_KEYS_MAX = 200


class Upkeep:
    """`idle_workspace_ms` 0: workspaces stay. `monotonic_s` paces the rounds."""

    def __init__(
        self,
        redis: RedisStore,
        storage: Storage,
        snapshot: Snapshot,
        walk: KeyspaceWalk,
        keys: Keys,
        *,
        retention_days: int,
        idle_workspace_ms: int,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = redis
        self._storage = storage
        self._snapshot = snapshot
        self._walk = walk
        self._keys = keys
        self._retention_ms = retention_days * DAY_MS
        self._idle_ms = idle_workspace_ms
        self._walk_pause_s: float = WALK_PAUSE_S_NEVER_IDLE
        if idle_workspace_ms > 0:
            self._walk_pause_s = min(idle_workspace_ms / 1_000, WALK_PAUSE_S_MAX)
        self._monotonic_s = monotonic_s
        # A process that starts cannot know what one before it left undone.
        self._prune_at = self._walk_at = monotonic_s()

    async def tick(self) -> None:
        """A bounded part of what is due. Raises RedisUnavailable, StoreUnavailable."""
        now = self._monotonic_s()
        if now >= self._prune_at and await self.prune() == 0:
            self._prune_at = now + PRUNE_PAUSE_S
        if now >= self._walk_at and await self.step():
            self._walk_at = now + self._walk_pause_s

    async def prune(self) -> int:
        """A batch of rows that nothing asks for any more; returns how many went."""
        deleted = await self._storage.prune(self._retention_ms, PRUNE_ROWS)
        if deleted:
            logger.info("pruned %d rows of durable storage", deleted)
        return deleted

    async def step(self) -> bool:
        """A step of a walk over Redis; True when it was the last one.

        What idle workspaces leave behind may lie where the walk has been: the next one finds it.
        """
        idle_since_ms = None
        if self._idle_ms > 0:
            idle_since_ms = await self._walk.now_ms() - self._idle_ms
        step = await self._walk.step(idle_since_ms=idle_since_ms)
        await self._sweep(step.hangers)
        if idle_since_ms is not None:
            await self._forget(step.idle, idle_since_ms)
        return step.is_last

    async def _sweep(self, hangers: Mapping[str, list[str]]) -> None:
        async def sweep(workspace_id: str, keys: Sequence[str]) -> None:
            try:
                await self._redis.sweep(workspace_id, keys)
            except ScriptError as error:
                # Somebody else's key under one of our names must not end the upkeep.
                logger.error("leftovers of workspace %s stay: %s", workspace_id, error)

        await asyncio.gather(
            *(
                sweep(workspace_id, keys[first : first + SWEEP_KEYS_MAX])
                for workspace_id, keys in hangers.items()
                for first in range(0, len(keys), SWEEP_KEYS_MAX)
            )
        )

    async def _forget(self, workspace_ids: Sequence[str], idle_since_ms: int) -> None:
        # What they append from now on makes them too young for the script.
        await self._snapshot.settle_all(workspace_ids)
        forgotten = await asyncio.gather(
            *(self._redis.forget(name, idle_since_ms=idle_since_ms) for name in workspace_ids)
        )
        if any(forgotten):
            logger.debug("%d idle workspaces left Redis", sum(forgotten))
