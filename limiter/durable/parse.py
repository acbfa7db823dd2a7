"""Entries of a partition's stream, taken apart.

Whatever `parse_entry` lets through can be applied: it is the wall between the stream, to which
anybody with access to Redis can append, and SQL. It must not know what an entry does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from limiter.durable.entries import (
    ChatEntry,
    Entry,
    ExpireEntry,
    HoldEntry,
    RecordEntry,
    ReleaseEntry,
)
from limiter.models import DEPTH_MAX, ID_LENGTH_MAX, ReservationState
from limiter.money import MICROS_MAX

DATA_LENGTH_MAX = 65_536

STATES: dict[str, ReservationState | None] = {
    "-": None,
    "h": "held",
    "r": "recorded",
    "l": "released",
    "e": "expired",
    "u": "unknown",
}


class PoisonedEntry(ValueError):
    """An entry that cannot be understood. `str(error)` says why, without quoting values."""


def parse_entry(fields: Sequence[bytes], *, partition: int, stream_id: bytes) -> Entry:
    """A stream entry as XRANGE gives it, names and values by turns. Raises PoisonedEntry.

    Fields that are not known are let pass: a newer version of the scripts may add some.
    """
    try:
        shape = _SHAPES.get(fields[1])
        values = None if shape is None else shape.values_of(stream_id, fields)
        if shape is None or values is None:
            shape, values = _in_another_order(stream_id, fields)
        return shape.make(partition, *values)
    except KeyError as error:
        raise PoisonedEntry(f"{error.args[0].decode()}: missing") from None
    except UnicodeError:
        raise PoisonedEntry("not UTF-8") from None


# --------------------------------------------------------------------------- what fields may hold


class _Field(NamedTuple):
    """`pattern` lets no NUL through."""

    name: bytes
    pattern: str
    fault: str

    def named(self) -> str:
        """A pattern of the name and the value."""
        return f"{self.name.decode()}\0({self.pattern})"


def _id(name: str, *, empty: bool = False) -> _Field:
    pattern = rf"[A-Za-z0-9._@-]{{{0 if empty else 1},{ID_LENGTH_MAX}}}"
    return _Field(name.encode(), pattern, "not an id")


def _amount(name: str, *, empty: bool = False) -> _Field:
    """Of as many digits as MICROS_MAX; whoever makes a number of it has to look further."""
    return _Field(name.encode(), rf"[0-9]{{{0 if empty else 1},16}}", _NO_AMOUNT)


def _count(name: str) -> _Field:
    return _Field(name.encode(), r"[1-9][0-9]{0,15}", "not a whole number above 0")


_NO_AMOUNT = f"not a whole number from 0 to {MICROS_MAX}"
_FINGERPRINT = _Field(b"fingerprint", r"[\x21-\x7e]{0,64}", "too long, or not printable")
# PostgreSQL keeps no NUL in a text.
_DATA = _Field(b"data", rf"[^\x00]{{0,{DATA_LENGTH_MAX}}}", "too long, or not a text")
# It lies beside the fields. Both halves are unsigned 64-bit numbers.
_STREAM_ID = _Field(b"stream id", r"[0-9]{1,20}-[0-9]{1,20}", "not two numbers")
_TYPE = b"type"
_HEAD = (_id("workspace"), _count("seq"), _count("at"))


class _Shape:
    """The fields of one type in the order in which the scripts write them, and what makes the entry
    of their values. `last`: fields that come at the end, all of them or none.

    All of it is matched in one go, with a NUL between two parts: a pass does this for thousands of
    entries on a core that it may share with Redis.
    """

    def __init__(
        self,
        type_: bytes,
        make: Callable[..., Entry],
        *fields: _Field,
        last: Sequence[_Field] = (),
    ) -> None:
        self.make = make
        self._type = type_
        self._fields = (*_HEAD, *fields)
        self._last = last
        parts = [f"({_STREAM_ID.pattern})", f"{_TYPE.decode()}\0{type_.decode()}"]
        parts += [field.named() for field in self._fields]
        pattern = "\0".join(parts)
        if last:
            pattern += "(?:\0" + "\0".join(field.named() for field in last) + ")?"
        self._fits = re.compile(pattern).fullmatch

    def values_of(self, stream_id: bytes, fields: Sequence[bytes]) -> Sequence[str | None] | None:
        """The stream id and the values; None if it does not fit. Raises UnicodeDecodeError."""
        match = self._fits(b"\0".join((stream_id, *fields)).decode())
        return None if match is None else match.groups()

    def in_order(self, raw: Mapping[bytes, bytes]) -> list[bytes]:
        """The fields of this type, as the scripts would have written them. Raises KeyError."""
        ordered = [_TYPE, self._type]
        for field in self._fields:
            ordered += (field.name, raw[field.name])
        if any(field.name in raw for field in self._last):
            for field in self._last:
                ordered += (field.name, raw.get(field.name, b""))
        return ordered

    def fault(self, stream_id: bytes, raw: Mapping[bytes, bytes]) -> str:
        """What keeps an entry that has all fields from fitting."""
        fields = (_STREAM_ID, *self._fields, *self._last)
        raw = {**{field.name: b"" for field in self._last}, **raw, _STREAM_ID.name: stream_id}
        return next(
            f"{field.name.decode()}: {field.fault}"
            for field in fields
            if not re.fullmatch(field.pattern, raw[field.name].decode())
        )


def _in_another_order(
    stream_id: bytes, fields: Sequence[bytes]
) -> tuple[_Shape, Sequence[str | None]]:
    """The slow way: not as the scripts of this version write it. Raises PoisonedEntry, KeyError."""
    raw = dict(zip(fields[::2], fields[1::2], strict=True))
    shape = _SHAPES.get(raw[_TYPE])
    if shape is None:
        raise PoisonedEntry("type: not known")
    values = shape.values_of(stream_id, shape.in_order(raw))
    if values is None:
        raise PoisonedEntry(shape.fault(stream_id, raw))
    return shape, values


def _require_amounts(**amounts: int) -> None:
    """Of fields by their names: what their patterns leave open."""
    if max(amounts.values()) > MICROS_MAX:
        name = next(name for name, amount in amounts.items() if amount > MICROS_MAX)
        raise PoisonedEntry(f"{name}: {_NO_AMOUNT}")


# --------------------------------------------------------------------------- one maker a type
#
# What all types share is written out in each: handed on in a dict, it takes twice as long.


def _record(
    partition: int,
    stream_id: str,
    workspace_id: str,
    seq: str,
    at: str,
    event_id: str,
    charged: str,
    fingerprint: str,
    chat_id: str,
    reservation_id: str,
    state: str,
    priced: str,
    data: str,
    source: str | None,
    total: str | None,
    sequence: str | None,
) -> RecordEntry:
    if (state == "-") != (not reservation_id):
        raise PoisonedEntry("state and reservation go together")
    # Only a record of a running total has these three, and a sequence not always.
    if (not source) != (not total) or (sequence and not source):
        raise PoisonedEntry("source, total and sequence go together")
    entry = RecordEntry(
        partition=partition,
        stream_id=stream_id,
        workspace_id=workspace_id,
        seq=int(seq),
        at_ms=int(at),
        event_id=event_id,
        charged_micros=int(charged),
        fingerprint=fingerprint,
        chat_id=chat_id or None,
        reservation_id=reservation_id or None,
        state=STATES[state],
        source=source or None,
        total_micros=int(total) if total else None,
        sequence=int(sequence) if sequence else None,
        priced=priced == "1",
        data=data or None,
    )
    _require_amounts(
        seq=entry.seq,
        at=entry.at_ms,
        charged=entry.charged_micros,
        total=entry.total_micros or 0,
        sequence=entry.sequence or 0,
    )
    return entry


def _hold(
    partition: int,
    stream_id: str,
    workspace_id: str,
    seq: str,
    at: str,
    reservation_id: str,
    micros: str,
    expires_at: str,
    chat_id: str,
    fingerprint: str,
) -> HoldEntry:
    entry = HoldEntry(
        partition=partition,
        stream_id=stream_id,
        workspace_id=workspace_id,
        seq=int(seq),
        at_ms=int(at),
        reservation_id=reservation_id,
        micros=int(micros),
        expires_at_ms=int(expires_at),
        chat_id=chat_id or None,
        fingerprint=fingerprint,
    )
    _require_amounts(
        seq=entry.seq, at=entry.at_ms, micros=entry.micros, expires_at=entry.expires_at_ms
    )
    return entry


def _release(
    partition: int,
    stream_id: str,
    workspace_id: str,
    seq: str,
    at: str,
    reservation_id: str,
    chat_id: str,
) -> ReleaseEntry:
    entry = ReleaseEntry(
        partition=partition,
        stream_id=stream_id,
        workspace_id=workspace_id,
        seq=int(seq),
        at_ms=int(at),
        reservation_id=reservation_id,
        chat_id=chat_id or None,
    )
    _require_amounts(seq=entry.seq, at=entry.at_ms)
    return entry


def _expire(
    partition: int,
    stream_id: str,
    workspace_id: str,
    seq: str,
    at: str,
    reservation_id: str,
    charged: str,
    chat_id: str,
) -> ExpireEntry:
    entry = ExpireEntry(
        partition=partition,
        stream_id=stream_id,
        workspace_id=workspace_id,
        seq=int(seq),
        at_ms=int(at),
        reservation_id=reservation_id,
        charged_micros=int(charged),
        chat_id=chat_id or None,
    )
    _require_amounts(seq=entry.seq, at=entry.at_ms, charged=entry.charged_micros)
    return entry


def _chat(
    partition: int,
    stream_id: str,
    workspace_id: str,
    seq: str,
    at: str,
    chat_id: str,
    parent: str,
    root: str,
    depth_text: str,
    limit: str,
) -> ChatEntry:
    depth = int(depth_text)
    if not 1 <= depth <= DEPTH_MAX:
        raise PoisonedEntry("depth: out of range")
    if (not parent) != (depth == 1) or (not parent) != (root == chat_id):
        raise PoisonedEntry("parent, root and depth contradict each other")
    if parent == chat_id:
        raise PoisonedEntry("parent: the chat itself")
    entry = ChatEntry(
        partition=partition,
        stream_id=stream_id,
        workspace_id=workspace_id,
        seq=int(seq),
        at_ms=int(at),
        chat_id=chat_id,
        parent_chat_id=parent or None,
        root_chat_id=root,
        depth=depth,
        limit_micros=int(limit) if limit else None,
    )
    if entry.limit_micros == 0:
        raise PoisonedEntry("limit: a chat's is above 0")
    _require_amounts(seq=entry.seq, at=entry.at_ms, limit=entry.limit_micros or 0)
    return entry


_SHAPES = {
    b"record": _Shape(
        b"record",
        _record,
        _id("event"),
        _amount("charged"),
        _FINGERPRINT,
        _id("chat", empty=True),
        _id("reservation", empty=True),
        _Field(b"state", f"[{''.join(STATES)}]", "not known"),
        _Field(b"priced", "[01]", "neither 0 nor 1"),
        _DATA,
        last=(
            _id("source", empty=True),
            _amount("total", empty=True),
            _amount("sequence", empty=True),
        ),
    ),
    b"hold": _Shape(
        b"hold",
        _hold,
        _id("reservation"),
        _amount("micros"),
        _amount("expires_at"),
        _id("chat", empty=True),
        _FINGERPRINT,
    ),
    b"release": _Shape(b"release", _release, _id("reservation"), _id("chat", empty=True)),
    b"expire": _Shape(
        b"expire", _expire, _id("reservation"), _amount("charged"), _id("chat", empty=True)
    ),
    b"chat": _Shape(
        b"chat",
        _chat,
        _id("chat"),
        _id("parent", empty=True),
        _id("root"),
        _amount("depth"),
        _amount("limit", empty=True),
    ),
}
