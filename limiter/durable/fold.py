"""Stream entries brought into the books, each once, in whatever order and however often they come.

Charges are told apart by their event id. For everything else the news with the highest stream id
wins, so that what comes twice or late changes nothing. It must not run SQL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec import Struct

from limiter.durable.books import Books, Event, Reservation, Source, Wanted
from limiter.durable.chats import Chat, ContradictedTree
from limiter.durable.entries import (
    ChatEntry,
    Entry,
    ExpireEntry,
    HoldEntry,
    RecordEntry,
    ReleaseEntry,
    position,
)
from limiter.models import ReservationState
from limiter.periods import SECOND_MS

# A row that was written while Redis was away and has been brought there may still see the entry
# of that: one that is later than this after it cannot be it, and is a second charge.
SETTLE_SLACK_MS = 60 * SECOND_MS


class DuplicateRecord(Struct, frozen=True, kw_only=True):
    """A charge that Redis made and the ledger did not: its event id was there already.

    `at_ms`, `charged_micros` and `chat_id` are those of the second charge, to be taken back out of
    Redis. It is reported again whenever its entry is delivered again, which is until it is
    acknowledged; `partition` and `stream_id` name the entry.
    """

    partition: int
    stream_id: str
    workspace_id: str
    event_id: str
    at_ms: int
    charged_micros: int
    chat_id: str | None
    priced: bool
    same_fingerprint: bool


@dataclass(slots=True)
class Applied:
    """What a batch came to.

    `inserted`: ledger rows. `rewound`: workspaces of which Redis tells another story than the
    ledger, because it lost entries after they had been applied. `poisoned`: entries that could not
    be applied, and were put aside as dead letters.
    """

    inserted: int = 0
    duplicates: list[DuplicateRecord] = field(default_factory=list)
    rewound: set[str] = field(default_factory=set)
    poisoned: int = 0


def wanted_by(entries: Sequence[Entry]) -> Wanted:
    """The rows that the entries touch."""
    wanted = Wanted()
    for entry in entries:
        workspace_id = entry.workspace_id
        wanted.workspaces.add(workspace_id)
        if isinstance(entry, RecordEntry):
            wanted.events.add((workspace_id, entry.event_id))
            if entry.source is not None:
                wanted.sources.add((workspace_id, entry.source))
        elif isinstance(entry, ExpireEntry) and entry.charged_micros:
            wanted.events.add((workspace_id, entry.event_id))
        if isinstance(entry, ChatEntry):
            if entry.parent_chat_id is not None:
                wanted.chats.add((workspace_id, entry.parent_chat_id))
        elif entry.reservation_id is not None:
            wanted.reservations.add((workspace_id, entry.reservation_id))
        if entry.chat_id is not None:
            wanted.chats.add((workspace_id, entry.chat_id))
    return wanted


def bring_in(books: Books, entries: Sequence[Entry]) -> Applied:
    """Changes the books by the entries, and says what there is to be done in Redis."""
    applied = Applied()
    for entry in sorted(entries, key=lambda entry: position(entry.stream_id)):
        _follow(books, entry, applied)
        if isinstance(entry, RecordEntry):
            _record(books, entry, applied)
        elif isinstance(entry, HoldEntry):
            _hold(books, entry)
        elif isinstance(entry, ReleaseEntry):
            _end(books, entry, "released")
        elif isinstance(entry, ExpireEntry):
            _expire(books, entry, applied)
        else:
            _place(books, entry, applied)
    return applied


def _follow(books: Books, entry: Entry, applied: Applied) -> None:
    """Keeps how far the workspace is, and notices when Redis went back.

    Within one life of Redis an entry with a higher number has a higher stream id. Where the two
    orders disagree, numbers were given out again, so entries that were applied are gone there.
    """
    workspace = books.workspaces[entry.workspace_id]
    is_next = entry.seq > workspace.seq
    is_later = position(entry.stream_id) > position(workspace.stream_id)
    if is_next != is_later:
        applied.rewound.add(entry.workspace_id)
    if is_next:
        workspace.seq = entry.seq
    if is_later:
        workspace.stream_id = entry.stream_id
    workspace.clock_ms = max(workspace.clock_ms, entry.at_ms)


def _record(books: Books, entry: RecordEntry, applied: Applied) -> None:
    event = Event(
        id=None,
        workspace_id=entry.workspace_id,
        event_id=entry.event_id,
        at_ms=entry.at_ms,
        charged_micros=entry.charged_micros,
        fingerprint=entry.fingerprint,
        chat_id=entry.chat_id,
        reservation_id=entry.reservation_id,
        reservation_state=entry.state,
        source=entry.source,
        total_micros=entry.total_micros,
        sequence=entry.sequence,
        priced=entry.priced,
        data=entry.data,
        seq=entry.seq,
        stream_id=entry.stream_id,
        applied=True,
        applied_at_ms=None,
        reported_micros=None,
    )
    _enter(books, entry, event, applied)
    _end(books, entry, "recorded")
    if entry.source is not None and entry.total_micros is not None:
        books.set_source(
            Source(
                entry.workspace_id,
                entry.source,
                entry.total_micros,
                entry.sequence,
                entry.stream_id,
            )
        )


def _expire(books: Books, entry: ExpireEntry, applied: Applied) -> None:
    if entry.charged_micros:
        event = Event(
            id=None,
            workspace_id=entry.workspace_id,
            event_id=entry.event_id,
            at_ms=entry.at_ms,
            charged_micros=entry.charged_micros,
            fingerprint="",
            chat_id=entry.chat_id,
            reservation_id=entry.reservation_id,
            reservation_state="held",
            source=None,
            total_micros=None,
            sequence=None,
            priced=True,
            data=None,
            seq=entry.seq,
            stream_id=entry.stream_id,
            applied=True,
            applied_at_ms=None,
            reported_micros=None,
        )
        _enter(books, entry, event, applied)
    _end(books, entry, "expired", charged_micros=entry.charged_micros)


def _enter(books: Books, entry: Entry, event: Event, applied: Applied) -> None:
    """A charge: news, the same entry once more, the entry of a queued row, or a second charge."""
    known = books.events.get((event.workspace_id, event.event_id))
    if known is None:
        books.add_event(event)
        applied.inserted += 1
    elif known.stream_id is not None:
        if (known.stream_id, known.seq) != (event.stream_id, event.seq):
            applied.duplicates.append(_duplicate(entry, event, known))
    elif not known.applied or event.at_ms <= (known.applied_at_ms or 0) + SETTLE_SLACK_MS:
        # Redis has now made the charge that was waiting for it. What it charged, and when, is what
        # its windows hold, and so what has to stand here.
        books.change_event(
            known,
            at_ms=event.at_ms,
            charged_micros=event.charged_micros,
            fingerprint=event.fingerprint,
            chat_id=event.chat_id,
            reservation_id=event.reservation_id,
            reservation_state=event.reservation_state,
            source=event.source,
            total_micros=event.total_micros,
            sequence=event.sequence,
            priced=event.priced,
            data=event.data,
            seq=event.seq,
            stream_id=event.stream_id,
            applied=True,
        )
    else:
        applied.duplicates.append(_duplicate(entry, event, known))


def _duplicate(entry: Entry, event: Event, known: Event) -> DuplicateRecord:
    return DuplicateRecord(
        partition=entry.partition,
        stream_id=entry.stream_id,
        workspace_id=event.workspace_id,
        event_id=event.event_id,
        at_ms=event.at_ms,
        charged_micros=event.charged_micros,
        chat_id=event.chat_id,
        priced=event.priced,
        same_fingerprint=event.fingerprint == known.fingerprint,
    )


def _hold(books: Books, entry: HoldEntry) -> None:
    books.place_hold(
        Reservation(
            workspace_id=entry.workspace_id,
            reservation_id=entry.reservation_id,
            state="held",
            micros=entry.micros,
            expires_at_ms=entry.expires_at_ms,
            chat_id=entry.chat_id,
            fingerprint=entry.fingerprint,
            charged_micros=0,
            stream_id=entry.stream_id,
            forget_at_ms=None,
        )
    )


def _end(
    books: Books,
    entry: RecordEntry | ReleaseEntry | ExpireEntry,
    state: ReservationState,
    charged_micros: int = 0,
) -> None:
    if entry.reservation_id is None:
        return
    books.end_hold(
        (entry.workspace_id, entry.reservation_id),
        state,
        at_ms=entry.at_ms,
        stream_id=entry.stream_id,
        chat_id=entry.chat_id,
        charged_micros=charged_micros,
    )


def _place(books: Books, entry: ChatEntry, applied: Applied) -> None:
    chat = Chat(
        entry.workspace_id,
        entry.chat_id,
        entry.parent_chat_id,
        entry.root_chat_id,
        entry.depth,
        provisional=False,
        limit_micros=entry.limit_micros,
    )
    try:
        books.trees.place(chat)
    except ContradictedTree:
        applied.rewound.add(entry.workspace_id)
