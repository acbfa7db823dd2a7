"""Cold scopes: what is not in Redis is loaded from durable storage, and the call made again.

A missing key never means zero. Loading is only-if-absent, so that concurrent loaders are harmless;
a chat that durable storage does not know either is new. It must not decide over limits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from limiter.durable import Storage
from limiter.errors import (
    ChatNotFound,
    ChatParentUnknown,
    ScriptError,
    StoreUnavailable,
    WorkspaceNotFound,
)
from limiter.models import DEPTH_MAX
from limiter.redis.store import Cold, RedisStore
from limiter.snapshot import Snapshot
from limiter.stored import StoredSource, WorkspaceSettings

Answer = TypeVar("Answer")

# A call may find its workspace, its source, and every chat up to the root cold, each once; twice
# that leaves room for a server that is flushed meanwhile.
_COLD_ROUNDS_MAX = 2 * (DEPTH_MAX + 3)


class Known:
    """What a call learned from durable storage about scopes that are not in Redis."""

    def __init__(self) -> None:
        self.chat_is_new = False
        self.source: StoredSource | None = None


class Loader:
    """Answers calls, loading what they need. `new_workspace` None: unknown ones are refused."""

    def __init__(
        self,
        redis: RedisStore,
        storage: Storage,
        snapshot: Snapshot,
        *,
        new_workspace: WorkspaceSettings | None,
    ) -> None:
        self._redis = redis
        self._storage = storage
        self._snapshot = snapshot
        self._new_workspace = new_workspace

    async def answer(
        self,
        call: Callable[[Known], Awaitable[Answer | Cold]],
        workspace_id: str,
        chat_id: str | None,
        *,
        creates: bool,
    ) -> Answer:
        """Calls until nothing is cold, loading what is. `creates`: new scopes may be made."""
        known = Known()
        for _ in range(_COLD_ROUNDS_MAX):
            answer = await call(known)
            if not isinstance(answer, Cold):
                return answer
            if answer.kind == "workspace":
                await self._load_workspace(workspace_id, creates=creates)
            elif answer.kind == "source":
                known.source = await self._storage.source(workspace_id, answer.id) or StoredSource(
                    total_micros=0, sequence=None
                )
            else:
                stored = await self._storage.chat(workspace_id, answer.id)
                if stored is not None:
                    await self._redis.load_chat(workspace_id, stored)
                elif creates and answer.id == chat_id:
                    known.chat_is_new = True
                elif creates and chat_id is not None:
                    raise ChatParentUnknown(answer.id)
                else:
                    raise ChatNotFound(answer.id)
        raise ScriptError(f"workspace {workspace_id}: scopes keep vanishing from Redis")

    async def _load_workspace(self, workspace_id: str, *, creates: bool) -> None:
        if await self._storage.workspace(workspace_id) is not None:
            # What still lies in the stream belongs to what is loaded.
            await self._snapshot.settle(workspace_id)
        elif creates:
            await self.create_workspace(workspace_id)
        else:
            raise WorkspaceNotFound(workspace_id)
        stored = await self._storage.workspace(workspace_id)
        if stored is None:
            raise StoreUnavailable(f"workspace {workspace_id} vanishes from durable storage")
        await self._redis.load_workspace(workspace_id, stored)
        # Redis may have been emptied since that was read, with what came in between committed.
        latest = await self._storage.workspace(workspace_id)
        if latest is None:
            raise StoreUnavailable(f"workspace {workspace_id} vanishes from durable storage")
        if latest.seq > stored.seq:
            await self._redis.forget(workspace_id, seq_below=latest.seq)
        if latest.revision > stored.revision:
            await self._redis.configure_workspace(workspace_id, latest.settings, latest.revision)

    async def create_workspace(self, workspace_id: str) -> None:
        """Creates it with the defaults; raises WorkspaceNotFound where that is not wanted."""
        if self._new_workspace is None:
            raise WorkspaceNotFound(workspace_id)
        await self._storage.create_workspace(workspace_id, self._new_workspace, actor="first call")
