"""Looks at many workspaces, or at holds, without changing anything. `RedisStore` has the rest."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from limiter.errors import RedisUnavailable, ScriptError
from limiter.models import PeriodUsage
from limiter.redis import replies
from limiter.redis.keys import Keys
from limiter.redis.server import Link


@dataclass(frozen=True, slots=True)
class LiveHold:
    """A hold as Redis has it."""

    reservation_id: str
    held_micros: int
    chat_id: str | None
    expires_at_ms: int


@dataclass(frozen=True, slots=True)
class Glance:
    """Workspaces that are in Redis, by id, at `now_ms` of its clock; None: nobody answered."""

    now_ms: int | None
    periods: Mapping[str, Mapping[str, PeriodUsage]]


class RedisReads:
    """Read-only script calls. Each raises ScriptError for a key that is not what it should be."""

    def __init__(self, link: Link, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    async def glance(self, workspace_ids: Sequence[str]) -> Glance:
        """Where workspaces stand now, of those that are not cold and whose server answers.

        `workspace_ids` should be a hundred at most: those of a partition are one script call.
        """
        by_partition: defaultdict[int, list[str]] = defaultdict(list)
        for workspace_id in workspace_ids:
            by_partition[self._keys.partition(workspace_id)].append(workspace_id)
        glances = await asyncio.gather(*map(self._glance, by_partition.values()))
        return Glance(
            now_ms=max((g.now_ms for g in glances if g.now_ms is not None), default=None),
            periods={name: found for g in glances for name, found in g.periods.items()},
        )

    async def _glance(self, workspace_ids: Sequence[str]) -> Glance:
        """Of workspaces of one partition."""
        keys = tuple(self._keys.workspace(workspace_id) for workspace_id in workspace_ids)
        try:
            _, now_ms, blocks = await self._link.run("glance", keys)
        except RedisUnavailable:
            return Glance(None, {})
        # In a cluster a key of no workspace may stand behind these.
        if len(blocks) < len(keys):
            raise ScriptError(f"glance: {len(blocks)} blocks for {len(keys)} workspaces")
        pairs = zip(workspace_ids, blocks, strict=False)
        return Glance(now_ms, {name: replies.periods(block) for name, block in pairs if block})

    async def holds(self, workspace_id: str, limit: int) -> tuple[int, list[LiveHold]] | None:
        """The clock, and the holds that expire next; None if the workspace is cold.

        Raises RedisUnavailable.
        """
        key = self._keys.workspace(workspace_id)
        reply = await self._link.run("list_holds", (key,), limit)
        if reply[0] == b"cold":
            return None
        if reply[0] != b"holds":
            raise ScriptError(f"list_holds: unexpected reply {reply!r:.200}")
        _, now_ms, *holds = reply
        return now_ms, [
            LiveHold(reservation_id.decode(), int(micros), replies.text_or_none(chat), int(at_ms))
            for reservation_id, micros, chat, at_ms in holds
        ]
