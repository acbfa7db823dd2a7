"""What the page of a workspace or a chat shows, asked for side by side, each with its own outage.

A part that cannot be answered now is None, and the rest is shown. It must not decide anything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from limiter.errors import StoreUnavailable, Unavailable
from limiter.models import WorkspaceConfig, WorkspaceUsage
from limiter.periods import PERIODS, Period
from limiter.service import Limiter
from limiter.views import AuditView, ChatPage, HoldView, RecordView
from limiter.web.charts import Chart, chart
from limiter.web.words import moment_ms

T = TypeVar("T")

HOLDS_MAX = 100
RECORDS_MAX = 20
CHANGES_MAX = 20
CHATS_MAX = 50


@dataclass(frozen=True, slots=True)
class WorkspaceSight:
    """A workspace. `usage` is None while Redis is away, `config` while durable storage is."""

    usage: WorkspaceUsage | None
    config: WorkspaceConfig | None
    charts: Mapping[str, Chart]
    chats: ChatPage | None
    holds: list[HoldView] | None
    records: list[RecordView] | None
    changes: list[AuditView] | None


async def workspace_sight(
    limiter: Limiter, workspace_id: str, *, chats_after: str | None = None
) -> WorkspaceSight:
    """Everything there is about a workspace now.

    Raises WorkspaceNotFound; StoreUnavailable when neither Redis nor durable storage answers.
    """
    usage, config = await asyncio.gather(
        _or_none(limiter.usage(workspace_id)), _or_none(limiter.workspace_config(workspace_id))
    )
    if usage is None and config is None:
        raise StoreUnavailable("neither Redis nor durable storage answers")
    reads = limiter.reads
    charts, chats, holds, records, changes = await asyncio.gather(
        _charts(limiter, workspace_id, usage),
        _or_none(reads.chats(workspace_id, limit=CHATS_MAX, after=chats_after)),
        _or_none(reads.holds(workspace_id, limit=HOLDS_MAX)),
        _or_none(reads.records(workspace_id, limit=RECORDS_MAX)),
        _or_none(reads.audit(workspace_id, limit=CHANGES_MAX)),
    )
    return WorkspaceSight(usage, config, charts, chats, holds, records, changes)


async def _charts(
    limiter: Limiter, workspace_id: str, usage: WorkspaceUsage | None
) -> Mapping[str, Chart]:
    # Without Redis the pictures come from durable storage, which is by the clock of the processes.
    now_ms = time.time_ns() // 1_000_000 if usage is None else moment_ms(usage.at)

    async def one(period: Period) -> Chart | None:
        buckets = await _or_none(limiter.reads.history(workspace_id, period.name))
        return None if buckets is None else chart(period, buckets, now_ms)

    drawn = await asyncio.gather(*(one(period) for period in PERIODS))
    return {
        period.name: picture
        for period, picture in zip(PERIODS, drawn, strict=True)
        if picture is not None
    }


async def _or_none(asked: Awaitable[T]) -> T | None:
    try:
        return await asked
    except Unavailable:
        return None
