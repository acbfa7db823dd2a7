"""What scopes are loaded from, as Redis has to have them, and lists. It only reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    BindParameter,
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    exists,
    func,
    or_,
    select,
)

from limiter import periods
from limiter.durable.bulk import matching
from limiter.durable.chats import Chat
from limiter.durable.schema import (
    NO_STREAM_ID,
    WORKSPACE_SCOPE,
    budget_limits,
    chats,
    is_held,
    is_unapplied,
    reservations,
    sources,
    spend_events,
    window_buckets,
    workspaces,
)
from limiter.stored import (
    StoredChat,
    StoredEvent,
    StoredHold,
    StoredSource,
    StoredWorkspace,
    WorkspaceSettings,
)

# A period's buckets, oldest first: start ms, micros.
Windows = dict[str, list[tuple[int, int]]]

# What a cold scope is loaded with. Its caller waits, and these take longer to make than to run.
_OF_WORKSPACE: BindParameter[str] = bindparam("workspace_id")
_HEAD = select(workspaces.c.seq, workspaces.c.revision).where(
    workspaces.c.workspace_id == _OF_WORKSPACE, workspaces.c.revision > 0
)
_WORKSPACE = select(workspaces).where(
    workspaces.c.workspace_id == _OF_WORKSPACE, workspaces.c.revision > 0
)
_LIMITS = select(budget_limits.c.period, budget_limits.c.limit_micros).where(
    budget_limits.c.workspace_id == _OF_WORKSPACE
)
_HOLDS = (
    select(
        reservations.c.reservation_id,
        reservations.c.micros,
        reservations.c.expires_at_ms,
        reservations.c.chat_id,
        reservations.c.fingerprint,
    )
    .where(reservations.c.workspace_id == _OF_WORKSPACE, is_held)
    .order_by(reservations.c.expires_at_ms, reservations.c.reservation_id)
)
_QUEUED = (
    select(
        spend_events.c.event_id,
        spend_events.c.fingerprint,
        spend_events.c.charged_micros,
        spend_events.c.at_ms,
        spend_events.c.priced,
    )
    .where(spend_events.c.workspace_id == _OF_WORKSPACE, is_unapplied)
    .order_by(spend_events.c.id)
)
_HAS_QUEUED = select(exists().where(spend_events.c.workspace_id == _OF_WORKSPACE, is_unapplied))
_CHAT = select(chats).where(
    chats.c.workspace_id == _OF_WORKSPACE, chats.c.chat_id == bindparam("chat_id")
)
_CHAT_PAGE = (
    select(chats)
    .where(chats.c.workspace_id == _OF_WORKSPACE, chats.c.chat_id > bindparam("after"))
    .order_by(chats.c.chat_id)
    .limit(bindparam("limit"))
)


def workspace(connection: Connection, workspace_id: str) -> StoredWorkspace | None:
    """All that the workspace is loaded from; None if it was never configured.

    Sums leave out the queued rows, as those of chats do: Redis charges them when it is told.
    """
    named = {"workspace_id": workspace_id}
    row = connection.execute(_WORKSPACE, named).one_or_none()
    if row is None:
        return None
    holds = connection.execute(_HOLDS, named)
    queued = connection.execute(_QUEUED, named).all()
    counted = windows(connection, workspace_id, max(row.clock_ms, row.spent_at_ms))
    return StoredWorkspace(
        settings=_settings_of(connection, row),
        revision=row.revision,
        seq=row.seq,
        spent_at_ms=row.spent_at_ms,
        clock_ms=row.clock_ms,
        unpriced_records=row.unpriced_records - sum(not event.priced for event in queued),
        windows=_without(counted, [(event.at_ms, event.charged_micros) for event in queued]),
        holds=[StoredHold(*hold) for hold in holds],
        events=[
            StoredEvent(event.event_id, event.fingerprint, event.charged_micros) for event in queued
        ],
    )


def _without(found: Windows, charges: Sequence[tuple[int, int]]) -> Windows:
    """The windows less some charges: moment, micros."""
    if not charges:
        return found
    left: Windows = {}
    for period in periods.PERIODS:
        buckets = dict(found[period.name])
        for at_ms, micros in charges:
            start_ms = at_ms - at_ms % period.bucket_ms
            if start_ms in buckets:
                buckets[start_ms] -= micros
        left[period.name] = [(start_ms, micros) for start_ms, micros in buckets.items() if micros]
    return left


def workspace_head(connection: Connection, workspace_id: str) -> tuple[int, int] | None:
    """The number of its last entry that is here, and its revision; None if never configured."""
    row = connection.execute(_HEAD, {"workspace_id": workspace_id}).one_or_none()
    return None if row is None else (row.seq, row.revision)


def settings(connection: Connection, workspace_id: str) -> tuple[WorkspaceSettings, int] | None:
    """The workspace's configuration and its revision; None if it was never configured."""
    row = connection.execute(_WORKSPACE, {"workspace_id": workspace_id}).one_or_none()
    return None if row is None else (_settings_of(connection, row), row.revision)


