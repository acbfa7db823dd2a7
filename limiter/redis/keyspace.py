"""A walk over all keys of the limiter, in bounded steps, that tells what each of them belongs to.

It finds what nothing lists: which workspaces are in Redis, and what forgotten ones left behind.
SCAN may name a key twice, and one that comes or goes meanwhile or not; so may this.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from limiter.errors import RedisUnavailable
from limiter.redis.keys import Keys

STEP_KEYS = 1_000

_KEY = re.compile(rb"lim:\{\d+\}:([A-Za-z0-9._@-]+):(workspace|(?:chat|source):[A-Za-z0-9._@-]+)")


@dataclass(frozen=True, slots=True)
class Step:
    """What one step came by. `idle`: workspaces that look idle; `hangers`: a workspace's chats and
    sources, by their keys. `is_last`: the walk has been everywhere.
    """

    idle: list[str] = field(default_factory=list)
    hangers: Mapping[str, list[str]] = field(default_factory=dict)
    is_last: bool = False


class KeyspaceWalk:
    """One walk after the other over the keys of all servers, each step where the last one ended.

    `clients`: those of the servers that have keys, at the beginning of a walk. A walk leaves a
    server that is away out; the next one comes by again.
    """

    def __init__(
        self, clients: Callable[[], Sequence[Redis]], keys: Keys, *, deadline_ms: int
    ) -> None:
        self._clients = clients
        self._keys = keys
        self._deadline_s = deadline_ms / 1000
        self._cursor = 0
        self._left: list[Redis] = []  # the first one is being walked over

    async def step(self, *, idle_since_ms: int | None = None) -> Step:
        """Looks at some STEP_KEYS keys. `idle_since_ms`: what counts as idle; None: nothing does.

        Raises RedisUnavailable; the step is then still to be made.
        """
        client = self._current()
        try:
            async with asyncio.timeout(self._deadline_s):
                cursor, found = await client.execute_command(
                    "SCAN", self._cursor, "MATCH", "lim:*", "COUNT", STEP_KEYS
                )
                workspaces, hangers = _sorted_out(found)
                idle = await self._idle(client, workspaces, idle_since_ms)
        except (RedisError, OSError, TimeoutError) as error:
            self._pass_by()
            raise RedisUnavailable(f"keys cannot be listed: {error}"[:200]) from error
        self._cursor = int(cursor)
        if self._cursor == 0:
            self._left.pop(0)
        return Step(idle=idle, hangers=hangers, is_last=not self._left)

    async def now_ms(self) -> int:
        """The clock of the server that the next step looks at. Raises RedisUnavailable."""
        try:
            async with asyncio.timeout(self._deadline_s):
                seconds, micros = await self._current().time()
        except (RedisError, OSError, TimeoutError) as error:
            self._pass_by()
            raise RedisUnavailable(f"the time cannot be read: {error}"[:200]) from error
        return int(seconds) * 1_000 + int(micros) // 1_000

    def _current(self) -> Redis:
        """The server to look at; the first one again where all were seen."""
        self._left = self._left or list(self._clients())
        if not self._left:
            raise RedisUnavailable("no server is known that has keys")
        return self._left[0]

    def _pass_by(self) -> None:
        """A server that is away must not keep a walk from the others; the only one is retried."""
        if len(self._clients()) > 1:
            self._left.pop(0)
            self._cursor = 0

    async def _idle(
        self, client: Redis, workspace_ids: list[str], idle_since_ms: int | None
    ) -> list[str]:
        """Those that the forget script would find idle, so that others are not bothered with."""
        if idle_since_ms is None or not workspace_ids:
            return []
        pipeline = client.pipeline(transaction=False)
        for workspace_id in workspace_ids:
            pipeline.hmget(self._keys.workspace(workspace_id), ["held", "clock"])
        replies = await pipeline.execute(raise_on_error=False)
        return [
            workspace_id
            for workspace_id, reply in zip(workspace_ids, replies, strict=True)
            if _is_idle(reply, idle_since_ms)
        ]


def _is_idle(reply: Any, idle_since_ms: int) -> bool:
    """A key that somebody else has put here is no workspace, and must not end the walk."""
    match reply:
        case [b"0", bytes(clock_ms)]:
            return clock_ms.isdigit() and int(clock_ms) <= idle_since_ms
        case _:
            return False


def _sorted_out(found: Iterable[bytes]) -> tuple[list[str], dict[str, list[str]]]:
    workspaces: list[str] = []
    hangers: defaultdict[str, list[str]] = defaultdict(list)
    for key in found:
        match = _KEY.fullmatch(key)
        if match is None:
            continue
        workspace_id = match[1].decode()
        if match[2] == b"workspace":
            workspaces.append(workspace_id)
        else:
            hangers[workspace_id].append(key.decode())
    return workspaces, hangers
