"""The ledger: batches of stream entries go in, rows come out, what cannot go in is put aside."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, select, tuple_

from limiter.durable.books import open_books
from limiter.durable.bulk import insert_new, matching
from limiter.durable.chats import Key
from limiter.durable.entries import EXPIRY_PREFIX, Entry
from limiter.durable.fold import Applied, bring_in, wanted_by
from limiter.durable.schema import dead_letters, spend_events
from limiter.models import ReservationState

_LATE_STATES = frozenset({"expired", "unknown"})
_FIELDS_LENGTH_MAX = 100_000

NO_PARTITION = -1


class LedgerRow(Struct, frozen=True, kw_only=True):
    """One charge. `applied` False: written while Redis was away, and not brought there yet."""

    id: int
    workspace_id: str
    event_id: str
    at_ms: int
    charged_micros: int
    chat_id: str | None
    reservation_id: str | None
    reservation_state: ReservationState | None
    source: str | None
    total_micros: int | None
    sequence: int | None
    priced: bool
    data: str | None
    applied: bool

    @property
    def late(self) -> bool:
        """The record came after its hold had ended by itself."""
        return self.reservation_state in _LATE_STATES

    @property
    def is_expiry(self) -> bool:
        """No record: the charge of a hold that expired."""
        return self.event_id.startswith(EXPIRY_PREFIX)


class DeadLetter(Struct, frozen=True, kw_only=True):
    """A stream entry that was put aside, and why. `fields` is JSON.

    Partition NO_PARTITION: a queued record that Redis could not be told of. Its charge stands in
    the ledger; `stream_id` is its workspace and event id.
    """

    at_ms: int
    partition: int
    stream_id: str
    reason: str
    fields: str


_COLUMNS = [spend_events.c[name] for name in LedgerRow.__struct_fields__]


def apply_batch(connection: Connection, entries: Sequence[Entry]) -> Applied:
    """Brings in a batch, all of it or nothing. Raises UnknownWorkspaces."""
    books = open_books(connection, wanted_by(entries))
    applied = bring_in(books, entries)
    books.write(connection)
    return applied


def ledger_page(
    connection: Connection,
    workspace_id: str,
    since_ms: int,
    until_ms: int | None,
    after: LedgerRow | None,
    limit: int,
) -> list[LedgerRow]:
    """The next rows behind `after`, oldest first, from `since_ms` to before `until_ms`."""
    order = (spend_events.c.at_ms, spend_events.c.id)
    query = (
        select(*_COLUMNS)
        .where(spend_events.c.workspace_id == workspace_id, spend_events.c.at_ms >= since_ms)
        .order_by(*order)
        .limit(limit)
    )
    if until_ms is not None:
        query = query.where(spend_events.c.at_ms < until_ms)
    if after is not None:
        query = query.where(tuple_(*order) > tuple_(after.at_ms, after.id))
    return [LedgerRow(**row._mapping) for row in connection.execute(query)]


def fingerprints(connection: Connection, events: Iterable[Key]) -> dict[Key, str]:
    """Of those events that the ledger has, the fingerprint, by workspace and event id."""
    rows = matching(connection, spend_events, ("workspace_id", "event_id"), events)
    return {(row.workspace_id, row.event_id): row.fingerprint for row in rows}


def put_aside(
    connection: Connection,
    partition: int,
    stream_id: str | bytes,
    fields: Mapping[bytes, bytes] | Mapping[str, str],
    reason: str,
    now_ms: int,
) -> None:
    """A dead letter, once for each entry."""
    readable = {_readable(name): _readable(value) for name, value in fields.items()}
    row = (now_ms, partition, _readable(stream_id), reason, json.dumps(readable))
    names = ("at_ms", "partition", "stream_id", "reason", "fields")
    insert_new(connection, dead_letters, names, [row])


def put_entry_aside(connection: Connection, entry: Entry, reason: str, now_ms: int) -> None:
    """A dead letter of an entry that could be understood, and yet not be applied."""
    fields = {name: str(value) for name, value in msgspec.to_builtins(entry).items()}
    fields["type"] = type(entry).__name__
    put_aside(connection, entry.partition, entry.stream_id, fields, reason, now_ms)


def dead_letter_list(connection: Connection, limit: int) -> list[DeadLetter]:
    """The latest dead letters, latest first."""
    rows = connection.execute(select(dead_letters).order_by(dead_letters.c.id.desc()).limit(limit))
    return [
        DeadLetter(
            at_ms=row.at_ms,
            partition=row.partition,
            stream_id=row.stream_id,
            reason=row.reason,
            fields=row.fields,
        )
        for row in rows
    ]


def _readable(value: bytes | str) -> str:
    """Bytes that are no text are escaped, so that what was there can be told from the letter."""
    text = value if isinstance(value, str) else value.decode(errors="backslashreplace")
    return text[:_FIELDS_LENGTH_MAX].replace("\0", "\\x00")