def all_settings(connection: Connection, rows: Sequence[Row[Any]]) -> dict[str, WorkspaceSettings]:
    """The configurations of some rows of `workspaces`, by id."""
    found: dict[str, dict[str, int]] = {row.workspace_id: {} for row in rows}
    for limit in matching(connection, budget_limits, ("workspace_id",), [(id_,) for id_ in found]):
        found[limit.workspace_id][limit.period] = limit.limit_micros
    return {row.workspace_id: _with_limits(row, found[row.workspace_id]) for row in rows}


def _settings_of(connection: Connection, row: Row[Any]) -> WorkspaceSettings:
    limits = connection.execute(_LIMITS, {"workspace_id": row.workspace_id})
    return _with_limits(row, {limit.period: limit.limit_micros for limit in limits})


def _with_limits(row: Row[Any], by_period: Mapping[str, int]) -> WorkspaceSettings:
    return WorkspaceSettings(
        limits={period.name: by_period.get(period.name) for period in periods.PERIODS},
        default_estimate_micros=row.default_estimate_micros,
        on_hold_expiry=row.on_hold_expiry,
        outage_policy=row.outage_policy,
    )


@lru_cache(maxsize=8)
def _windows_of(names: tuple[str, ...]) -> Select[Any]:
    """Of each period the buckets that begin after the moment that is given by its name."""
    return (
        select(window_buckets.c.period, window_buckets.c.start_ms, window_buckets.c.micros)
        .where(
            window_buckets.c.workspace_id == _OF_WORKSPACE,
            window_buckets.c.scope == WORKSPACE_SCOPE,
            window_buckets.c.micros > 0,
            or_(
                *(
                    and_(
                        window_buckets.c.period == name,
                        window_buckets.c.start_ms > bindparam(name),
                    )
                    for name in names
                )
            ),
        )
        .order_by(window_buckets.c.start_ms)
    )


def windows(connection: Connection, workspace_id: str, clock_ms: int) -> Windows:
    """The buckets that still count at `clock_ms`, or may."""
    oldest_ms = {
        period.name: clock_ms - period.window_ms - period.bucket_ms for period in periods.PERIODS
    }
    rows = connection.execute(
        _windows_of(tuple(oldest_ms)), {"workspace_id": workspace_id, **oldest_ms}
    )
    found: Windows = {period.name: [] for period in periods.PERIODS}
    for period, start_ms, micros in rows:
        found[period].append((start_ms, micros))
    return found


