"""`limiter snapshot`: everything that lies in the streams now goes to durable storage."""

from __future__ import annotations

import asyncio
import time

from limiter.commands.data import open_data
from limiter.errors import StoreUnavailable
from limiter.runtime import Parts
from limiter.settings import Settings

# Entries that a dead process had read are taken over only when they have lain for a while.
WAIT_MS_MAX = 60_000
_POLL_MS = 100


async def snapshot(settings: Settings) -> int:
    """Returns how many entries were moved, once all that was there is durable.

    What a running service moves itself meanwhile is not counted. Raises StoreUnavailable when
    something stays behind.
    """
    async with open_data(settings) as parts:
        return await drained(parts)


async def drained(parts: Parts) -> int:
    """Passes until nothing is left of what lies in the streams now; returns how many moved."""
    newest: dict[int, str] = {}
    for partition in range(parts.keys.partitions):
        last_id = await parts.streams.last_id(partition)
        if last_id is not None:
            newest[partition] = last_id
    moved = 0
    deadline = time.monotonic() + WAIT_MS_MAX / 1_000
    while newest:
        moved += await parts.snapshot.run_once()
        for partition, last_id in list(newest.items()):
            if not await parts.streams.has_up_to(partition, last_id):
                del newest[partition]
        if newest:
            if time.monotonic() > deadline:
                raise StoreUnavailable("some entries were read by a process that keeps them")
            await asyncio.sleep(_POLL_MS / 1_000)
    return moved
