"""The frame of a contender: so many callers at once on one event loop, counted for some seconds.

Every contender runs in a process of its own, under the same loop, with the same number of callers.
A line on standard input starts a round and is answered by a line of JSON. Standard library and
uvloop only, as it also runs where the limiter is not installed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import uvloop

# One call by one caller; it raises unless the call was let through. Shared by all callers.
Call = Callable[[], Awaitable[None]]
# From the Redis URL to contenders by name, ready to be called.
Contenders = Callable[[str], AbstractAsyncContextManager[dict[str, Call]]]

WARM_UP_S = 0.5


def main(contenders: Contenders) -> None:
    """Serves rounds until standard input ends. A line is the name of a contender."""
    parser = argparse.ArgumentParser()
    parser.add_argument("redis_url")
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()

    async def serve() -> None:
        async with contenders(options.redis_url) as calls:
            print(json.dumps(sorted(calls)), flush=True)
            async for name in _lines():
                await _calls_per_s(calls[name], options.callers, WARM_UP_S)
                rate = await _calls_per_s(calls[name], options.callers, options.seconds)
                print(json.dumps(rate), flush=True)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


async def _lines() -> AsyncIterator[str]:
    while line := await asyncio.to_thread(sys.stdin.readline):
        yield line.strip()


async def _calls_per_s(call: Call, callers: int, seconds: float) -> float:
    """Calls that were answered, each caller making its next as soon as it has its answer."""
    begin = time.perf_counter()
    end = begin + seconds

    async def caller() -> int:
        count = 0
        while time.perf_counter() < end:
            await call()
            count += 1
        return count

    counts = await asyncio.gather(*(caller() for _ in range(callers)))
    return sum(counts) / (time.perf_counter() - begin)