def chat(connection: Connection, workspace_id: str, chat_id: str) -> StoredChat | None:
    """A chat; its sums leave out the queued rows, see `workspace`."""
    named = {"workspace_id": workspace_id, "chat_id": chat_id}
    row = connection.execute(_CHAT, named).one_or_none()
    if row is None:
        return None
    stored = Chat(*row).stored()
    queued = _queued_below(connection, workspace_id, chat_id)
    return replace(
        stored,
        spent_micros=stored.spent_micros - sum(queued.values()),
        own_spent_micros=stored.own_spent_micros - queued.get(chat_id, 0),
    )


def chat_page(
    connection: Connection, workspace_id: str, after: str | None, limit: int
) -> list[StoredChat]:
    """Chats in the order of their ids, from behind `after`; see `chat`."""
    page = {"workspace_id": workspace_id, "after": after or "", "limit": limit}
    rows = connection.execute(_CHAT_PAGE, page).all()
    if not connection.scalar(_HAS_QUEUED, {"workspace_id": workspace_id}):
        return [Chat(*row).stored() for row in rows]
    found = (chat(connection, workspace_id, row.chat_id) for row in rows)
    return [stored for stored in found if stored is not None]


def _queued_below(connection: Connection, workspace_id: str, chat_id: str) -> dict[str, int]:
    """What the queued rows of a chat and of everything below it come to, by chat."""
    if not connection.scalar(_HAS_QUEUED, {"workspace_id": workspace_id}):
        return {}
    is_queued = (spend_events.c.workspace_id == workspace_id) & is_unapplied
    tree = (
        select(chats.c.chat_id)
        .where(chats.c.workspace_id == workspace_id, chats.c.chat_id == chat_id)
        .cte("tree", recursive=True)
    )
    children = select(chats.c.chat_id).where(
        chats.c.workspace_id == workspace_id, chats.c.parent_chat_id == tree.c.chat_id
    )
    rows = connection.execute(
        select(spend_events.c.chat_id, func.sum(spend_events.c.charged_micros))
        .where(is_queued, spend_events.c.chat_id.in_(select(tree.union_all(children).c.chat_id)))
        .group_by(spend_events.c.chat_id)
    )
    return {name: int(micros) for name, micros in rows}


def chat_children(connection: Connection, workspace_id: str, chat_id: str, limit: int) -> list[str]:
    """The first of a chat's direct children, in the order of their ids."""
    children = connection.scalars(
        select(chats.c.chat_id)
        .where(chats.c.workspace_id == workspace_id, chats.c.parent_chat_id == chat_id)
        .order_by(chats.c.chat_id)
        .limit(limit)
    )
    return list(children)


def source(connection: Connection, workspace_id: str, name: str) -> StoredSource | None:
    """The total that Redis told of last; what was queued since is still to be told to it."""
    row = connection.execute(
        select(sources.c.total_micros, sources.c.sequence).where(
            sources.c.workspace_id == workspace_id,
            sources.c.source == name,
            sources.c.stream_id != NO_STREAM_ID,
        )
    ).one_or_none()
    return None if row is None else StoredSource(*row)


def has_workspace(connection: Connection, workspace_id: str) -> bool:
    row = select(workspaces.c.workspace_id).where(workspaces.c.workspace_id == workspace_id)
    return connection.execute(row).first() is not None


def workspace_seqs(connection: Connection, after: str | None, limit: int) -> list[tuple[str, int]]:
    """Ids in order, from behind `after`, with the number of the last entry that is here."""
    rows = connection.execute(
        select(workspaces.c.workspace_id, workspaces.c.seq)
        .where(workspaces.c.workspace_id > (after or ""))
        .order_by(workspaces.c.workspace_id)
        .limit(limit)
    )
    return [(row.workspace_id, row.seq) for row in rows]


def workspace_ids(connection: Connection, after: str | None, limit: int) -> list[str]:
    """Ids in order, from behind `after`; also of workspaces that only have spend so far."""
    ids = connection.scalars(
        select(workspaces.c.workspace_id)
        .where(workspaces.c.workspace_id > (after or ""))
        .order_by(workspaces.c.workspace_id)
        .limit(limit)
    )
    return list(ids)
