"""Cold scopes: what is not in Redis is loaded from durable storage, and the call made again.

A missing key never means zero. Loading is only-if-absent, so that concurrent loaders are harmless;
a chat that durable storage does not know either is new. It must not decide over limits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import TypeVar

from limiter.durable import Storage
from limiter.errors import (
    ChatNotFound,
    ChatParentUnknown,
    ScriptError,
    StoreUnavailable,
    WorkspaceNotFound,
)
from limiter.metrics import Metrics
from limiter.models import DEPTH_MAX
from limiter.redis.store import NOTHING_KNOWN, Cold, Known, RedisStore
from limiter.snapshot import Snapshot
from limiter.stored import StoredSource, StoredWorkspace, WorkspaceSettings
from limiter.telling import Teller

Answer = TypeVar("Answer")

# A call may find its workspace, its source, and every chat up to the root cold, each once; twice
# that leaves room for a server that is flushed meanwhile.
_COLD_ROUNDS_MAX = 2 * (DEPTH_MAX + 3)


class Loader:
    """Answers calls, loading what they need. `new_workspace` None: unknown ones are refused."""

    def __init__(
        self,
        redis: RedisStore,
        storage: Storage,
        snapshot: Snapshot,
        teller: Teller,
        *,
        new_workspace: WorkspaceSettings | None,
        metrics: Metrics | None = None,
    ) -> None:
        self._redis = redis
        self._storage = storage
        self._snapshot = snapshot
        self._teller = teller
        self._new_workspace = new_workspace
        self._metrics = metrics or Metrics()
        # A crowd of callers that find the same scope cold share one look into storage.
        self._under_way: dict[tuple[str | int, ...], asyncio.Task[bool]] = {}

    async def answer(
        self,
        call: Callable[[Known], Awaitable[Answer | Cold]],
        workspace_id: str,
        chat_id: str | None = None,
        *,
        creates: bool = False,
    ) -> Answer:
        """Calls until nothing is cold, loading what is. `creates`: new scopes may be made."""
        answer = await call(NOTHING_KNOWN)
        if isinstance(answer, Cold):
            answer = await self.warmed(answer, call, workspace_id, chat_id, creates=creates)
        return answer

    async def warmed(
        self,
        cold: Cold,
        call: Callable[[Known], Awaitable[Answer | Cold]],
        workspace_id: str,
        chat_id: str | None,
        *,
        creates: bool,
    ) -> Answer:
        """As `answer`, for a call that was made and found something cold."""
        known = NOTHING_KNOWN
        for _ in range(_COLD_ROUNDS_MAX):
            if cold.kind == "workspace":
                is_known = await self._shared(
                    ("workspace", workspace_id), partial(self._load_workspace, workspace_id)
                )
                if not is_known:
                    if not creates:
                        raise WorkspaceNotFound(workspace_id)
                    await self.create_workspace(workspace_id)
            elif cold.kind == "source":
                source = await self._load_source(workspace_id, cold.id)
                known = replace(known, source=source, source_in=cold.epoch)
            else:
                is_known = await self._shared(
                    ("chat", workspace_id, cold.id, cold.epoch),
                    partial(self._load_chat, workspace_id, cold.id, cold.epoch),
                )
                if not is_known:
                    if not creates or chat_id is None:
                        raise ChatNotFound(cold.id)
                    if cold.id != chat_id:
                        raise ChatParentUnknown(cold.id)
                    known = replace(known, new_chat_in=cold.epoch)
            answer = await call(known)
            if not isinstance(answer, Cold):
                return answer
            cold = answer
        raise ScriptError(f"workspace {workspace_id}: scopes keep vanishing from Redis")

    async def _shared(
        self, key: tuple[str | int, ...], load: Callable[[], Coroutine[None, None, bool]]
    ) -> bool:
        """Runs the load, unless it is under way: then its outcome is everybody's."""
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.create_task(load())
            task.add_done_callback(partial(self._ended, key))
        # Shielded: a caller that gives up must not take it from the others.
        return await asyncio.shield(task)

    def _ended(self, key: tuple[str | int, ...], task: asyncio.Task[bool]) -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()  # looked at, for the case that every caller has given up

    async def _load_source(self, workspace_id: str, source: str) -> StoredSource:
        """The last total of a reporter; zero of a new one."""
        stored = await self._storage.source(workspace_id, source)
        if stored is None:
            return StoredSource(total_micros=0, sequence=None)
        self._metrics.cold_load("source")
        return stored

    async def _load_chat(self, workspace_id: str, chat_id: str, epoch: int) -> bool:
        """Whether durable storage knows the chat, which then is in Redis."""
        stored = await self._storage.chat(workspace_id, chat_id)
        if stored is None:
            return False
        await self._redis.load_chat(workspace_id, stored, epoch)
        self._metrics.cold_load("chat")
        latest = await self._storage.chat(workspace_id, chat_id)
        if latest is not None and latest.revision > stored.revision:
            # Whoever changed it found it cold, and will not tell Redis again.
            await self._storage.revisions.note_chats({(workspace_id, chat_id): stored.revision})
            await self._teller.tell_chat(
                workspace_id, chat_id, latest.limit_micros, latest.revision
            )
        return True

    async def _load_workspace(self, workspace_id: str) -> bool:
        """Whether durable storage knows the workspace, which then is in Redis."""
        if await self._storage.workspace_head(workspace_id) is None:
            return False
        # What still lies in the stream belongs to what is loaded.
        await self._snapshot.settle(workspace_id)
        stored = await self._stored(workspace_id)
        if stored.events:
            # Redis has lost them, or never had them: nobody must be let past them meanwhile.
            await self._storage.adopt(workspace_id)
            latest = await self._stored(workspace_id)
            stored = replace(latest, events=stored.events)
        await self._redis.load_workspace(workspace_id, stored)
        self._metrics.cold_load("workspace")
        # Redis may have been emptied since that was read, with what came in between committed.
        head = await self._storage.workspace_head(workspace_id)
        if head is None:
            raise _vanished(workspace_id)
        seq, revision = head
        if seq > stored.seq:
            await self._redis.forget(workspace_id, seq_below=seq)
        if revision > stored.revision:
            # Whoever changed it found it cold, and will not tell Redis again.
            await self._storage.revisions.note_workspaces({workspace_id: stored.revision})
            latest = await self._stored(workspace_id)
            await self._teller.tell_workspace(workspace_id, latest.settings, latest.revision)
        return True

    async def _stored(self, workspace_id: str) -> StoredWorkspace:
        stored = await self._storage.workspace(workspace_id)
        if stored is None:
            raise _vanished(workspace_id)
        return stored

    async def create_workspace(self, workspace_id: str) -> None:
        """Creates it with the defaults; raises WorkspaceNotFound where that is not wanted."""
        if self._new_workspace is None:
            raise WorkspaceNotFound(workspace_id)
        await self._storage.create_workspace(workspace_id, self._new_workspace, actor="first call")


def _vanished(workspace_id: str) -> StoreUnavailable:
    return StoreUnavailable(f"workspace {workspace_id} vanishes from durable storage")
