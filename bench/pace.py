"""Load at a steady pace, from callers of this process.

A call that could not begin when it was due, because the event loop was busy, has waited: it counts
from when it was due. It must not judge latencies.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

# Timers fire up to a millisecond late by themselves, and that is not the program's doing.
TIMER_S = 0.002


async def steady_pace(
    first: Callable[[int], Awaitable[object]],
    then: Callable[[int], Awaitable[object]],
    *,
    per_second: int,
    count: int,
    callers: int,
) -> list[float]:
    """Makes `count` calls at even distances, and returns how long each `first` took, in ms.

    Each is followed by its `then`. A caller that falls behind makes up for it at once.
    """
    # The loop's own clock stands still while it runs callbacks.
    begins_at = time.perf_counter()
    latencies_ms: list[float] = []

    async def caller(index: int) -> None:
        for number in range(index, count, callers):
            due_at = begins_at + number / per_second
            await asyncio.sleep(max(0.0, due_at - time.perf_counter()))
            started_at = time.perf_counter()
            since = due_at if started_at - due_at > TIMER_S else started_at
            await first(number)
            latencies_ms.append((time.perf_counter() - since) * 1_000)
            await then(number)

    await asyncio.gather(*(caller(index) for index in range(callers)))
    return latencies_ms
