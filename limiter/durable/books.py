"""The books: all rows that one transaction touches, locked, loaded, changed in memory, written.

Every change of a ledger row carries its effect on windows, chats and workspace with it, so that
ledger and aggregates cannot disagree. Whoever opens the books of a workspace holds its lock until
the transaction ends. It must not know stream entries or requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, select

from limiter import periods
from limiter.durable import bulk
from limiter.durable.bulk import AnyRow
from limiter.durable.chats import ChatTrees, Key, load_chats
from limiter.durable.entries import position
from limiter.durable.schema import (
    NO_STREAM_ID,
    WORKSPACE_SCOPE,
    reservations,
    sources,
    spend_events,
    window_buckets,
    workspaces,
)
from limiter.errors import StoreUnavailable
from limiter.models import HOLD_MS_MAX, ReservationState
from limiter.periods import HOUR_MS

# How long after its end and its expiry the row of a hold is kept. A hold that is news after that
# has ended for certain, because the scripts expire what is due before they append anything.
FORGET_MS = HOUR_MS

_WORKSPACE_NAMES = ("seq", "stream_id", "clock_ms", "spent_at_ms", "unpriced_records")
_EVENT_NAMES = tuple(column.name for column in spend_events.columns)
_NEW_EVENT_NAMES = tuple(name for name in _EVENT_NAMES if name != "id")
_RESERVATION_NAMES = tuple(column.name for column in reservations.columns)
_SOURCE_NAMES = tuple(column.name for column in sources.columns)
_BUCKET_NAMES = tuple(column.name for column in window_buckets.columns)

_workspace_values = attrgetter("workspace_id", *_WORKSPACE_NAMES)
_event_values = attrgetter(*_EVENT_NAMES)
_new_event_values = attrgetter(*_NEW_EVENT_NAMES)
_reservation_values = attrgetter(*_RESERVATION_NAMES)
_source_values = attrgetter(*_SOURCE_NAMES)


class UnknownWorkspaces(Exception):
    """Workspaces without a row, which therefore cannot be locked."""

    def __init__(self, workspace_ids: Iterable[str]) -> None:
        super().__init__()
        self.workspace_ids = sorted(workspace_ids)


@dataclass(slots=True)
class Workspace:
    """What the entries of a workspace add up to, apart from its windows."""

    workspace_id: str
    seq: int
    stream_id: str
    clock_ms: int
    spent_at_ms: int
    unpriced_records: int


@dataclass(slots=True)
class Event:
    """One row of the ledger; fields in the order of its columns."""

    id: int | None
    workspace_id: str
    event_id: str
    at_ms: int
    charged_micros: int
    fingerprint: str
    chat_id: str | None
    reservation_id: str | None
    reservation_state: ReservationState | None
    source: str | None
    total_micros: int | None
    sequence: int | None
    priced: bool
    data: str | None
    seq: int | None
    stream_id: str | None
    applied: bool
    applied_at_ms: int | None
    reported_micros: int | None


@dataclass(slots=True)
class Reservation:
    """One row of `reservations`; fields in the order of its columns."""

    workspace_id: str
    reservation_id: str
    state: ReservationState
    micros: int
    expires_at_ms: int
    chat_id: str | None
    fingerprint: str
    charged_micros: int
    stream_id: str
    forget_at_ms: int | None


@dataclass(slots=True)
class Source:
    """One row of `sources`; fields in the order of its columns."""

    workspace_id: str
    source: str
    total_micros: int = 0
    sequence: int | None = None
    stream_id: str = NO_STREAM_ID
    queued_total_micros: int | None = None
    queued_sequence: int | None = None


@dataclass(slots=True)
class Wanted:
    """Which rows to load, by workspace and id."""

    workspaces: set[str] = field(default_factory=set)
    events: set[Key] = field(default_factory=set)
    reservations: set[Key] = field(default_factory=set)
    sources: set[Key] = field(default_factory=set)
    chats: set[Key] = field(default_factory=set)


class Books:
    """The rows that were wanted, and the changes to them."""

    def __init__(
        self,
        *,
        workspace_rows: dict[str, Workspace],
        events: Iterable[AnyRow],
        reservation_rows: Iterable[AnyRow],
        source_rows: Iterable[AnyRow],
    ) -> None:
        self.workspaces = workspace_rows
        self.trees = ChatTrees()
        self.events = {(e.workspace_id, e.event_id): e for e in (Event(*row) for row in events)}
        self.reservations = {
            (r.workspace_id, r.reservation_id): r
            for r in (Reservation(*row) for row in reservation_rows)
        }
        self.sources = {
            (s.workspace_id, s.source): s for s in (Source(*row) for row in source_rows)
        }
        self._new_events: list[Event] = []
        self._changed_events: dict[Key, Event] = {}
        self._changed_reservations: set[Key] = set()
        self._changed_sources: set[Key] = set()
        self._buckets: dict[tuple[str, str, int], int] = {}
        self._widths = [(period.name, period.bucket_ms) for period in periods.PERIODS]

    # ------------------------------------------------------------------ the ledger

    def add_event(self, event: Event) -> None:
        """Enters a charge that is not in the ledger yet."""
        self.events[event.workspace_id, event.event_id] = event
        self._new_events.append(event)
        self._count(event, 1)

    def change_event(self, event: Event, **changes: Any) -> None:
        """Changes a row, and moves its amount to where it now belongs."""
        self._count(event, -1)
        for name, value in changes.items():
            setattr(event, name, value)
        self._count(event, 1)
        if event.id is not None:
            self._changed_events[event.workspace_id, event.event_id] = event

    def _count(self, event: Event, sign: int) -> None:
        workspace = self.workspaces[event.workspace_id]
        if not event.priced:
            workspace.unpriced_records += sign
        micros = sign * event.charged_micros
        if event.chat_id is not None:
            self.trees.charge(event.workspace_id, event.chat_id, micros)
        if micros == 0:
            return
        at_ms, buckets = event.at_ms, self._buckets
        if sign > 0 and at_ms > workspace.spent_at_ms:
            workspace.spent_at_ms = at_ms
        for name, width_ms in self._widths:
            key = (event.workspace_id, name, at_ms - at_ms % width_ms)
            buckets[key] = buckets.get(key, 0) + micros

    # ------------------------------------------------------------------ reservations, sources

    def place_hold(self, new: Reservation) -> None:
        """A hold, unless later news of it is known or it must have ended long ago."""
        key = (new.workspace_id, new.reservation_id)
        known = self.reservations.get(key)
        if known is None:
            if new.expires_at_ms + FORGET_MS <= self.workspaces[new.workspace_id].clock_ms:
                return
        elif position(new.stream_id) <= position(known.stream_id):
            return
        self._hold(known, -1)
        self._hold(new, 1)
        self.reservations[key] = new
        self._changed_reservations.add(key)

    def end_hold(
        self,
        key: Key,
        state: ReservationState,
        *,
        at_ms: int,
        stream_id: str,
        chat_id: str | None,
        charged_micros: int = 0,
    ) -> None:
        """The end of a hold, unless later news of it is known."""
        known = self.reservations.get(key)
        if known is None:
            # The news of the hold itself may still come, and must find that it has ended.
            known = Reservation(
                *key, state, 0, at_ms + HOLD_MS_MAX, chat_id, "", 0, stream_id, forget_at_ms=0
            )
            self.reservations[key] = known
        elif position(stream_id) <= position(known.stream_id):
            return
        self._hold(known, -1)
        known.state = state
        known.charged_micros = charged_micros
        known.stream_id = stream_id
        known.forget_at_ms = max(at_ms, known.expires_at_ms) + FORGET_MS
        self._changed_reservations.add(key)

    def _hold(self, reservation: Reservation | None, sign: int) -> None:
        if reservation is None or reservation.state != "held" or reservation.chat_id is None:
            return
        self.trees.hold(reservation.workspace_id, reservation.chat_id, sign * reservation.micros)

    def set_source(self, new: Source) -> None:
        """A reporter's total by an entry, unless a later one is known."""
        key = (new.workspace_id, new.source)
        known = self.sources.get(key)
        if known is None or position(new.stream_id) > position(known.stream_id):
            self.sources[key] = new
            self._changed_sources.add(key)

    def queue_source(self, key: Key, total_micros: int, sequence: int | None) -> None:
        """A reporter's total while Redis is away, until an entry says what Redis made of it."""
        source = self.sources.setdefault(key, Source(*key))
        source.queued_total_micros, source.queued_sequence = total_micros, sequence
        self._changed_sources.add(key)

    # ------------------------------------------------------------------ writing

    def write(self, connection: Connection) -> None:
        """Writes every change. Raises StoreUnavailable if the ledger changed under the lock."""
        new = [_new_event_values(event) for event in self._new_events]
        if bulk.insert_new(connection, spend_events, _NEW_EVENT_NAMES, new) != len(new):
            raise StoreUnavailable("somebody changed the ledger without its lock")
        changed = [_event_values(event) for event in self._changed_events.values()]
        bulk.change(connection, spend_events, ("id",), _NEW_EVENT_NAMES, changed)
        grown: list[bulk.Values] = []
        shrunk: list[bulk.Values] = []
        for (workspace_id, period, start_ms), micros in sorted(self._buckets.items()):
            row = (workspace_id, WORKSPACE_SCOPE, period, start_ms, micros)
            if micros:
                (grown if micros > 0 else shrunk).append(row)
        bulk.add(connection, window_buckets, _BUCKET_NAMES, grown, amount="micros")
        bulk.change(connection, window_buckets, _BUCKET_NAMES[:-1], ("micros",), shrunk, adds=True)
        self.trees.write(connection)
        held = [
            _reservation_values(self.reservations[key])
            for key in sorted(self._changed_reservations)
        ]
        bulk.replace(connection, reservations, _RESERVATION_NAMES, held)
        totals = [_source_values(self.sources[key]) for key in sorted(self._changed_sources)]
        bulk.replace(connection, sources, _SOURCE_NAMES, totals)
        heads = [_workspace_values(workspace) for workspace in self.workspaces.values()]
        bulk.change(connection, workspaces, ("workspace_id",), _WORKSPACE_NAMES, heads)


