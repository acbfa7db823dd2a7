"""What pages and commands list of durable storage. It only reads, a bounded number of rows.

Sums include the queued records, which Redis is still to be told of: they have been spent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, and_, func, or_, select

from limiter.durable.chats import Chat
from limiter.durable.ledger import LedgerRow
from limiter.durable.load import windows
from limiter.durable.schema import (
    WORKSPACE_SCOPE,
    budget_limits,
    chats,
    is_held,
    reservations,
    spend_events,
    window_buckets,
    workspaces,
)
from limiter.periods import PERIODS
from limiter.stored import StoredChat, StoredHold

_LEDGER = [spend_events.c[name] for name in LedgerRow.__struct_fields__]


@dataclass(slots=True)
class Standing:
    """A workspace's limits, what its windows hold, by period, and what is held."""

    limits: dict[str, int] = field(default_factory=dict)
    spent_micros: dict[str, int] = field(default_factory=dict)
    held_micros: int = 0


def workspace_ids(
    connection: Connection, search: str | None, after: str | None, limit: int
) -> list[str]:
    """Of configured workspaces, in order, from behind `after`, with `search` in them.

    Upper and lower case are the same to a search.
    """
    query = (
        select(workspaces.c.workspace_id)
        .where(workspaces.c.workspace_id > (after or ""), workspaces.c.revision > 0)
        .order_by(workspaces.c.workspace_id)
        .limit(limit)
    )
    if search:
        query = query.where(workspaces.c.workspace_id.icontains(search, autoescape=True))
    return list(connection.scalars(query))


def standings(connection: Connection, ids: Sequence[str], now_ms: int) -> Mapping[str, Standing]:
    """Where each of the workspaces stands at `now_ms`. Some hundreds at most."""
    found = {workspace_id: Standing() for workspace_id in ids}
    limits = select(budget_limits).where(budget_limits.c.workspace_id.in_(ids))
    for row in connection.execute(limits):
        found[row.workspace_id].limits[row.period] = row.limit_micros
    buckets = window_buckets.c
    still_counts = or_(
        *(
            and_(
                buckets.period == period.name,
                buckets.start_ms > now_ms - period.window_ms - period.bucket_ms,
            )
            for period in PERIODS
        )
    )
    sums = (
        select(buckets.workspace_id, buckets.period, func.sum(buckets.micros))
        .where(buckets.workspace_id.in_(ids), buckets.scope == WORKSPACE_SCOPE, still_counts)
        .group_by(buckets.workspace_id, buckets.period)
    )
    for workspace_id, period, micros in connection.execute(sums):
        found[workspace_id].spent_micros[period] = int(micros)
    # What expired is given back, or charged and then spent: it counts in the second case only.
    counts = or_(
        reservations.c.expires_at_ms > now_ms,
        select(workspaces.c.on_hold_expiry)
        .where(workspaces.c.workspace_id == reservations.c.workspace_id)
        .scalar_subquery()
        == "charge",
    )
    held = (
        select(reservations.c.workspace_id, func.sum(reservations.c.micros))
        .where(reservations.c.workspace_id.in_(ids), is_held, counts)
        .group_by(reservations.c.workspace_id)
    )
    for workspace_id, micros in connection.execute(held):
        found[workspace_id].held_micros = int(micros)
    return found


def chat_page(
    connection: Connection, workspace_id: str, parent: str | None, after: str | None, limit: int
) -> list[tuple[StoredChat, bool]]:
    """Roots, or the children of `parent`, by id; each with whether it has children itself."""
    below = chats.alias("below")
    has_children = (
        select(below.c.chat_id)
        .where(
            below.c.workspace_id == chats.c.workspace_id, below.c.parent_chat_id == chats.c.chat_id
        )
        .exists()
    )
    query = (
        select(chats, has_children)
        .where(
            chats.c.workspace_id == workspace_id,
            chats.c.parent_chat_id.is_(None)
            if parent is None
            else chats.c.parent_chat_id == parent,
            chats.c.chat_id > (after or ""),
        )
        .order_by(chats.c.chat_id)
        .limit(limit)
    )
    return [(Chat(*row[:-1]).stored(), bool(row[-1])) for row in connection.execute(query)]


