"""`limiter restore`: loads all workspaces and chats into Redis, before their first call needs them.

It does what a call does that finds its scope cold, only for all of them: what is there stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from limiter.commands.data import for_each, open_data, workspace_ids
from limiter.errors import WorkspaceNotFound
from limiter.runtime import Parts
from limiter.settings import Settings

CONCURRENCY = 32
CHATS_PAGE = 200

# Called with the workspaces done by now, and how many there are.
Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Restored:
    """What is in Redis now, whether it was there before or not."""

    workspaces: int = 0
    chats: int = 0


async def restore(settings: Settings, progress: Progress) -> Restored:
    """Makes everything hot. Raises StartupError, Unavailable."""
    async with open_data(settings) as parts:
        # What Redis has lost a part of is made cold, and so loaded like the rest.
        await parts.snapshot.reconcile()
        ids = await workspace_ids(parts.storage)
        restored = Restored()
        done = 0

        async def one(workspace_id: str) -> None:
            nonlocal done
            await _restore(parts, workspace_id, restored)
            done += 1
            progress(done, len(ids))

        await for_each(ids, one, concurrency=CONCURRENCY)
        return restored


async def _restore(parts: Parts, workspace_id: str, restored: Restored) -> None:
    try:
        await parts.limiter.usage(workspace_id)
    except WorkspaceNotFound:
        # It was never configured: only spend came of it, and its first call configures it.
        return
    restored.workspaces += 1
    after, is_last = None, False
    while not is_last:
        # First: chats that were read before this would be too old for what is loaded after it.
        counters = await parts.redis.inspect(workspace_id)
        if counters is None:
            break
        page = await parts.storage.chats(workspace_id, after, CHATS_PAGE)
        await asyncio.gather(
            *(parts.redis.load_chat(workspace_id, chat, counters.epoch) for chat in page)
        )
        restored.chats += len(page)
        is_last = len(page) < CHATS_PAGE
        after = page[-1].chat_id if page else None