def open_books(connection: Connection, wanted: Wanted) -> Books:
    """Locks the workspaces, then loads what is wanted and exists. Raises UnknownWorkspaces."""
    locked = lock_workspaces(connection, wanted.workspaces)
    by_event, by_id = ("workspace_id", "event_id"), ("workspace_id", "reservation_id")
    books = Books(
        workspace_rows=locked,
        events=bulk.matching(connection, spend_events, by_event, wanted.events),
        reservation_rows=bulk.matching(connection, reservations, by_id, wanted.reservations),
        source_rows=bulk.matching(connection, sources, ("workspace_id", "source"), wanted.sources),
    )
    # What a loaded row may have to be taken out of has to be there as well.
    rows: Sequence[Event | Reservation] = [*books.events.values(), *books.reservations.values()]
    touched = {(row.workspace_id, row.chat_id) for row in rows if row.chat_id is not None}
    books.trees = load_chats(connection, wanted.chats | touched)
    return books


def lock_workspaces(connection: Connection, workspace_ids: set[str]) -> dict[str, Workspace]:
    """Their rows, locked until the transaction ends, always in the same order.

    Raises UnknownWorkspaces if one has no row.
    """
    ids = sorted(workspace_ids)
    source, (workspace_id,) = bulk.key_source(connection.dialect.name, 1)
    head = [workspaces.c[name] for name in ("workspace_id", *_WORKSPACE_NAMES)]
    statement = (
        select(*head)
        .select_from(source.join(workspaces, workspaces.c.workspace_id == workspace_id))
        .order_by(workspaces.c.workspace_id)
        .with_for_update(of=workspaces)
    )
    parameters = bulk.key_parameter([(id_,) for id_ in ids])
    rows = {row[0]: Workspace(*row) for row in connection.execute(statement, parameters)}
    if len(rows) < len(ids):
        raise UnknownWorkspaces(workspace_ids - rows.keys())
    return rows
