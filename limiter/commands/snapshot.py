"""`limiter snapshot`: everything that lies in the streams now goes to durable storage."""

from __future__ import annotations

from limiter.commands.data import open_data
from limiter.settings import Settings


async def snapshot(settings: Settings) -> int:
    """Returns how many entries were moved, once all that was there is durable.

    What a running service moves itself meanwhile is not counted.
    """
    async with open_data(settings) as parts:
        return await parts.snapshot.run_once()
