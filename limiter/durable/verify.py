"""Every sum of a workspace once more, from its ledger rows alone, and where they differ.

They must not. It only reads, and only ever one state of the database.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct
from sqlalchemy import Connection, func, select

from limiter import periods
from limiter.durable.bulk import AnyRow
from limiter.durable.load import Windows, windows
from limiter.durable.schema import chats, is_held, reservations, spend_events, workspaces
from limiter.models import DEPTH_MAX


class ChatSums(Struct, frozen=True, kw_only=True):
    """`spent_micros` and `held_micros` include all below the chat."""

    own_spent_micros: int = 0
    spent_micros: int = 0
    held_micros: int = 0


class Recomputed(Struct, frozen=True, kw_only=True):
    """A workspace's sums. `windows`: the buckets that may still count, oldest first."""

    workspace_id: str
    spent_at_ms: int
    unpriced_records: int
    windows: Windows
    chats: Mapping[str, ChatSums]


class Drift(Struct, frozen=True, kw_only=True):
    """One sum that is not what the ledger says. `what` names it."""

    workspace_id: str
    what: str
    stored: int
    recomputed: int


def recompute(connection: Connection, workspace_id: str) -> Recomputed | None:
    """The sums from the ledger, and from what was carried over from rows that were pruned.

    None if there is no such workspace.
    """
    head = connection.execute(
        select(workspaces).where(workspaces.c.workspace_id == workspace_id)
    ).one_or_none()
    if head is None:
        return None
    events = spend_events.c
    mine = events.workspace_id == workspace_id
    charged = (mine, events.charged_micros > 0)
    spent_at_ms = connection.scalar(select(func.max(events.at_ms)).where(*charged))
    unpriced = connection.scalar(select(func.count()).where(mine, ~events.priced))
    clock_ms = max(head.clock_ms, head.spent_at_ms)
    found: Windows = {}
    for period in periods.PERIODS:
        first_ms = _first_start_ms(period, clock_ms, head.pruned_before_ms)
        start = (events.at_ms - events.at_ms % period.bucket_ms).label("start")
        buckets = connection.execute(
            select(start, func.sum(events.charged_micros))
            .where(*charged, events.at_ms >= first_ms)
            .group_by(start)
            .order_by(start)
        )
        found[period.name] = [(start_ms, int(micros)) for start_ms, micros in buckets]
    return Recomputed(
        workspace_id=workspace_id,
        spent_at_ms=spent_at_ms or 0,
        unpriced_records=(unpriced or 0) + head.pruned_unpriced_records,
        windows=found,
        chats=_chat_sums(connection, workspace_id),
    )


def drift(connection: Connection, workspace_id: str) -> list[Drift]:
    """Where the aggregates differ from the ledger; empty if they do not."""
    recomputed = recompute(connection, workspace_id)
    if recomputed is None:
        return []
    return [
        Drift(workspace_id=workspace_id, what=what, stored=stored, recomputed=again)
        for what, stored, again in _pairs(connection, recomputed)
        if stored != again
    ]


def _pairs(connection: Connection, recomputed: Recomputed) -> Iterator[tuple[str, int, int]]:
    workspace_id = recomputed.workspace_id
    head = connection.execute(
        select(workspaces).where(workspaces.c.workspace_id == workspace_id)
    ).one()
    yield "unpriced_records", head.unpriced_records, recomputed.unpriced_records
    # A moment too late is harmless, and left behind by a queued charge that Redis made earlier.
    spent_at_ms = head.spent_at_ms
    yield "spent_at_ms", spent_at_ms, max(spent_at_ms, recomputed.spent_at_ms)
    clock_ms = max(head.clock_ms, spent_at_ms)
    stored = windows(connection, workspace_id, clock_ms)
    for period in periods.PERIODS:
        first_ms = _first_start_ms(period, clock_ms, head.pruned_before_ms)
        here = {start: micros for start, micros in stored[period.name] if start >= first_ms}
        there = dict(recomputed.windows[period.name])
        for start_ms in sorted(here.keys() | there.keys()):
            what = f"window {period.name} {start_ms}"
            yield what, here.get(start_ms, 0), there.get(start_ms, 0)
    rows = connection.execute(select(chats).where(chats.c.workspace_id == workspace_id))
    chat_rows = {row.chat_id: row for row in rows}
    for chat_id, sums in sorted(recomputed.chats.items()):
        row = chat_rows.get(chat_id)
        for name in ChatSums.__struct_fields__:
            what = f"chat {chat_id} {name}"
            yield what, 0 if row is None else getattr(row, name), getattr(sums, name)


def _first_start_ms(period: periods.Period, clock_ms: int, pruned_before_ms: int) -> int:
    """The start of the first bucket that may still count and of which no row was pruned."""
    width_ms = period.bucket_ms
    oldest_ms = max(clock_ms - period.window_ms - width_ms + 1, pruned_before_ms, 0)
    return -(-oldest_ms // width_ms) * width_ms


def _chat_sums(connection: Connection, workspace_id: str) -> dict[str, ChatSums]:
    events = spend_events.c
    own = _by_chat(
        connection.execute(
            select(events.chat_id, func.sum(events.charged_micros))
            .where(events.workspace_id == workspace_id, events.chat_id.is_not(None))
            .group_by(events.chat_id)
        )
    )
    held = _by_chat(
        connection.execute(
            select(reservations.c.chat_id, func.sum(reservations.c.micros))
            .where(reservations.c.workspace_id == workspace_id, is_held)
            .where(reservations.c.chat_id.is_not(None))
            .group_by(reservations.c.chat_id)
        )
    )
    parents: dict[str, str | None] = {}
    rows = connection.execute(
        select(chats.c.chat_id, chats.c.parent_chat_id, chats.c.pruned_micros).where(
            chats.c.workspace_id == workspace_id
        )
    )
    for chat_id, parent, pruned_micros in rows:
        parents[chat_id] = parent
        own[chat_id] = own.get(chat_id, 0) + pruned_micros
    names = own.keys() | held.keys() | parents.keys()
    spent_below, held_below = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for name in names:
        ancestor: str | None = name
        for _ in range(DEPTH_MAX):
            if ancestor is None:
                break
            spent_below[ancestor] += own.get(name, 0)
            held_below[ancestor] += held.get(name, 0)
            ancestor = parents.get(ancestor)
    return {
        name: ChatSums(
            own_spent_micros=own.get(name, 0),
            spent_micros=spent_below[name],
            held_micros=held_below[name],
        )
        for name in names
    }


def _by_chat(rows: Iterable[AnyRow]) -> dict[str, int]:
    # PostgreSQL sums BIGINT as NUMERIC, which comes as a Decimal.
    return {chat_id: int(micros) for chat_id, micros in rows}
