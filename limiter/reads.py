"""How pages and commands look at things: lists and details that no call of the API needs.

It changes nothing and loads nothing into Redis: what is cold, and everything while Redis is away,
is read from durable storage, which is a snapshot interval behind. Every list is bounded. It must
not decide over limits; `Limiter` has what is written.
"""

from __future__ import annotations

import re

from limiter.durable import Storage
from limiter.durable.storage import wall_ms
from limiter.errors import ChatNotFound, InvalidRequest, RedisUnavailable, WorkspaceNotFound
from limiter.models import iso_ms
from limiter.overview import Overview
from limiter.periods import PERIODS
from limiter.redis.keys import require_id
from limiter.redis.reads import LiveHold
from limiter.redis.store import RedisStore
from limiter.stored import WorkspaceCounters
from limiter.views import (
    AuditView,
    Bucket,
    ChatPage,
    ChatView,
    HoldView,
    RecordView,
    Spender,
    Spenders,
    WorkspacePage,
    WorkspaceSort,
)

LIMIT_MAX = 1_000
SPENDER_RECORDS_MAX = 100_000
SEARCH_LENGTH_MAX = 128

# What holds anything else is in no id.
_ID_PART = re.compile(r"[A-Za-z0-9._@-]*")

_PERIODS = {period.name: period for period in PERIODS}


