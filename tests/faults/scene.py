"""A limiter on real parts in this process, and what every test of a fault asks in the end.

In the end means: the stream is drained, the ledger has each charge once, no sum has drifted from
it, and the counters in Redis say the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TypeVar

import redis

from limiter import Limiter
from limiter.durable import LedgerRow, Storage
from limiter.errors import Unavailable
from limiter.models import CheckRequest, Recorded, RecordRequest, WorkspacePatch
from limiter.redis.scripts import ScriptSet
from limiter.runtime import open_limiter
from limiter.settings import load_settings

T = TypeVar("T")

STREAM = "lim:{0}:stream"
WORKSPACE = "lim:{0}:acme:workspace"
DEADLINE_MS = 200
WAIT_MS_MAX = 20_000
SCENE_MS_MAX = 25_000
POLL_MS = 10

# What makes faults and recoveries quick; what they come to does not depend on it.
QUICK = {
    "redis_deadline_ms": DEADLINE_MS,
    "snapshot_interval_ms": 50,
    "breaker_reset_ms": 100,
}


@contextlib.asynccontextmanager
async def limiter_on(
    redis_url: str, store_url: str, *, scripts: ScriptSet | None = None, **settings: object
) -> AsyncIterator[Limiter]:
    """A running Limiter. What is done with it is bounded: a hang is a failure that says where."""
    options = {"redis_url": redis_url, "database_url": store_url, **QUICK, **settings}
    async with (
        asyncio.timeout(SCENE_MS_MAX / 1000),
        open_limiter(load_settings(options), scripts=scripts) as limiter,
    ):
        yield limiter


async def limit(limiter: Limiter, hourly: int | None) -> None:
    await limiter.configure("acme", WorkspacePatch(budget_limits={"hourly": hourly}))


def record(event_id: str | None, micros: int, **fields: object) -> RecordRequest:
    return RecordRequest(workspace_id="acme", event_id=event_id, cost_micros=micros, **fields)  # type: ignore[arg-type]


def check(micros: int, **fields: object) -> CheckRequest:
    return CheckRequest(workspace_id="acme", estimate_micros=micros, **fields)  # type: ignore[arg-type]


async def spent(limiter: Limiter) -> int:
    usage = await limiter.usage("acme")
    (micros,) = {period.spent_micros for period in usage.periods.values()}
    return micros


async def eventually(ask: Callable[[], Awaitable[T]], holds: Callable[[T], bool]) -> T:
    """Asks until the answer holds, and returns it. An outage is waited out; time is bounded."""
    deadline = time.monotonic() + WAIT_MS_MAX / 1000
    while True:
        try:
            answer = await ask()
        except Unavailable:
            if time.monotonic() > deadline:
                raise
        else:
            if holds(answer) or time.monotonic() > deadline:
                return answer
        await asyncio.sleep(POLL_MS / 1000)


async def drained(client: redis.Redis) -> None:
    async def length() -> int:
        return int(await asyncio.to_thread(client.execute_command, "XLEN", STREAM))

    assert await eventually(length, lambda entries: entries == 0) == 0


async def ledger(store_url: str) -> list[LedgerRow]:
    async with Storage(store_url) as storage:
        return [row async for row in storage.ledger_rows("acme")]


async def assert_counted_once(
    limiter: Limiter, client: redis.Redis, store_url: str, charges: Mapping[str, int]
) -> None:
    """Every charge is in the ledger once, and Redis, ledger and aggregates agree on the sums."""
    total = sum(charges.values())
    assert await eventually(lambda: spent(limiter), lambda micros: micros == total) == total
    await drained(client)
    async with Storage(store_url) as storage:
        rows = [(row.event_id, row.charged_micros) async for row in storage.ledger_rows("acme")]
        assert sorted(rows) == sorted(charges.items())
        assert await storage.unapplied() == []
        assert await storage.drift("acme") == []
    # Not only by now: what was still on its way would have shown.
    assert await spent(limiter) == total


async def record_until_answered(limiter: Limiter, request: RecordRequest) -> Recorded:
    """What a client does that knows its id: it sends again until it is told."""
    deadline = time.monotonic() + WAIT_MS_MAX / 1000
    while True:
        try:
            return await limiter.record(request)
        except Unavailable:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(POLL_MS / 1000)
