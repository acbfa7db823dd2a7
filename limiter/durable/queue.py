"""Records while Redis is away: straight into the ledger, and on to Redis once it is back.

A queued row is provisional. Redis makes the charge in the end, and what it charged, and when, then
takes the row's place. Until then the row is worked out here by the rules of the record script.
It must not talk to Redis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, func, select

from limiter.durable.books import Books, Event, Source, UnknownWorkspaces, Wanted, open_books
from limiter.durable.entries import position
from limiter.durable.ledger import NO_PARTITION, put_aside
from limiter.durable.load import windows
from limiter.durable.schema import is_held, is_unapplied, reservations, spend_events
from limiter.errors import CounterOverflow, IdReused, ReservationChatMismatch, WorkspaceNotFound
from limiter.models import ReservationState
from limiter.money import MICROS_MAX
from limiter.stored import ResolvedRecord

_STREAM_NUMBER_MAX = 2**64 - 1


class Queued(Struct, frozen=True, kw_only=True):
    """The answer. `inserted` False: the ledger had the event, and this is what it said then.

    `reservation_state` is the state the record found its reservation in.
    """

    inserted: bool
    charged_micros: int
    chat_id: str | None
    reservation_state: ReservationState | None


class UnappliedRecord(Struct, frozen=True, kw_only=True):
    """A row that Redis has not been told of: what to call record with there."""

    id: int
    record: ResolvedRecord
    charged_micros: int


def queue_record(connection: Connection, record: ResolvedRecord, now_ms: int) -> Queued:
    """Charges the record in the ledger, unless it has it.

    Raises WorkspaceNotFound, IdReused, ReservationChatMismatch, CounterOverflow, and the chat
    errors.
    """
    books = _open(connection, record)
    known = books.events.get((record.workspace_id, record.event_id))
    if known is not None:
        if known.fingerprint != record.fingerprint:
            raise IdReused("event_id", record.event_id)
        return Queued(
            inserted=False,
            charged_micros=known.charged_micros,
            chat_id=known.chat_id,
            reservation_state=known.reservation_state,
        )
    event = _charge(books, record, now_ms)
    _require_room(connection, books, event)
    books.workspaces[record.workspace_id].clock_ms = event.at_ms
    books.add_event(event)
    _end_hold(books, event)
    books.write(connection)
    return Queued(
        inserted=True,
        charged_micros=event.charged_micros,
        chat_id=event.chat_id,
        reservation_state=event.reservation_state,
    )


def unapplied(
    connection: Connection, limit: int, after: str | None = None
) -> list[UnappliedRecord]:
    """Rows that Redis has not been told of, by workspace, in the order in which they came.

    `after`: of the workspaces that come after this one.
    """
    rows = connection.execute(
        select(spend_events)
        .where(is_unapplied, *([] if after is None else [spend_events.c.workspace_id > after]))
        .order_by(spend_events.c.workspace_id, spend_events.c.id)
        .limit(limit)
    )
    return [
        UnappliedRecord(
            id=row.id,
            charged_micros=row.charged_micros,
            record=ResolvedRecord(
                workspace_id=row.workspace_id,
                event_id=row.event_id,
                fingerprint=row.fingerprint,
                cost_micros=row.reported_micros,
                chat_id=row.chat_id,
                reservation_id=row.reservation_id,
                source=row.source,
                sequence=row.sequence,
                priced=row.priced,
                data=row.data,
            ),
        )
        for row in rows
    ]


def mark_applied(
    connection: Connection, ids: Sequence[int], charged_micros: Mapping[int, int], now_ms: int
) -> None:
    """Redis has made these charges, or had. Where it charged something else, that counts."""
    rows = connection.execute(
        select(spend_events.c.workspace_id, spend_events.c.event_id).where(
            spend_events.c.id.in_(ids)
        )
    )
    keys = {(row.workspace_id, row.event_id) for row in rows}
    wanted = Wanted(workspaces={workspace_id for workspace_id, _ in keys}, events=keys)
    if not keys:
        return
    books = open_books(connection, wanted)
    clocks = [workspace.clock_ms for workspace in books.workspaces.values()]
    now_ms = max(now_ms, *clocks)
    for event in books.events.values():
        # Its stream entry may have come by meanwhile, and has said all there is to say.
        if event.stream_id is None and not event.applied and event.id is not None:
            charged = charged_micros.get(event.id, event.charged_micros)
            books.change_event(event, applied=True, applied_at_ms=now_ms, charged_micros=charged)
    books.write(connection)


def give_up(connection: Connection, reasons: Mapping[int, str], now_ms: int) -> set[str]:
    """Ends the waiting of rows whose entry will not come, by row id; returns their workspaces.

    Each is put aside as a dead letter, and its charge stands as it is here. Redis, which has it
    not, or has it and may charge it again, has to be loaded with it.
    """
    stand = _let_stand(connection, spend_events.c.id.in_(reasons))
    for event in stand:
        fields = {name: str(value) for name, value in asdict(event).items() if value is not None}
        name = f"{event.workspace_id}:{event.event_id}"
        put_aside(connection, NO_PARTITION, name, fields, reasons[event.id or 0], now_ms)
    return {event.workspace_id for event in stand}


def adopt(connection: Connection, workspace_id: str) -> int:
    """Lets all that a cold workspace's queue holds stand as it is here; returns how many rows.

    What it is loaded from includes them then, so that no check overlooks them. Only for a workspace
    of which the stream has been emptied: an entry that comes later is a second charge.
    """
    return len(_let_stand(connection, spend_events.c.workspace_id == workspace_id))


def _let_stand(connection: Connection, which: ColumnElement[bool]) -> list[Event]:
    """Ends the waiting of those rows that still wait: their charges count as they are here."""
    rows = connection.execute(
        select(spend_events.c.workspace_id, spend_events.c.event_id).where(which, is_unapplied)
    )
    keys = {(row.workspace_id, row.event_id) for row in rows}
    if not keys:
        return []
    wanted = Wanted(workspaces={workspace_id for workspace_id, _ in keys}, events=keys)
    books = open_books(connection, wanted)
    # The entry of one may have come by meanwhile.
    stand = [event for event in books.events.values() if not event.applied and event.id is not None]
    for event in stand:
        # Without a moment: an entry of this event that comes after all is a second charge.
        books.change_event(event, applied=True, applied_at_ms=None)
    for workspace_id in {event.workspace_id for event in stand}:
        # Redis is behind from here on, which is noticed also if nobody lives to make it cold.
        books.workspaces[workspace_id].seq += 1
    books.write(connection)
    return stand


def _open(connection: Connection, record: ResolvedRecord) -> Books:
    workspace_id = record.workspace_id
    wanted = Wanted(workspaces={workspace_id}, events={(workspace_id, record.event_id)})
    if record.reservation_id is not None:
        wanted.reservations.add((workspace_id, record.reservation_id))
    if record.source is not None:
        wanted.sources.add((workspace_id, record.source))
    for chat_id in (record.chat_id, record.parent_chat_id):
        if chat_id is not None:
            wanted.chats.add((workspace_id, chat_id))
    try:
        return open_books(connection, wanted)
    except UnknownWorkspaces:
        raise WorkspaceNotFound(workspace_id) from None


def _charge(books: Books, record: ResolvedRecord, now_ms: int) -> Event:
    """The row that the record comes to. Creates its chat, and keeps its source's total."""
    workspace_id, chat_id = record.workspace_id, record.chat_id
    state: ReservationState | None = None
    credit_micros = 0
    if record.reservation_id is not None:
        hold = books.reservations.get((workspace_id, record.reservation_id))
        state = "unknown" if hold is None else hold.state
        if hold is not None:
            chat_id = chat_id or hold.chat_id
            if state == "held" and chat_id != hold.chat_id:
                raise ReservationChatMismatch(record.reservation_id)
            credit_micros = hold.charged_micros
    if chat_id is not None:
        _place(books, record, chat_id)
    charged_micros, total_micros, sequence = record.cost_micros, None, record.sequence
    if record.source is not None:
        key = (workspace_id, record.source)
        known_micros, known_sequence = _known_total(books.sources.get(key))
        charged_micros, total_micros, sequence = increment(
            record.cost_micros, record.sequence, known_micros, known_sequence
        )
        books.queue_source(key, total_micros, sequence)
    return Event(
        id=None,
        workspace_id=workspace_id,
        event_id=record.event_id,
        at_ms=max(now_ms, books.workspaces[workspace_id].clock_ms),
        charged_micros=max(0, charged_micros - credit_micros),
        fingerprint=record.fingerprint,
        chat_id=chat_id,
        reservation_id=record.reservation_id,
        reservation_state=state,
        source=record.source,
        total_micros=total_micros,
        sequence=record.sequence,
        priced=record.priced,
        data=record.data,
        seq=None,
        stream_id=None,
        applied=False,
        applied_at_ms=None,
        reported_micros=record.cost_micros,
    )


