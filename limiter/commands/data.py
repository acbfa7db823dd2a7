"""What the commands have in common: getting at the data, whether a service runs or not.

Where a service runs the embedded server, that one is used; where none runs, a command starts it for
itself and ends it again. Nothing is done that a command did not ask for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar

from pydantic import SecretStr

from limiter.durable import Storage
from limiter.errors import StartupError
from limiter.redis.embedded import running_url
from limiter.runtime import Parts, database_path, database_url, open_parts
from limiter.settings import Settings

Item = TypeVar("Item")

# Nobody waits for an answer within milliseconds here, and a command is to finish.
DEADLINE_MS = 10_000


@contextlib.asynccontextmanager
async def open_data(settings: Settings) -> AsyncIterator[Parts]:
    """Redis and durable storage. Raises StartupError where there is no data, and Unavailable."""
    _require_data(settings)
    changes: dict[str, object] = {
        "redis_deadline_ms": max(settings.redis_deadline_ms, DEADLINE_MS),
        "redis_connect_ms": max(settings.redis_connect_ms, DEADLINE_MS),
    }
    if settings.redis_url is None:
        url = await asyncio.to_thread(running_url, settings.data_dir)
        if url is not None:
            changes["redis_url"] = SecretStr(url)
    async with open_parts(settings.model_copy(update=changes)) as parts:
        yield parts


@contextlib.asynccontextmanager
async def open_storage(settings: Settings) -> AsyncIterator[Storage]:
    """Durable storage alone. Raises StartupError where there is no data, and StoreUnavailable."""
    _require_data(settings)
    async with Storage(database_url(settings)) as storage:
        yield storage


async def workspace_ids(storage: Storage) -> list[str]:
    """All there are, in order."""
    found: list[str] = []
    while page := await storage.workspaces(found[-1] if found else None):
        found += page
    return found


async def for_each(
    items: Iterable[Item], work: Callable[[Item], Awaitable[None]], *, concurrency: int
) -> None:
    """Runs `work` for every item, so many at a time. The first error ends it."""
    left = iter(items)
    is_over = False

    async def worker() -> None:
        for item in left:
            await work(item)
            if is_over:
                return

    workers = [asyncio.create_task(worker()) for _ in range(concurrency)]
    try:
        await asyncio.gather(*workers)
    finally:
        # Redis-py may swallow a cancellation; no worker may begin the next item then.
        is_over = True
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def _require_data(settings: Settings) -> None:
    """A command that looks after data must not begin with making an empty folder."""
    path = database_path(settings)
    if path is not None and not path.is_file():
        raise StartupError(
            f"there is no data in {str(settings.data_dir)!r}: set LIMITER_DATA_DIR or "
            "LIMITER_DATABASE_URL as the service has it"
        )
