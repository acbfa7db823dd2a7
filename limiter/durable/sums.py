"""What the counters of a workspace have to be by the aggregates, which are cheap to ask.

It only reads, and only ever one state of the database. `limiter.durable.verify` asks the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct
from sqlalchemy import Connection, exists, func, select

from limiter.durable.bulk import matching
from limiter.durable.load import Windows, windows
from limiter.durable.schema import (
    chats,
    is_held,
    is_unapplied,
    reservations,
    spend_events,
    workspaces,
)
from limiter.durable.verify import ChatSums


class Sums(Struct, frozen=True, kw_only=True):
    """A workspace's counters once its entry number `seq` is counted.

    `has_queued`: the ledger took records that Redis is still to be told of; they are in the sums.
    `windows`: the buckets that may still count, oldest first. `chats`: those that were asked for.
    """

    seq: int
    has_queued: bool
    held_micros: int
    live_holds: int
    unpriced_records: int
    windows: Windows
    chats: Mapping[str, ChatSums]


def sums(connection: Connection, workspace_id: str, chat_ids: Sequence[str]) -> Sums | None:
    """Of the workspace and of those of some hundred chats that are here.

    None if it was never configured. The number of its records does not matter.
    """
    head = connection.execute(
        select(workspaces).where(
            workspaces.c.workspace_id == workspace_id, workspaces.c.revision > 0
        )
    ).one_or_none()
    if head is None:
        return None
    queued = exists().where(spend_events.c.workspace_id == workspace_id, is_unapplied)
    live_holds, held_micros = connection.execute(
        select(func.count(), func.sum(reservations.c.micros)).where(
            reservations.c.workspace_id == workspace_id, is_held
        )
    ).one()
    rows = matching(
        connection,
        chats,
        ("workspace_id", "chat_id"),
        [(workspace_id, chat_id) for chat_id in chat_ids],
    )
    return Sums(
        seq=head.seq,
        has_queued=bool(connection.scalar(select(queued))),
        held_micros=int(held_micros or 0),
        live_holds=live_holds,
        unpriced_records=head.unpriced_records,
        windows=windows(connection, workspace_id, max(head.clock_ms, head.spent_at_ms)),
        chats={
            row.chat_id: ChatSums(
                own_spent_micros=row.own_spent_micros,
                spent_micros=row.spent_micros,
                held_micros=row.held_micros,
            )
            for row in rows
        },
    )
