"""Which revision of each configuration Redis was told of, so that what it missed is found.

What is noted is what Redis answered to. It may lag behind: Redis is then told once more, which
changes nothing there. It must not talk to Redis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, select, tuple_

from limiter.durable import bulk
from limiter.durable.books import lock_workspaces
from limiter.durable.engine import Database
from limiter.durable.load import all_settings
from limiter.durable.schema import (
    chat_is_untold,
    chats,
    config_audit,
    workspace_is_untold,
    workspaces,
)
from limiter.stored import WorkspaceSettings

# Workspace and chat.
ChatKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class UntoldWorkspace:
    """The newest configuration of a workspace, of which Redis knows an older one."""

    key: str
    settings: WorkspaceSettings
    revision: int


@dataclass(frozen=True, slots=True)
class UntoldChat:
    """The newest limit of a chat, of which Redis knows an older one."""

    key: ChatKey
    limit_micros: int | None
    revision: int


class Revisions:
    """Every method raises StoreUnavailable, and is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def untold_workspaces(self, after: str | None, limit: int) -> list[UntoldWorkspace]:
        """Those that Redis is to be told of, in the order of their ids, from behind `after`."""
        return await self._database.read(lambda c: untold_workspaces(c, after, limit))

    async def untold_chats(self, after: ChatKey | None, limit: int) -> list[UntoldChat]:
        """Those that Redis is to be told of, by workspace and id, from behind `after`."""
        return await self._database.read(lambda c: untold_chats(c, after, limit))

    async def note_workspaces(self, revisions: Mapping[str, int]) -> None:
        """Redis was told of these revisions, or has them; by workspace."""
        await self._database.write(lambda c: _note_workspaces(c, revisions))

    async def note_chats(self, revisions: Mapping[ChatKey, int]) -> None:
        """Redis was told of these revisions, or has them; by workspace and chat."""
        await self._database.write(lambda c: _note_chats(c, revisions))

    async def doubt(self, since_ms: int) -> None:
        """Has Redis told once more of what was changed since then, by the clock of the audit.

        For a server that may have lost its latest writes, or been restored from an old dump.
        """
        await self._database.write(lambda c: _doubt(c, since_ms))


def untold_workspaces(
    connection: Connection, after: str | None, limit: int
) -> list[UntoldWorkspace]:
    """See `Revisions.untold_workspaces`."""
    rows = connection.execute(
        select(workspaces)
        .where(workspace_is_untold, workspaces.c.workspace_id > (after or ""))
        .order_by(workspaces.c.workspace_id)
        .limit(limit)
    ).all()
    found = all_settings(connection, rows)
    return [UntoldWorkspace(r.workspace_id, found[r.workspace_id], r.revision) for r in rows]


def untold_chats(connection: Connection, after: ChatKey | None, limit: int) -> list[UntoldChat]:
    """See `Revisions.untold_chats`."""
    key = (chats.c.workspace_id, chats.c.chat_id)
    rows = connection.execute(
        select(*key, chats.c.limit_micros, chats.c.revision)
        .where(chat_is_untold, tuple_(*key) > tuple_(*(after or ("", ""))))
        .order_by(*key)
        .limit(limit)
    )
    return [UntoldChat((r.workspace_id, r.chat_id), r.limit_micros, r.revision) for r in rows]


def _doubt(connection: Connection, since_ms: int) -> None:
    changed = connection.execute(
        select(config_audit.c.workspace_id, config_audit.c.chat_id)
        .where(config_audit.c.at_ms >= since_ms)
        .distinct()
    ).all()
    _note_workspaces(connection, {row.workspace_id: 0 for row in changed if row.chat_id is None})
    _note_chats(connection, {(row.workspace_id, row.chat_id): 0 for row in changed if row.chat_id})


def _note_workspaces(connection: Connection, revisions: Mapping[str, int]) -> None:
    lock_workspaces(connection, set(revisions))
    rows = list(revisions.items())
    bulk.change(connection, workspaces, ("workspace_id",), ("told_revision",), rows)


def _note_chats(connection: Connection, revisions: Mapping[ChatKey, int]) -> None:
    # Whoever else holds the lock writes whole rows, and would write the older number back.
    lock_workspaces(connection, {workspace_id for workspace_id, _ in revisions})
    rows = [(*key, revision) for key, revision in revisions.items()]
    bulk.change(connection, chats, ("workspace_id", "chat_id"), ("told_revision",), rows)
