"""The `limits` package: its asynchronous moving window with four windows, over both its clients.

A hit in a window is a call of its own, and the next window is only hit when the one before had
room. The limits are never reached, which is the cheapest case: nothing is looked up in the list.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from limits import RateLimitItemPerDay, RateLimitItemPerHour, RateLimitItemPerMonth
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter

from bench.peers.callers import Call, main

LIMIT = 10**9
WINDOWS = (
    RateLimitItemPerHour(LIMIT),
    RateLimitItemPerDay(LIMIT),
    RateLimitItemPerDay(LIMIT, 7),
    RateLimitItemPerMonth(LIMIT),
)


@contextlib.asynccontextmanager
async def contenders(redis_url: str) -> AsyncIterator[dict[str, Call]]:
    url = f"async+redis+{redis_url}"  # a unix:// URL, as this package spells it

    def hits(storage: RedisStorage, identifier: str) -> Call:
        limiter = MovingWindowRateLimiter(storage)

        async def hit() -> None:
            for window in WINDOWS:
                assert await limiter.hit(window, identifier)

        return hit

    yield {
        "limits, moving window, redis-py": hits(
            RedisStorage(url, implementation="redispy"), "redispy"
        ),
        "limits, moving window, coredis": hits(
            RedisStorage(url, implementation="coredis"), "coredis"
        ),
    }


if __name__ == "__main__":
    main(contenders)