def _place(books: Books, record: ResolvedRecord, chat_id: str) -> None:
    """The record's chat. Redis may know more of it than has come here, so it is provisional."""
    known = books.trees.get(record.workspace_id, chat_id)
    if known is None or record.parent_chat_id is not None:
        books.trees.create(
            record.workspace_id,
            chat_id,
            record.parent_chat_id,
            limit_micros=record.spend_limit_micros if known is None else known.limit_micros,
            provisional=True,
        )


def _known_total(source: Source | None) -> tuple[int, int | None]:
    """What is known to have been reported: of what was queued, else of what Redis told."""
    if source is None:
        return 0, None
    if source.queued_total_micros is not None:
        return source.queued_total_micros, source.queued_sequence
    return source.total_micros, source.sequence


def increment(
    total_micros: int, sequence: int | None, known_micros: int, known_sequence: int | None
) -> tuple[int, int, int | None]:
    """What a running total grew by, and the total and sequence to be kept.

    A lower total means that its reporter restarted, unless its sequence says that it is late.
    """
    late = sequence is not None and known_sequence is not None and sequence <= known_sequence
    if total_micros in (0, known_micros) or late:
        charged_micros, total_micros = 0, known_micros
    elif total_micros > known_micros:
        charged_micros = total_micros - known_micros
    else:
        charged_micros = total_micros
    if known_sequence is not None and (sequence is None or sequence < known_sequence):
        sequence = known_sequence
    return charged_micros, total_micros, sequence


