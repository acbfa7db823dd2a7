"""Pruning: rows that nothing asks for any more go, in small batches, and no sum changes.

What pruned ledger rows added to sums without an end, a chat's and the count of unpriced records, is
carried over, so that the sums can still be checked against the ledger.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Table,
    and_,
    case,
    delete,
    func,
    literal,
    or_,
    select,
    tuple_,
    update,
)

from limiter import periods
from limiter.durable.books import lock_workspaces
from limiter.durable.bulk import change
from limiter.durable.schema import (
    chats,
    has_ended,
    reservations,
    spend_events,
    window_buckets,
    workspaces,
)

# Beyond the longest window and beyond a bucket's, for clocks that disagree.
SLACK_MS = periods.DAY_MS
_WORKSPACES_MAX = 200


def cutoff_ms(connection: Connection, retention_ms: int, now_ms: int) -> int:
    """The moment before which ledger rows may go: never one within a live window.

    Now is the earlier of the caller's clock and the latest moment any workspace knows of, so that
    neither of the two clocks alone can make rows look old.
    """
    longest_ms = max(period.window_ms + period.bucket_ms for period in periods.PERIODS)
    latest_ms = connection.scalar(select(func.max(workspaces.c.clock_ms))) or 0
    return min(now_ms, latest_ms) - max(retention_ms, longest_ms + SLACK_MS)


def prunable(connection: Connection, before_ms: int) -> list[str]:
    """Some workspaces that have something to prune. One look at an index for each workspace."""
    events = select(spend_events.c.id).where(
        spend_events.c.workspace_id == workspaces.c.workspace_id, _old_event(before_ms)
    )
    ended = select(literal(1)).where(
        reservations.c.workspace_id == workspaces.c.workspace_id, _forgotten(workspaces.c.clock_ms)
    )
    buckets = select(literal(1)).where(
        window_buckets.c.workspace_id == workspaces.c.workspace_id,
        _left_window(workspaces.c.clock_ms),
    )
    # As values, because a planner that turns them into joins would read the whole ledger.
    probes = [probe.limit(1).scalar_subquery() for probe in (events, ended, buckets)]
    ids = connection.scalars(
        select(workspaces.c.workspace_id)
        .where(or_(*(probe.is_not(None) for probe in probes)))
        .limit(_WORKSPACES_MAX)
    )
    return list(ids)


def prune_workspace(connection: Connection, workspace_id: str, before_ms: int, batch: int) -> int:
    """Prunes up to `batch` rows of each kind. Returns how many rows went."""
    clock_ms = lock_workspaces(connection, {workspace_id})[workspace_id].clock_ms
    deleted = _prune_events(connection, workspace_id, before_ms, batch)
    deleted += _delete(
        connection,
        reservations,
        select(*reservations.primary_key)
        .where(reservations.c.workspace_id == workspace_id, _forgotten(literal(clock_ms)))
        .limit(batch),
    )
    deleted += _delete(
        connection,
        window_buckets,
        select(*window_buckets.primary_key)
        .where(window_buckets.c.workspace_id == workspace_id, _left_window(literal(clock_ms)))
        .limit(batch),
    )
    return deleted


def _prune_events(connection: Connection, workspace_id: str, before_ms: int, batch: int) -> int:
    events = spend_events.c
    rows = connection.execute(
        select(events.id, events.at_ms, events.chat_id, events.charged_micros, events.priced)
        .where(events.workspace_id == workspace_id, _old_event(before_ms))
        .order_by(events.at_ms, events.id)
        .limit(batch)
    ).all()
    if not rows:
        return 0
    carried: defaultdict[str, int] = defaultdict(int)
    for row in rows:
        if row.chat_id is not None and row.charged_micros:
            carried[row.chat_id] += row.charged_micros
    change(
        connection,
        chats,
        ("workspace_id", "chat_id"),
        ("pruned_micros",),
        [(workspace_id, chat_id, micros) for chat_id, micros in sorted(carried.items())],
        adds=True,
    )
    unpriced = sum(not row.priced for row in rows)
    gone_before_ms = rows[-1].at_ms + 1
    pruned_before_ms = case(
        (workspaces.c.pruned_before_ms < gone_before_ms, gone_before_ms),
        else_=workspaces.c.pruned_before_ms,
    )
    connection.execute(
        update(workspaces)
        .where(workspaces.c.workspace_id == workspace_id)
        .values(
            pruned_unpriced_records=workspaces.c.pruned_unpriced_records + unpriced,
            pruned_before_ms=pruned_before_ms,
        )
    )
    connection.execute(delete(spend_events).where(events.id.in_([row.id for row in rows])))
    return len(rows)


def _delete(connection: Connection, table: Table, keys: Select[Any]) -> int:
    key: Sequence[ColumnElement[Any]] = list(table.primary_key)
    return connection.execute(delete(table).where(tuple_(*key).in_(keys))).rowcount


def _old_event(before_ms: int) -> ColumnElement[bool]:
    # What Redis has not been told of yet stays, however old.
    return and_(spend_events.c.at_ms < before_ms, spend_events.c.applied)


def _forgotten(clock_ms: ColumnElement[int]) -> ColumnElement[bool]:
    return and_(has_ended, reservations.c.forget_at_ms <= clock_ms)


def _left_window(clock_ms: ColumnElement[int]) -> ColumnElement[bool]:
    return or_(
        *(
            and_(
                window_buckets.c.period == period.name,
                window_buckets.c.start_ms
                < clock_ms - (period.window_ms + period.bucket_ms + SLACK_MS),
            )
            for period in periods.PERIODS
        )
    )
