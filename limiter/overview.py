"""All workspaces in one list: by name, or by how close they are to a limit.

Figures are live where Redis has the workspace. It loads and changes nothing, keeps no task, and
looks at a bounded number of workspaces a call. It must not know who shows the list.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence

from limiter.durable import Storage
from limiter.durable.storage import wall_ms
from limiter.errors import InvalidRequest
from limiter.models import PeriodUsage
from limiter.periods import PERIOD_NAMES
from limiter.redis.keys import require_id
from limiter.redis.store import RedisStore
from limiter.views import WorkspacePage, WorkspaceRow, WorkspaceSort

# One script call, and one look into durable storage for those that are not in Redis.
LOOK_BATCH = 100
# So many are looked at for one page. Where there are more, their order is kept between pages.
LIVE_MAX = 1_000
RANKED_MAX = 10_000
# A page spends so long on renewing the order, and the first ones, which have none, so much.
RENEW_S_MAX = 0.1
FIRST_S_MAX = 2.0
# Renewing takes at most a tenth of the time, and an order is kept at least so long.
_REST_FACTOR = 10
_KEPT_S_MIN = 5.0

_UNLIMITED = -1

# Closeness in hundredths of a percent, negative so that the closest comes first; then the id.
Place = tuple[int, str]


class Overview:
    """`monotonic_s` paces how the order is renewed."""

    def __init__(
        self,
        redis: RedisStore,
        storage: Storage,
        *,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = redis
        self._storage = storage
        self._monotonic_s = monotonic_s
        self._renewing = asyncio.Lock()
        self._order: list[Place] | None = None  # None: not every workspace has been seen yet
        self._seen: list[Place] = []  # of the order that is being made
        self._seen_up_to: str | None = None
        self._spent_s = 0.0
        self._renew_at = 0.0

    async def page(
        self, *, search: str | None, sort: WorkspaceSort, limit: int, after: str | None
    ) -> WorkspacePage:
        """See `Reads.workspaces`."""
        if sort == "name":
            if after is not None:
                require_id(after, "after")
            ids = await self._storage.reads.workspace_ids(search, after, limit + 1)
            rows = await self._look(ids[:limit])
            return WorkspacePage(
                rows=rows, next=ids[limit - 1] if len(ids) > limit else None, complete=True
            )
        behind = None if after is None else _place_of(after)
        ids = await self._storage.reads.workspace_ids(search, None, LIVE_MAX + 1)
        known: dict[str, WorkspaceRow] = {}
        if search or len(ids) <= LIVE_MAX:
            known = {row.workspace_id: row for row in await self._look(ids[:LIVE_MAX])}
            order, complete = sorted(map(_place, known.values())), len(ids) <= LIVE_MAX
        else:
            order, complete = await self._ranking()
        first = 0 if behind is None else bisect_right(order, behind)
        places = order[first : first + limit]
        if known:
            rows = [known[workspace_id] for _, workspace_id in places]
        else:
            # By what they are now: the order may be older than the figures.
            rows = sorted(await self._look([name for _, name in places]), key=_place)
        is_last = first + limit >= len(order)
        return WorkspacePage(
            rows=rows, next=None if is_last else _cursor(places[-1]), complete=complete
        )

    # ------------------------------------------------------------------ figures

    async def _look(self, workspace_ids: Sequence[str]) -> list[WorkspaceRow]:
        """Where the workspaces stand now, in the same order."""
        rows: list[WorkspaceRow] = []
        for first in range(0, len(workspace_ids), LOOK_BATCH):
            batch = workspace_ids[first : first + LOOK_BATCH]
            glance = await self._redis.reads.glance(batch)
            found: dict[str, Mapping[str, PeriodUsage]] = dict(glance.periods)
            cold = [name for name in batch if name not in found]
            if cold:
                now_ms = wall_ms() if glance.now_ms is None else glance.now_ms
                for name, standing in (await self._storage.reads.standings(cold, now_ms)).items():
                    held = standing.held_micros
                    found[name] = {
                        period: _usage(
                            standing.limits.get(period),
                            standing.spent_micros.get(period, 0),
                            held,
                        )
                        for period in PERIOD_NAMES
                    }
            rows += [_row(name, found[name], live=name in glance.periods) for name in batch]
        return rows

    # ------------------------------------------------------------------ the order of many

    async def _ranking(self) -> tuple[list[Place], bool]:
        """The order as it was made last, and whether it has all that can be in it."""
        now_s = self._monotonic_s()
        # One page renews it; the others take what is there.
        if now_s >= self._renew_at and not self._renewing.locked():
            async with self._renewing:
                await self._renew(FIRST_S_MAX if self._order is None else RENEW_S_MAX)
        if self._order is None:
            return sorted(self._seen), False
        return self._order, True

    async def _renew(self, budget_s: float) -> None:
        """Goes on looking at all workspaces, for about that long."""
        started_s = self._monotonic_s()
        while True:
            ids = await self._storage.reads.workspace_ids(None, self._seen_up_to, LOOK_BATCH)
            self._seen += map(_place, await self._look(ids))
            if len(self._seen) > 2 * RANKED_MAX:
                self._seen = heapq.nsmallest(RANKED_MAX, self._seen)
            now_s = self._monotonic_s()
            if len(ids) < LOOK_BATCH:
                break
            self._seen_up_to = ids[-1]
            if now_s - started_s >= budget_s:
                self._spent_s += now_s - started_s
                return
        self._spent_s += now_s - started_s
        self._order = heapq.nsmallest(RANKED_MAX, self._seen)
        self._renew_at = now_s + max(_KEPT_S_MIN, _REST_FACTOR * self._spent_s)
        self._seen, self._seen_up_to, self._spent_s = [], None, 0.0


def _usage(limit_micros: int | None, spent_micros: int, held_micros: int) -> PeriodUsage:
    return PeriodUsage(
        limit_micros=limit_micros,
        spent_micros=spent_micros,
        held_micros=held_micros,
        remaining_micros=None
        if limit_micros is None
        else limit_micros - spent_micros - held_micros,
    )


def _closeness(usage: PeriodUsage) -> int:
    """Hundredths of a percent of the limit, rounded down. A limit of 0 is reached, no more."""
    if usage.limit_micros is None:
        return _UNLIMITED
    if usage.limit_micros == 0:
        return 10_000
    return (usage.spent_micros + usage.held_micros) * 10_000 // usage.limit_micros


def _row(workspace_id: str, periods: Mapping[str, PeriodUsage], *, live: bool) -> WorkspaceRow:
    """By the period that is closest to its limit; of equal ones the longest."""
    period = max(reversed(PERIOD_NAMES), key=lambda name: _closeness(periods[name]))
    usage = periods[period]
    closeness = _closeness(usage)
    return WorkspaceRow(
        workspace_id=workspace_id,
        period=period,
        limit_micros=usage.limit_micros,
        spent_micros=usage.spent_micros,
        held_micros=usage.held_micros,
        share_percent=None if closeness == _UNLIMITED else closeness // 100,
        blocked=any(usage.limit_micros == 0 for usage in periods.values()),
        live=live,
    )


def _place(row: WorkspaceRow) -> Place:
    usage = _usage(row.limit_micros, row.spent_micros, row.held_micros)
    return -_closeness(usage), row.workspace_id


def _cursor(place: Place) -> str:
    return f"{place[0]}.{place[1]}"


def _place_of(cursor: str) -> Place:
    """The place behind which a page goes on. Raises InvalidRequest."""
    closeness, _, workspace_id = cursor.partition(".")
    try:
        return int(closeness), require_id(workspace_id, "after")
    except ValueError:
        raise InvalidRequest("after is not what an earlier page named", field="after") from None