def chat_ids(connection: Connection, workspace_id: str, after: str | None, limit: int) -> list[str]:
    """A workspace's chats in order, from behind `after`."""
    query = (
        select(chats.c.chat_id)
        .where(chats.c.workspace_id == workspace_id, chats.c.chat_id > (after or ""))
        .order_by(chats.c.chat_id)
        .limit(limit)
    )
    return list(connection.scalars(query))


def holds(connection: Connection, workspace_id: str, now_ms: int, limit: int) -> list[StoredHold]:
    """Live reservations, the next to expire first."""
    at = reservations.c.expires_at_ms
    query = (
        select(
            reservations.c.reservation_id,
            reservations.c.micros,
            at,
            reservations.c.chat_id,
            reservations.c.fingerprint,
        )
        .where(reservations.c.workspace_id == workspace_id, is_held, at > now_ms)
        .order_by(at, reservations.c.reservation_id)
        .limit(limit)
    )
    return [StoredHold(*row) for row in connection.execute(query)]


def placed_ms(connection: Connection, workspace_id: str, ids: Sequence[str]) -> dict[str, int]:
    """When reservations that are held were placed: the moment of their stream entry."""
    query = select(reservations.c.reservation_id, reservations.c.stream_id).where(
        reservations.c.workspace_id == workspace_id,
        reservations.c.reservation_id.in_(ids),
        is_held,
    )
    return {
        reservation_id: int(stream_id.partition("-")[0])
        for reservation_id, stream_id in connection.execute(query)
    }


def latest_records(connection: Connection, workspace_id: str, limit: int) -> list[LedgerRow]:
    """The latest charges, latest first."""
    query = (
        select(*_LEDGER)
        .where(spend_events.c.workspace_id == workspace_id)
        .order_by(spend_events.c.at_ms.desc(), spend_events.c.id.desc())
        .limit(limit)
    )
    return [LedgerRow(**row._mapping) for row in connection.execute(query)]


def spenders(
    connection: Connection, workspace_id: str, since_ms: int, rows_max: int, limit: int
) -> tuple[list[tuple[str | None, int]], bool]:
    """The chats that were charged most since then, with how much, and whether that is all.

    Only the latest `rows_max` charges are added up.
    """
    considered = (
        select(spend_events.c.chat_id, spend_events.c.charged_micros)
        .where(spend_events.c.workspace_id == workspace_id, spend_events.c.at_ms >= since_ms)
        .order_by(spend_events.c.at_ms.desc(), spend_events.c.id.desc())
        .limit(rows_max)
        .subquery()
    )
    total = func.sum(considered.c.charged_micros)
    rows = connection.execute(
        select(considered.c.chat_id, total, func.sum(func.count()).over())
        .group_by(considered.c.chat_id)
        .order_by(total.desc(), considered.c.chat_id)
        .limit(limit)
    ).all()
    found = [(chat_id, int(micros)) for chat_id, micros, _ in rows]
    return found, not rows or rows[0][2] < rows_max


def roots(connection: Connection, workspace_id: str, chat_ids: Sequence[str]) -> dict[str, str]:
    """The roots of the chats that are here, by their ids."""
    query = select(chats.c.chat_id, chats.c.root_chat_id).where(
        chats.c.workspace_id == workspace_id, chats.c.chat_id.in_(chat_ids)
    )
    return {row.chat_id: row.root_chat_id for row in connection.execute(query)}


def window(
    connection: Connection, workspace_id: str, period: str, now_ms: int
) -> list[tuple[int, int]]:
    """The buckets that still count at `now_ms`, oldest first: start ms, micros."""
    return windows(connection, workspace_id, now_ms)[period]
