"""The Limiter: check, record, release, configure, usage. HTTP is one face of it.

It resolves what scripts cannot know (prices, defaults, durable storage), loads cold scopes, and
applies the outage policy. It must not decide over limits: only the scripts do, atomically.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeVar

import msgspec
from msgspec import UNSET

from limiter.configuration import default_workspace, patched, view_chat, view_workspace
from limiter.durable import Storage
from limiter.errors import (
    ChatNotFound,
    ChatParentUnknown,
    InvalidRequest,
    RedisUnavailable,
    ScriptError,
    StoreUnavailable,
    WorkspaceNotFound,
)
from limiter.ids import fingerprint, new_id
from limiter.models import (
    DEPTH_MAX,
    Admitted,
    ChatConfig,
    ChatPatch,
    ChatTreeUsage,
    CheckRequest,
    Denied,
    OutagePolicy,
    Readiness,
    Recorded,
    RecordRequest,
    Refused,
    Released,
    ReleaseRequest,
    WorkspaceConfig,
    WorkspacePatch,
    WorkspaceUsage,
)
from limiter.pricing import Prices
from limiter.redis.keys import require_id
from limiter.redis.store import Cold, RedisStore
from limiter.settings import Settings
from limiter.snapshot import Snapshot
from limiter.stored import StoredSource, WorkspaceSettings

Answer = TypeVar("Answer")

# A call may find its workspace, its source, and every chat up to the root cold, each once; twice
# that leaves room for a server that is flushed meanwhile.
_COLD_ROUNDS_MAX = 2 * (DEPTH_MAX + 3)


class _Unknowns:
    """What a call learned from durable storage about scopes that are not in Redis."""

    def __init__(self) -> None:
        self.chat_is_new = False
        self.source: StoredSource | None = None


class Limiter:
    """Spend limits for LLM calls, over one Redis and one durable store.

    All methods may be called concurrently on one event loop. They raise `limiter.errors`; a
    denial is a value.
    """

    def __init__(
        self,
        *,
        redis: RedisStore,
        storage: Storage,
        snapshot: Snapshot,
        prices: Prices,
        settings: Settings,
    ) -> None:
        """Made of parts that are ready to use; `open_limiter` makes and closes them."""
        self._redis = redis
        self._storage = storage
        self._snapshot = snapshot
        self._prices = prices
        self._settings = settings
        self._new_workspace = default_workspace(settings)

    # ------------------------------------------------------------------ check, record, release

    async def check(self, request: CheckRequest) -> Admitted | Denied | Refused:
        """May this call be made? Holds its estimate when it may.

        Raises InvalidRequest, IdReused, ReservationSettled, ModelUnpriced, WorkspaceNotFound and
        the chat errors. While Redis is away the outage policy answers.
        """
        estimate_micros = request.estimate_micros
        if request.usage is not None:
            estimate_micros = self._prices.estimate(request.usage, datetime.now(UTC)).micros
        hold_ms = request.hold_ms or self._settings.default_hold_ms
        if hold_ms > self._settings.hold_ms_max:
            raise InvalidRequest(f"hold_ms is above {self._settings.hold_ms_max}", field="hold_ms")
        reservation_id = request.reservation_id or new_id()
        payload = fingerprint(request)

        async def call(known: _Unknowns) -> Admitted | Denied | Cold:
            return await self._redis.check(
                request,
                estimate_micros=estimate_micros,
                reservation_id=reservation_id,
                fingerprint=payload,
                hold_ms=hold_ms,
                chat_is_new=known.chat_is_new,
            )

        try:
            return await self._warm(call, request.workspace_id, request.chat_id, creates=True)
        except RedisUnavailable:
            return await self._without_redis(request.workspace_id)

    async def record(self, request: RecordRequest) -> Recorded:
        """Charges what a call cost, once per event id, and settles its reservation.

        Raises InvalidRequest, IdReused, ReservationChatMismatch, ModelUnpriced, CounterOverflow,
        WorkspaceNotFound, the chat errors, and Unavailable when it was not recorded.
        """
        cost_micros, priced = self._cost(request)
        event_id = request.event_id or request.reservation_id or new_id()
        id_is_fresh = request.event_id is None and request.reservation_id is None
        payload = fingerprint(request)

        async def call(known: _Unknowns) -> Recorded | Cold:
            return await self._redis.record(
                request,
                event_id=event_id,
                id_is_fresh=id_is_fresh,
                fingerprint=payload,
                cost_micros=cost_micros,
                priced=priced,
                stored_source=known.source,
                chat_is_new=known.chat_is_new,
            )

        return await self._warm(call, request.workspace_id, request.chat_id, creates=True)

    async def release(self, request: ReleaseRequest) -> Released:
        """Gives a hold back. Harmless to repeat. Raises ReservationNotFound."""

        async def call(_: _Unknowns) -> Released | Cold:
            return await self._redis.release(request.workspace_id, request.reservation_id)

        return await self._warm(call, request.workspace_id, None, creates=False)

    # ------------------------------------------------------------------ configuration

    async def configure(
        self,
        workspace_id: str,
        patch: WorkspacePatch,
        *,
        replace: bool = False,
        actor: str = "library",
    ) -> WorkspaceConfig:
        """Changes what the patch names; with `replace`, the rest goes back to the defaults.

        Durable storage has the change before Redis, and both before this returns.
        """
        require_id(workspace_id, "workspace_id")
        initial = self._new_workspace

        def change(current: WorkspaceSettings) -> WorkspaceSettings:
            return patched(initial if replace else current, patch)

        settings, revision = await self._storage.configure_workspace(
            workspace_id, change, initial=initial, actor=actor
        )
        await self._redis.configure_workspace(workspace_id, settings, revision)
        return view_workspace(workspace_id, settings)

    async def workspace_config(self, workspace_id: str) -> WorkspaceConfig:
        """The configuration as durable storage has it. Raises WorkspaceNotFound."""
        stored = await self._storage.workspace(require_id(workspace_id, "workspace_id"))
        if stored is None:
            raise WorkspaceNotFound(workspace_id)
        return view_workspace(workspace_id, stored.settings)

    async def configure_chat(
        self,
        workspace_id: str,
        chat_id: str,
        patch: ChatPatch,
        *,
        replace: bool = False,
        actor: str = "library",
    ) -> ChatConfig:
        """Creates a chat or changes its limit. Raises the chat errors; a parent is immutable."""
        require_id(workspace_id, "workspace_id")
        require_id(chat_id, "chat_id")
        limit = patch.spend_limit_micros
        if replace and limit is UNSET:
            limit = None
        await self._snapshot.run_once()
        stored = await self._storage.configure_chat(
            workspace_id,
            chat_id,
            parent_chat_id=patch.parent_chat_id,
            limit_micros=limit,
            actor=actor,
        )
        await self._redis.configure_chat(
            workspace_id, chat_id, stored.limit_micros, stored.revision
        )
        return view_chat(stored)

    async def chat_config(self, workspace_id: str, chat_id: str) -> ChatConfig:
        """A chat's place and limit. Raises WorkspaceNotFound, ChatNotFound."""
        await self._snapshot.run_once()
        stored = await self._storage.chat(workspace_id, require_id(chat_id, "chat_id"))
        if stored is None:
            raise ChatNotFound(chat_id)
        return view_chat(stored)

    async def delete_chat(self, workspace_id: str, chat_id: str, *, actor: str = "library") -> None:
        """Removes a chat's limit. Its spend and its place in the tree stay."""
        await self.chat_config(workspace_id, chat_id)
        patch = ChatPatch(spend_limit_micros=None)
        await self.configure_chat(workspace_id, chat_id, patch, actor=actor)

    # ------------------------------------------------------------------ usage

    async def usage(self, workspace_id: str) -> WorkspaceUsage:
        """Every window now. Raises WorkspaceNotFound."""

        async def call(_: _Unknowns) -> WorkspaceUsage | Cold:
            result = await self._redis.usage(workspace_id)
            return result if isinstance(result, Cold) else result[0]

        return await self._warm(call, workspace_id, None, creates=False)

    async def chat_usage(self, workspace_id: str, chat_id: str) -> ChatTreeUsage:
        """A chat's sums, its ancestors and its children. Raises ChatNotFound."""
        require_id(chat_id, "chat_id")

        async def call(_: _Unknowns) -> ChatTreeUsage | Cold:
            result = await self._redis.usage(workspace_id, chat_id)
            if isinstance(result, Cold):
                return result
            chat, *above = result[1]
            return ChatTreeUsage(
                **msgspec.structs.asdict(chat),
                ancestors=[ancestor.chat_id for ancestor in reversed(above)],
                children=await self._storage.chat_children(workspace_id, chat_id),
            )

        return await self._warm(call, workspace_id, None, creates=False)

    async def readiness(self) -> Readiness:
        """Whether Redis and the store answer, and how old the last complete snapshot is."""
        redis = await self._redis.answers()
        try:
            await self._storage.workspaces(limit=1)
            store = True
        except StoreUnavailable:
            store = False
        return Readiness(
            ready=redis and store,
            redis=redis,
            store=store,
            snapshot_age_ms=self._snapshot.age_ms,
        )

    # ------------------------------------------------------------------ cold scopes

    async def _warm(
        self,
        call: Callable[[_Unknowns], Awaitable[Answer | Cold]],
        workspace_id: str,
        chat_id: str | None,
        *,
        creates: bool,
    ) -> Answer:
        """Calls until nothing is cold, loading what is. `creates`: new scopes may be made."""
        known = _Unknowns()
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
        stored = await self._storage.workspace(workspace_id)
        if stored is None:
            if not creates or self._settings.unknown_workspaces == "deny":
                raise WorkspaceNotFound(workspace_id)
            await self._storage.create_workspace(
                workspace_id, self._new_workspace, actor="first call"
            )
            stored = await self._storage.workspace(workspace_id)
            if stored is None:
                raise StoreUnavailable("the workspace just created is not there")
        await self._redis.load_workspace(workspace_id, stored)

    # ------------------------------------------------------------------ the rest

    def _cost(self, request: RecordRequest) -> tuple[int, bool]:
        """What is to be charged (or the running total), and whether the model had a price."""
        if request.usage is not None:
            cost = self._prices.cost(request.usage, datetime.now(UTC))
            return cost.micros, cost.priced
        cost_micros = request.cost_micros
        if cost_micros is None:
            cost_micros = request.cumulative_micros
        if cost_micros is None:
            raise InvalidRequest("no cost is given", field="cost_micros")
        return cost_micros, True

    async def _without_redis(self, workspace_id: str) -> Admitted | Refused:
        policy: OutagePolicy = self._settings.outage_policy
        try:
            stored = await self._storage.workspace(workspace_id)
        except StoreUnavailable:
            stored = None
        if stored is not None and stored.settings.outage_policy is not None:
            policy = stored.settings.outage_policy
        if policy == "deny":
            return Refused()
        return Admitted(degraded=True, reservation=None, periods={}, chat=None)
