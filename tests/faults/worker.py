"""A process that makes snapshot passes, and kills itself at a moment that its test has chosen.

python -m tests.faults.worker REDIS_URL STORE_URL MOMENT

`MOMENT` is `read` (entries are read and not committed), `committed` (committed and not removed),
each in the middle of the second batch, or `never`: it passes until it is killed, and
says so after each pass.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager

from limiter import snapshot
from limiter.durable import Applied, Entry, Storage
from limiter.redis.store import RedisStore
from limiter.runtime import open_parts
from limiter.settings import load_settings
from tests.support.module import running_module

BATCH = 50
BATCHES_BEFORE = 1


def worker(
    redis_url: str, store_url: str, moment: str
) -> AbstractContextManager[subprocess.Popen[str]]:
    """Runs one; kills it at the end if it is still there."""
    return running_module("tests.faults.worker", redis_url, store_url, moment)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _set_trap(moment: str) -> None:
    """From the second batch on, the chosen step is this process's last one."""
    apply, trim = Storage.apply, RedisStore.trim
    done = 0

    async def trapped_apply(self: Storage, entries: Sequence[Entry]) -> Applied:
        nonlocal done
        if moment == "read" and done >= BATCHES_BEFORE:
            _die()
        return await apply(self, entries)

    async def trapped_trim(self: RedisStore, partition: int, *, first: str, last: str) -> int:
        nonlocal done
        if moment == "committed" and done >= BATCHES_BEFORE:
            _die()
        removed = await trim(self, partition, first=first, last=last)
        done += 1
        return removed

    Storage.apply = trapped_apply  # type: ignore[method-assign]
    RedisStore.trim = trapped_trim  # type: ignore[method-assign]


async def _pass(redis_url: str, store_url: str) -> None:
    settings = load_settings(
        {"redis_url": redis_url, "database_url": store_url, "redis_deadline_ms": 10_000}
    )
    async with open_parts(settings) as parts:
        # Its parent ends it; a worker that nobody listens to any more fails to say so.
        while True:
            moved = await parts.snapshot.run_once()
            print(moved, flush=True)  # noqa: T201 - this is how it is followed
            await asyncio.sleep(0.001)


def main(redis_url: str, store_url: str, moment: str) -> None:
    snapshot.BATCH_MAX = BATCH
    _set_trap(moment)
    asyncio.run(_pass(redis_url, store_url))


if __name__ == "__main__":
    main(*sys.argv[1:])