def _require_room(connection: Connection, books: Books, event: Event) -> None:
    """Refuses a charge that would take a sum out of the range in which scripts are exact."""
    workspace_id = event.workspace_id
    held_micros = connection.scalar(
        select(func.sum(reservations.c.micros)).where(
            reservations.c.workspace_id == workspace_id, is_held
        )
    )
    sums = [
        sum(micros for _, micros in buckets) + int(held_micros or 0)
        for buckets in windows(connection, workspace_id, event.at_ms).values()
    ]
    chat = None if event.chat_id is None else books.trees.get(workspace_id, event.chat_id)
    if chat is not None:
        sums += [node.spent_micros + node.held_micros for node in books.trees.chain(chat)]
    if max(sums, default=0) + event.charged_micros > MICROS_MAX:
        raise CounterOverflow("the charge would pass 2^53 - 1 micros", field="cost_micros")


def _end_hold(books: Books, event: Event) -> None:
    if event.reservation_id is None:
        return
    key = (event.workspace_id, event.reservation_id)
    hold = books.reservations.get(key)
    # Behind everything that the stream can have said of the hold by now.
    at_ms = max(event.at_ms, 0 if hold is None else position(hold.stream_id)[0] + 1)
    books.end_hold(
        key,
        "recorded",
        at_ms=event.at_ms,
        stream_id=f"{at_ms}-{_STREAM_NUMBER_MAX}",
        chat_id=event.chat_id,
    )
