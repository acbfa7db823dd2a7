"""Entries of a partition's stream, as types. The scripts append them; here they are taken apart.

Whatever `parse_entry` lets through can be applied: it is the wall between the stream, to which
anybody with access to Redis can append, and SQL. It must not know what an entry does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import NamedTuple, TypedDict, cast

from msgspec import Struct

from limiter.models import DEPTH_MAX, ID_LENGTH_MAX, ReservationState
from limiter.money import MICROS_MAX

DATA_LENGTH_MAX = 65_536

# The event id of an expired hold's charge. A caller's id cannot hold a colon.
EXPIRY_PREFIX = "expiry:"

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


class _Entry(Struct, frozen=True, kw_only=True):
    """What every entry carries.

    `seq` counts the entries of a workspace without gaps; `at_ms` never goes back within one.
    """

    partition: int
    stream_id: str
    workspace_id: str
    seq: int
    at_ms: int


class RecordEntry(_Entry, frozen=True, kw_only=True):
    """A charge, and the end of its reservation. `state`: what the reservation was in before."""

    event_id: str
    charged_micros: int
    fingerprint: str
    chat_id: str | None
    reservation_id: str | None
    state: ReservationState | None
    source: str | None
    total_micros: int | None
    sequence: int | None
    priced: bool
    data: str | None


class HoldEntry(_Entry, frozen=True, kw_only=True):
    """A reservation was placed."""

    reservation_id: str
    micros: int
    expires_at_ms: int
    chat_id: str | None
    fingerprint: str


class ReleaseEntry(_Entry, frozen=True, kw_only=True):
    """A reservation was given back."""

    reservation_id: str
    chat_id: str | None


class ExpireEntry(_Entry, frozen=True, kw_only=True):
    """A reservation ran out. `charged_micros` > 0: that is a charge, under `event_id`."""

    reservation_id: str
    charged_micros: int
    chat_id: str | None

    @property
    def event_id(self) -> str:
        return EXPIRY_PREFIX + self.reservation_id


class ChatEntry(_Entry, frozen=True, kw_only=True):
    """A chat was created by a check or a record."""

    chat_id: str
    parent_chat_id: str | None
    root_chat_id: str
    depth: int
    limit_micros: int | None


Entry = RecordEntry | HoldEntry | ReleaseEntry | ExpireEntry | ChatEntry


# A batch asks several times for that of each of its entries.
@lru_cache(maxsize=4_096)
def position(stream_id: str) -> tuple[int, int]:
    """A stream id as what it is ordered by: milliseconds and a number within them."""
    at_ms, _, number = stream_id.partition("-")
    return int(at_ms), int(number)


def parse_entry(
    fields: Mapping[bytes, bytes] | Mapping[str, str], *, partition: int, stream_id: str | bytes
) -> Entry:
    """A stream entry as XREADGROUP gives it. Raises PoisonedEntry.

    Fields that are not known are let pass: a newer version of the scripts may add some.
    """
    try:
        if isinstance(stream_id, str):
            stream_id = stream_id.encode()
        raw = _as_bytes(fields)
        shape = _SHAPES.get(raw[b"type"])
        if shape is None:
            raise PoisonedEntry("type: not known")
        id_text, workspace_id, seq, at, *values = shape.values_of(stream_id, raw)
        head: _Head = {
            "partition": partition,
            "stream_id": id_text,
            "workspace_id": workspace_id,
            "seq": _whole(seq, "seq"),
            "at_ms": _whole(at, "at"),
        }
        if head["seq"] == 0 or head["at_ms"] == 0:
            raise PoisonedEntry("seq and at begin at 1")
        return shape.make(head, *values)
    except KeyError as error:
        raise PoisonedEntry(f"{error.args[0].decode()}: missing") from None
    except UnicodeError:
        raise PoisonedEntry("not UTF-8") from None


def _as_bytes(fields: Mapping[bytes, bytes] | Mapping[str, str]) -> Mapping[bytes, bytes]:
    # One of them tells for all.
    if isinstance(next(iter(fields), b""), bytes):
        return cast("Mapping[bytes, bytes]", fields)
    as_text = cast("Mapping[str, str]", fields)
    return {name.encode(): value.encode() for name, value in as_text.items()}


# --------------------------------------------------------------------------- what fields may hold


class _Head(TypedDict):
    partition: int
    stream_id: str
    workspace_id: str
    seq: int
    at_ms: int


class _Field(NamedTuple):
    """`pattern` lets no NUL through. An entry without a `may_lack` field has it empty."""

    name: bytes
    pattern: str
    fault: str
    may_lack: bool = False


def _id(name: str, *, empty: bool = False, may_lack: bool = False) -> _Field:
    pattern = rf"[A-Za-z0-9._@-]{{{0 if empty else 1},{ID_LENGTH_MAX}}}"
    return _Field(name.encode(), pattern, "not an id", may_lack)


def _amount(name: str, *, empty: bool = False, may_lack: bool = False) -> _Field:
    return _Field(name.encode(), rf"[0-9]{{{0 if empty else 1},16}}", _NO_AMOUNT, may_lack)


_NO_AMOUNT = f"not a whole number from 0 to {MICROS_MAX}"
_FINGERPRINT = _Field(b"fingerprint", r"[\x21-\x7e]{0,64}", "too long, or not printable")
# PostgreSQL keeps no NUL in a text.
_DATA = _Field(b"data", rf"[^\x00]{{0,{DATA_LENGTH_MAX}}}", "too long, or not a text")
# It lies beside the fields. Both halves are unsigned 64-bit numbers.
_STREAM_ID = _Field(b"stream id", r"[0-9]{1,20}-[0-9]{1,20}", "not two numbers")
_HEAD = (_id("workspace"), _amount("seq"), _amount("at"))


class _Shape:
    """The fields of one type, and what makes the entry of their values.

    All values are looked at in one go, with a NUL between two: a pass does this for a thousand
    entries while calls wait, and field by field it takes three times as long.
    """

    def __init__(self, make: Callable[..., Entry], *fields: _Field) -> None:
        self.make = make
        self._fields = (_STREAM_ID, *_HEAD, *fields)
        self._of_entry = itemgetter(*(field.name for field in self._fields[1:]))
        self._lacking = {field.name: b"" for field in fields if field.may_lack}
        patterns = (f"({field.pattern})" for field in self._fields)
        self._fits = re.compile("\0".join(patterns)).fullmatch

    def values_of(self, stream_id: bytes, raw: Mapping[bytes, bytes]) -> Sequence[str]:
        """The stream id, then the values in the order of the fields.

        Raises PoisonedEntry, KeyError, UnicodeDecodeError.
        """
        if self._lacking:
            raw = {**self._lacking, **raw}
        values = (stream_id, *self._of_entry(raw))
        match = self._fits(b"\0".join(values).decode())
        if match is None:
            raise PoisonedEntry(self._fault(values))
        return match.groups()

    def _fault(self, values: Sequence[bytes]) -> str:
        return next(
            f"{field.name.decode()}: {field.fault}"
            for field, value in zip(self._fields, values, strict=True)
            if not re.fullmatch(field.pattern, value.decode())
        )


def _whole(digits: str, name: str) -> int:
    amount = int(digits)
    if amount > MICROS_MAX:
        raise PoisonedEntry(f"{name}: {_NO_AMOUNT}")
    return amount


# --------------------------------------------------------------------------- one maker a type


def _record(
    head: _Head,
    event_id: str,
    charged: str,
    fingerprint: str,
    chat_id: str,
    reservation_id: str,
    state: str,
    priced: str,
    data: str,
    source: str,
    total: str,
    sequence: str,
) -> RecordEntry:
    if (state == "-") != (not reservation_id):
        raise PoisonedEntry("state and reservation go together")
    # Only a record of a running total has these three, and a sequence not always.
    if (not source) != (not total) or (sequence and not source):
        raise PoisonedEntry("source, total and sequence go together")
    return RecordEntry(
        **head,
        event_id=event_id,
        charged_micros=_whole(charged, "charged"),
        fingerprint=fingerprint,
        chat_id=chat_id or None,
        reservation_id=reservation_id or None,
        state=STATES[state],
        source=source or None,
        total_micros=_whole(total, "total") if total else None,
        sequence=_whole(sequence, "sequence") if sequence else None,
        priced=priced == "1",
        data=data or None,
    )


def _hold(
    head: _Head,
    reservation_id: str,
    micros: str,
    expires_at: str,
    chat_id: str,
    fingerprint: str,
) -> HoldEntry:
    return HoldEntry(
        **head,
        reservation_id=reservation_id,
        micros=_whole(micros, "micros"),
        expires_at_ms=_whole(expires_at, "expires_at"),
        chat_id=chat_id or None,
        fingerprint=fingerprint,
    )


def _release(head: _Head, reservation_id: str, chat_id: str) -> ReleaseEntry:
    return ReleaseEntry(**head, reservation_id=reservation_id, chat_id=chat_id or None)


def _expire(head: _Head, reservation_id: str, charged: str, chat_id: str) -> ExpireEntry:
    return ExpireEntry(
        **head,
        reservation_id=reservation_id,
        charged_micros=_whole(charged, "charged"),
        chat_id=chat_id or None,
    )


def _chat(
    head: _Head, chat_id: str, parent: str, root: str, depth_text: str, limit: str
) -> ChatEntry:
    depth, limit_micros = _whole(depth_text, "depth"), _whole(limit, "limit") if limit else None
    if not 1 <= depth <= DEPTH_MAX:
        raise PoisonedEntry("depth: out of range")
    if (not parent) != (depth == 1) or (not parent) != (root == chat_id):
        raise PoisonedEntry("parent, root and depth contradict each other")
    if parent == chat_id:
        raise PoisonedEntry("parent: the chat itself")
    if limit_micros == 0:
        raise PoisonedEntry("limit: a chat's is above 0")
    return ChatEntry(
        **head,
        chat_id=chat_id,
        parent_chat_id=parent or None,
        root_chat_id=root,
        depth=depth,
        limit_micros=limit_micros,
    )


_SHAPES = {
    b"record": _Shape(
        _record,
        _id("event"),
        _amount("charged"),
        _FINGERPRINT,
        _id("chat", empty=True),
        _id("reservation", empty=True),
        _Field(b"state", f"[{''.join(STATES)}]", "not known"),
        _Field(b"priced", "[01]", "neither 0 nor 1"),
        _DATA,
        _id("source", empty=True, may_lack=True),
        _amount("total", empty=True, may_lack=True),
        _amount("sequence", empty=True, may_lack=True),
    ),
    b"hold": _Shape(
        _hold,
        _id("reservation"),
        _amount("micros"),
        _amount("expires_at"),
        _id("chat", empty=True),
        _FINGERPRINT,
    ),
    b"release": _Shape(_release, _id("reservation"), _id("chat", empty=True)),
    b"expire": _Shape(_expire, _id("reservation"), _amount("charged"), _id("chat", empty=True)),
    b"chat": _Shape(
        _chat,
        _id("chat"),
        _id("parent", empty=True),
        _id("root"),
        _amount("depth"),
        _amount("limit", empty=True),
    ),
}
