"""Configuration on its way from durable storage to Redis, and what Redis missed while it was away.

Durable storage has every change first, and notes of which one Redis was told. Telling is harmless
to repeat: Redis takes no older revision for a newer one. It must not decide over limits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from limiter.durable import Storage
from limiter.durable.revisions import UntoldChat, UntoldWorkspace
from limiter.errors import RedisUnavailable, ScriptError, StoreUnavailable
from limiter.redis.store import RedisStore
from limiter.stored import WorkspaceSettings

logger = logging.getLogger(__name__)

PAGE_ROWS = 1_000
# More at once would keep the calls of others waiting.
TOLD_AT_ONCE_MAX = 100

Row = TypeVar("Row", UntoldWorkspace, UntoldChat)


class Teller:
    """Tells Redis of configuration. A scope that is cold needs no more: it is loaded with it."""

    def __init__(self, redis: RedisStore, storage: Storage) -> None:
        self._redis = redis
        self._revisions = storage.revisions
        self._after_workspace: str | None = None
        self._after_chat: tuple[str, str] | None = None

    async def tell_workspace(
        self, workspace_id: str, settings: WorkspaceSettings, revision: int
    ) -> None:
        """Brings a workspace's configuration into force. Raises RedisUnavailable."""
        await self._redis.configure_workspace(workspace_id, settings, revision)
        await _noted(self._revisions.note_workspaces({workspace_id: revision}))

    async def tell_chat(
        self, workspace_id: str, chat_id: str, limit_micros: int | None, revision: int
    ) -> None:
        """Brings a chat's limit into force. Raises RedisUnavailable."""
        await self._redis.configure_chat(workspace_id, chat_id, limit_micros, revision)
        await _noted(self._revisions.note_chats({(workspace_id, chat_id): revision}))

    async def catch_up(self) -> int:
        """Tells Redis of a page each of workspaces and chats that it missed. Returns how many.

        Raises Unavailable; what is left is told by the next call. A scope whose server is away
        keeps no other waiting, and neither do very many of them: the next call then begins where
        this one ended.
        """
        workspaces = await self._revisions.untold_workspaces(self._after_workspace, PAGE_ROWS)
        told, away = await _tell(workspaces, self._configure_workspace)
        if told:
            await self._revisions.note_workspaces({row.key: row.revision for row in told})
        self._after_workspace = workspaces[-1].key if len(told) < len(workspaces) else None

        chats = await self._revisions.untold_chats(self._after_chat, PAGE_ROWS)
        told_chats, chats_away = await _tell(chats, self._configure_chat)
        if told_chats:
            await self._revisions.note_chats({row.key: row.revision for row in told_chats})
        self._after_chat = chats[-1].key if len(told_chats) < len(chats) else None

        for failure in (away, chats_away):
            if failure is not None:
                raise failure
        return len(told) + len(told_chats)

    async def _configure_workspace(self, row: UntoldWorkspace) -> None:
        await self._redis.configure_workspace(row.key, row.settings, row.revision)

    async def _configure_chat(self, row: UntoldChat) -> None:
        await self._redis.configure_chat(*row.key, row.limit_micros, row.revision)


async def _noted(noting: Awaitable[None]) -> None:
    """The change is in force: that it cannot be noted is no failure of it."""
    try:
        await noting
    except StoreUnavailable as error:
        logger.warning("Redis will be told of a change of limits once more: %s", error)


async def _tell(
    rows: Sequence[Row], configure: Callable[[Row], Awaitable[None]]
) -> tuple[list[Row], RedisUnavailable | None]:
    """The rows that Redis answered to, and why it did not answer to another one."""
    away: RedisUnavailable | None = None

    async def tell(row: Row) -> bool:
        nonlocal away
        try:
            await configure(row)
        except RedisUnavailable as error:
            away = error
            return False
        except ScriptError as error:
            # A foreign key in the way must not keep the others waiting.
            logger.error("the limits of %s are not in force: %s", row.key, error)
            return False
        return True

    told: list[Row] = []
    for first in range(0, len(rows), TOLD_AT_ONCE_MAX):
        some = rows[first : first + TOLD_AT_ONCE_MAX]
        answered = await asyncio.gather(*map(tell, some))
        told += [row for row, is_told in zip(some, answered, strict=True) if is_told]
    return told, away
