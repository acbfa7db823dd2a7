"""The Limiter: check, record, release, configure, usage. HTTP is one face of it.

It resolves what scripts cannot know (prices, defaults, durable storage), loads cold scopes, and
applies the outage policy. It must not decide over limits: only the scripts do, atomically.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from datetime import UTC, datetime

import msgspec
from msgspec import UNSET

from limiter.configuration import default_workspace, patched, view_chat, view_workspace
from limiter.durable import Storage
from limiter.errors import (
    ChatNotFound,
    InvalidRequest,
    NotInForceYet,
    RedisUnavailable,
    StoreUnavailable,
    Unavailable,
    WorkspaceNotFound,
)
from limiter.ids import UNCOMPARED, fingerprint, new_id
from limiter.loading import Loader
from limiter.metrics import Metrics
from limiter.models import (
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
from limiter.outbox import Outbox
from limiter.pricing import Prices
from limiter.reads import Reads
from limiter.redis.keys import require_id
from limiter.redis.store import NOTHING_KNOWN, Cold, Known, RedisStore
from limiter.settings import Settings
from limiter.snapshot import Snapshot
from limiter.stored import ResolvedRecord, WorkspaceSettings
from limiter.telling import Teller
from limiter.views import Explanation

logger = logging.getLogger(__name__)

# A database that is frozen answers nobody, and who asks whether it is ready cannot wait for it.
_STORE_ANSWER_MS_MAX = 1_000


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
        metrics: Metrics | None = None,
    ) -> None:
        """Made of parts that are ready to use; `open_limiter` makes and closes them."""
        self._redis = redis
        self._storage = storage
        self._snapshot = snapshot
        self._prices = prices
        self._settings = settings
        self._metrics = metrics or Metrics()
        self._new_workspace = default_workspace(settings)
        self._teller = Teller(redis, storage)
        self._loader = Loader(
            redis,
            storage,
            snapshot,
            self._teller,
            new_workspace=(
                self._new_workspace if settings.unknown_workspaces == "create" else None
            ),
            metrics=self._metrics,
        )
        self.reads = Reads(redis, storage)
        self._outbox = Outbox(redis, storage, snapshot, charge=self._charge)

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
        if request.reservation_id is None:
            reservation_id, payload = new_id(), UNCOMPARED
        else:
            reservation_id, payload = request.reservation_id, fingerprint(request)

        def call(known: Known) -> Awaitable[Admitted | Denied | Cold]:
            return self._redis.check(
                request,
                estimate_micros=estimate_micros,
                reservation_id=reservation_id,
                fingerprint=payload,
                hold_ms=hold_ms,
                known=known,
            )

        try:
            # Nearly always nothing is cold, and each coroutine on the way is a part of the cost.
            answer = await call(NOTHING_KNOWN)
            if not isinstance(answer, Cold):
                return answer
            return await self._loader.warmed(
                answer, call, request.workspace_id, request.chat_id, creates=True
            )
        except Unavailable as error:
            # Redis is away, or the workspace is cold and durable storage is.
            logger.debug("a check is answered by policy: %s", error)
            return await self._by_policy(request.workspace_id)

    async def record(self, request: RecordRequest) -> Recorded:
        """Charges what a call cost, once per event id, and settles its reservation.

        While Redis is away the ledger takes it (`queued`), and Redis is told when it is back.
        Raises InvalidRequest, IdReused, ReservationChatMismatch, ModelUnpriced, CounterOverflow,
        WorkspaceNotFound, the chat errors, and Unavailable when nobody took it.
        """
        record = self._resolved(request)
        id_is_fresh = request.event_id is None and request.reservation_id is None
        try:
            recorded = await self._charge(record, id_is_fresh=id_is_fresh)
            if self._settings.durability == "snapshot":
                return recorded
            await self._snapshot.settle(request.workspace_id)
        except RedisUnavailable:
            return await self._queue(record)
        return await self._in_the_ledger(record, recorded)

    async def release(self, request: ReleaseRequest) -> Released:
        """Gives a hold back. Harmless to repeat. Raises ReservationNotFound."""

        def call(_: Known) -> Awaitable[Released | Cold]:
            return self._redis.release(request.workspace_id, request.reservation_id)

        return await self._loader.answer(call, request.workspace_id)

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

        Durable storage has the change before Redis, and both before this returns. Raises
        StoreUnavailable if nothing was changed, and NotInForceYet.
        """
        require_id(workspace_id, "workspace_id")
        initial = self._new_workspace

        def change(current: WorkspaceSettings) -> WorkspaceSettings:
            return patched(initial if replace else current, patch)

        settings, revision = await self._storage.configure_workspace(
            workspace_id, change, initial=initial, actor=actor
        )
        try:
            await self._teller.tell_workspace(workspace_id, settings, revision)
        except RedisUnavailable as error:
            raise NotInForceYet from error
        return view_workspace(workspace_id, settings)

    async def workspace_config(self, workspace_id: str) -> WorkspaceConfig:
        """The configuration as durable storage has it. Raises WorkspaceNotFound."""
        settings = await self._storage.settings(require_id(workspace_id, "workspace_id"))
        if settings is None:
            raise WorkspaceNotFound(workspace_id)
        return view_workspace(workspace_id, settings)

    async def configure_chat(
        self,
        workspace_id: str,
        chat_id: str,
        patch: ChatPatch,
        *,
        replace: bool = False,
        actor: str = "library",
    ) -> ChatConfig:
        """Creates a chat or changes its limit; a parent is immutable.

        Raises the chat errors, RedisUnavailable and StoreUnavailable if nothing was changed, and
        NotInForceYet.
        """
        require_id(workspace_id, "workspace_id")
        require_id(chat_id, "chat_id")
        limit = patch.spend_limit_micros
        if replace and limit is UNSET:
            limit = None
        await self._snapshot.settle(workspace_id)
        stored = await self._storage.configure_chat(
            workspace_id,
            chat_id,
            parent_chat_id=patch.parent_chat_id,
            limit_micros=limit,
            actor=actor,
        )
        try:
            await self._teller.tell_chat(
                workspace_id, chat_id, stored.limit_micros, stored.revision
            )
        except RedisUnavailable as error:
            raise NotInForceYet from error
        return view_chat(stored)

    async def chat_config(self, workspace_id: str, chat_id: str) -> ChatConfig:
        """A chat's place and limit. Raises WorkspaceNotFound, ChatNotFound."""
        await self._snapshot.settle(require_id(workspace_id, "workspace_id"))
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

        async def call(_: Known) -> WorkspaceUsage | Cold:
            result = await self._redis.usage(workspace_id)
            return result if isinstance(result, Cold) else result[0]

        return await self._loader.answer(call, workspace_id)

    async def chat_usage(self, workspace_id: str, chat_id: str) -> ChatTreeUsage:
        """A chat's sums, its ancestors and its children. Raises ChatNotFound."""
        require_id(chat_id, "chat_id")

        async def call(_: Known) -> ChatTreeUsage | Cold:
            result = await self._redis.usage(workspace_id, chat_id)
            if isinstance(result, Cold):
                return result
            chat, *above = result[1]
            await self._snapshot.settle(workspace_id)  # children that were only just created
            return ChatTreeUsage(
                **msgspec.structs.asdict(chat),
                ancestors=[ancestor.chat_id for ancestor in reversed(above)],
                children=await self._storage.chat_children(workspace_id, chat_id),
            )

        return await self._loader.answer(call, workspace_id)

    async def explain(
        self, workspace_id: str, chat_id: str | None = None, estimate_micros: int | None = None
    ) -> Explanation:
        """What a check would say now, without holding or creating anything.

        Without an estimate, the workspace's default one. Raises WorkspaceNotFound, ChatNotFound.
        """
        if chat_id is not None:
            require_id(chat_id, "chat_id")

        def call(_: Known) -> Awaitable[Explanation | Cold]:
            return self._redis.explain(workspace_id, chat_id, estimate_micros)

        return await self._loader.answer(call, workspace_id)

    async def readiness(self) -> Readiness:
        """Whether Redis and the store answer, and how old the last complete snapshot is."""
        redis = await self._redis.answers()
        try:
            async with asyncio.timeout(_STORE_ANSWER_MS_MAX / 1000):
                await self._storage.workspaces(limit=1)
            store = True
        except (StoreUnavailable, TimeoutError):
            store = False
        return Readiness(
            ready=redis and store,
            redis=redis,
            store=store,
            snapshot_age_ms=self._metrics.snapshot_age_ms(),
        )

    # ------------------------------------------------------------------ the rest

    def _resolved(self, request: RecordRequest) -> ResolvedRecord:
        cost_micros, priced, data = request.cost_micros, True, None
        if cost_micros is None:
            cost_micros = request.cumulative_micros
        if request.usage is not None:
            cost = self._prices.cost(request.usage, datetime.now(UTC))
            cost_micros, priced = cost.micros, cost.priced
            data = msgspec.json.encode(request.usage).decode()
        if cost_micros is None:
            raise InvalidRequest("no cost is given", field="cost_micros")
        event_id = request.event_id or request.reservation_id
        return ResolvedRecord(
            workspace_id=request.workspace_id,
            event_id=event_id or new_id(),
            fingerprint=UNCOMPARED if event_id is None else fingerprint(request),
            cost_micros=cost_micros,
            chat_id=request.chat_id,
            parent_chat_id=request.parent_chat_id,
            spend_limit_micros=request.spend_limit_micros,
            reservation_id=request.reservation_id,
            source=request.source,
            sequence=request.sequence,
            priced=priced,
            data=data,
        )

    async def _charge(self, record: ResolvedRecord, *, id_is_fresh: bool = False) -> Recorded:
        def call(known: Known) -> Awaitable[Recorded | Cold]:
            return self._redis.record(record, id_is_fresh=id_is_fresh, known=known)

        return await self._loader.answer(call, record.workspace_id, record.chat_id, creates=True)

    async def _in_the_ledger(self, record: ResolvedRecord, recorded: Recorded) -> Recorded:
        """The answer to a record that is durable for certain."""
        confirmed = await self._outbox.confirm(record, recorded)
        if confirmed is not None:
            return confirmed
        queued = await self._queue(record)
        if queued.duplicate:
            return recorded
        try:
            # At once, and not with the next interval: checks must not overlook it meanwhile.
            return await self._charge(record)
        except RedisUnavailable:
            return queued

    async def _queue(self, record: ResolvedRecord) -> Recorded:
        try:
            return await self._outbox.put(record)
        except WorkspaceNotFound:
            await self._loader.create_workspace(record.workspace_id)
            return await self._outbox.put(record)

    async def bring_back(self) -> int:
        """Tells Redis of the records that the ledger took while it was away. Returns how many.

        Raises Unavailable; what is left is brought by the next call.
        """
        return await self._outbox.bring_back()

    async def bring_into_force(self) -> int:
        """Tells Redis of changes of limits that it missed. Returns how many scopes it was told of.

        Raises Unavailable; what is left is told by the next call.
        """
        return await self._teller.catch_up()

    async def _by_policy(self, workspace_id: str) -> Admitted | Refused:
        policy: OutagePolicy = self._settings.outage_policy
        try:
            settings = await self._storage.settings(workspace_id)
        except StoreUnavailable:
            settings = None
        if settings is not None and settings.outage_policy is not None:
            policy = settings.outage_policy
        if policy == "deny":
            return Refused()
        return Admitted(degraded=True, reservation=None, periods={}, chat=None)