class Reads:
    """All methods may be called concurrently on one event loop.

    They raise InvalidRequest for a `limit` outside 1 to LIMIT_MAX or a malformed id,
    WorkspaceNotFound, and StoreUnavailable. Redis is never waited for longer than its deadline.
    """

    def __init__(self, redis: RedisStore, storage: Storage) -> None:
        self._redis = redis
        self._storage = storage
        self._overview = Overview(redis, storage)

    async def workspaces(
        self,
        *,
        search: str | None = None,
        sort: WorkspaceSort = "closeness",
        limit: int = 50,
        after: str | None = None,
    ) -> WorkspacePage:
        """Configured workspaces, those closest to a limit first or by name, from behind `after`.

        `search`: a part of the id, in upper or lower case.

        A page looks at 1,000 workspaces at most, 100 a script call. Up to as many, and by name with
        any number, what it says is exact at this moment, but for workspaces that are not in Redis.
        With more, a search considers the first 1,000 by name that it finds (`complete` false), and
        the order without one is kept between pages: it has the closest 10,000, is kept for ten
        times as long as it took to look at all (5 s at least), and is then made anew by whoever
        asks, 0.1 s a page. Before there is one, a page takes 2 s and orders what it has seen by
        then (`complete` false). The figures of the rows are always those of this moment.
        """
        if search is not None and len(search) > SEARCH_LENGTH_MAX:
            raise InvalidRequest(
                f"search is longer than {SEARCH_LENGTH_MAX} characters", field="search"
            )
        if search is not None and not _ID_PART.fullmatch(search):
            return WorkspacePage(rows=[], next=None, complete=True)
        return await self._overview.page(
            search=search, sort=sort, limit=_bounded(limit), after=after
        )

    async def holds(self, workspace_id: str, *, limit: int = 100) -> list[HoldView]:
        """Live reservations, the next to expire first: from Redis, or of a cold workspace from
        durable storage. When they were placed is from durable storage.
        """
        require_id(workspace_id, "workspace_id")
        found = await self._live_holds(workspace_id, _bounded(limit))
        if found is None:
            await self._require_workspace(workspace_id)
            now_ms = wall_ms()
            stored = await self._storage.reads.holds(workspace_id, now_ms, limit)
            found = (
                now_ms,
                [
                    LiveHold(hold.reservation_id, hold.micros, hold.chat_id, hold.expires_at_ms)
                    for hold in stored
                ],
            )
        now_ms, holds = found
        ids = [hold.reservation_id for hold in holds]
        placed_ms = await self._storage.reads.placed_ms(workspace_id, ids)
        return [_hold_view(hold, placed_ms.get(hold.reservation_id), now_ms) for hold in holds]

    async def chats(
        self,
        workspace_id: str,
        *,
        parent: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> ChatPage:
        """Root chats, or the children of `parent`, by id, from behind `after`.

        The list and the limits are those of durable storage, so that a chat which was created
        within a snapshot interval may be missing. Sums are live where Redis has the chat. Raises
        ChatNotFound for an unknown parent.
        """
        require_id(workspace_id, "workspace_id")
        if parent is not None:
            require_id(parent, "parent")
        if after is not None:
            require_id(after, "after")
        page = await self._storage.reads.chat_page(workspace_id, parent, after, _bounded(limit) + 1)
        if not page:
            await self._require_workspace(workspace_id)
            if parent is not None and await self._storage.chat(workspace_id, parent) is None:
                raise ChatNotFound(parent)
        is_last, page = len(page) <= limit, page[:limit]
        counters = await self._inspect(workspace_id, [chat.chat_id for chat, _ in page])
        live = {} if counters is None else counters.chats
        rows = []
        for chat, has_children in page:
            sums = live.get(chat.chat_id, chat)
            left = chat.limit_micros
            rows.append(
                ChatView(
                    chat_id=chat.chat_id,
                    parent_chat_id=chat.parent_chat_id,
                    root_chat_id=chat.root_chat_id,
                    limit_micros=chat.limit_micros,
                    spent_micros=sums.spent_micros,
                    own_spent_micros=sums.own_spent_micros,
                    held_micros=sums.held_micros,
                    remaining_micros=(
                        None if left is None else left - sums.spent_micros - sums.held_micros
                    ),
                    has_children=has_children,
                    live=chat.chat_id in live,
                )
            )
        return ChatPage(rows=rows, next=None if is_last else rows[-1].chat_id)

    async def records(self, workspace_id: str, *, limit: int = 50) -> list[RecordView]:
        """The latest charges, latest first, from the ledger: an interval behind."""
        require_id(workspace_id, "workspace_id")
        rows = await self._storage.reads.latest_records(workspace_id, _bounded(limit))
        if not rows:
            await self._require_workspace(workspace_id)
        return [
            RecordView(
                at=iso_ms(row.at_ms),
                event_id=row.event_id,
                charged_micros=row.charged_micros,
                chat_id=row.chat_id,
                reservation_id=row.reservation_id,
                late=row.late,
                expiry=row.is_expiry,
                source=row.source,
                priced=row.priced,
                applied=row.applied,
            )
            for row in rows
        ]

    async def audit(self, workspace_id: str, *, limit: int = 50) -> list[AuditView]:
        """The latest changes of configuration, latest first, chats included. Always up to date."""
        require_id(workspace_id, "workspace_id")
        rows = await self._storage.audit(workspace_id, _bounded(limit))
        if not rows:
            await self._require_workspace(workspace_id)
        return [
            AuditView(
                at=iso_ms(row.at_ms),
                actor=row.actor,
                chat_id=row.chat_id,
                before=row.before,
                after=row.after,
            )
            for row in rows
        ]

    async def history(self, workspace_id: str, period: str) -> list[Bucket]:
        """The buckets of a rolling window that count now, oldest first; empty ones are left out.

        Live from Redis, or of a cold workspace from durable storage. 127 at most.
        """
        _, buckets = await self._window(workspace_id, period)
        return [Bucket(start_ms=start_ms, micros=micros) for start_ms, micros in buckets]

    async def frees_up(self, workspace_id: str, period: str) -> int | None:
        """Milliseconds until spend leaves this window next; None if there is none in it.

        From the same place as `history`. When a call fits again is said by its denial.
        """
        now_ms, buckets = await self._window(workspace_id, period)
        if not buckets:
            return None
        width_ms = _PERIODS[period].bucket_ms + _PERIODS[period].window_ms
        return buckets[0][0] + width_ms - now_ms

    async def spenders(self, workspace_id: str, period: str, *, limit: int = 5) -> Spenders:
        """The chats that spent most within a window, from the ledger: an interval behind.

        The latest 100,000 records of the window are added up, with none of the sub-chats' spend.
        """
        now_ms, buckets = await self._window(workspace_id, period)
        since_ms = buckets[0][0] if buckets else now_ms
        rows, complete = await self._storage.reads.spenders(
            workspace_id, since_ms, SPENDER_RECORDS_MAX, _bounded(limit)
        )
        return Spenders(
            rows=[Spender(chat_id=chat_id, spent_micros=micros) for chat_id, micros in rows],
            complete=complete,
        )

    async def tree_holds(
        self, workspace_id: str, root_chat_id: str, *, limit: int = 100
    ) -> list[HoldView]:
        """Those of the first `limit` holds that belong to chats of one tree.

        One of a sub-chat that was made within a snapshot interval may be missing.
        """
        holds = [hold for hold in await self.holds(workspace_id, limit=limit) if hold.chat_id]
        ids = {hold.chat_id for hold in holds if hold.chat_id}
        roots = await self._storage.reads.roots(workspace_id, sorted(ids))
        return [
            hold
            for hold in holds
            if hold.chat_id and roots.get(hold.chat_id, hold.chat_id) == root_chat_id
        ]

    # ------------------------------------------------------------------ both sides

    async def _require_workspace(self, workspace_id: str) -> None:
        if await self._storage.workspace_head(workspace_id) is None:
            raise WorkspaceNotFound(workspace_id)

    async def _live_holds(self, workspace_id: str, limit: int) -> tuple[int, list[LiveHold]] | None:
        """The clock and the holds; None if Redis does not have the workspace, or is away."""
        try:
            return await self._redis.reads.holds(workspace_id, limit)
        except RedisUnavailable:
            return None

    async def _inspect(self, workspace_id: str, chat_ids: list[str]) -> WorkspaceCounters | None:
        """As it lies in Redis; None if it does not, or Redis is away."""
        try:
            return await self._redis.inspect(workspace_id, chat_ids)
        except RedisUnavailable:
            return None

    async def _window(self, workspace_id: str, name: str) -> tuple[int, list[tuple[int, int]]]:
        """The clock, and the buckets that count by it, oldest first: start ms, micros."""
        require_id(workspace_id, "workspace_id")
        period = _PERIODS.get(name)
        if period is None:
            raise InvalidRequest(f"period is one of {', '.join(_PERIODS)}", field="period")
        counters = await self._inspect(workspace_id, [])
        if counters is None:
            await self._require_workspace(workspace_id)
            now_ms = wall_ms()
            return now_ms, await self._storage.reads.window(workspace_id, name, now_ms)
        left_by_ms = counters.now_ms - period.window_ms - period.bucket_ms
        buckets = sorted(counters.windows[name].buckets.items())
        return counters.now_ms, [bucket for bucket in buckets if bucket[0] > left_by_ms]


def _bounded(limit: int) -> int:
    if not 1 <= limit <= LIMIT_MAX:
        raise InvalidRequest(f"limit is 1 to {LIMIT_MAX}", field="limit")
    return limit


def _hold_view(hold: LiveHold, placed_ms: int | None, now_ms: int) -> HoldView:
    return HoldView(
        reservation_id=hold.reservation_id,
        held_micros=hold.held_micros,
        chat_id=hold.chat_id,
        placed_at=None if placed_ms is None else iso_ms(placed_ms),
        age_ms=None if placed_ms is None else max(0, now_ms - placed_ms),
        expires_at=iso_ms(hold.expires_at_ms),
    )
