"""Entries of a partition's stream, as types. The scripts append them; here they are taken apart.

Whatever `parse_entry` lets through can be applied: it is the wall between the stream, to which
anybody with access to Redis can append, and SQL. It must not know what an entry does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypedDict, cast

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

_ID = re.compile(rf"[A-Za-z0-9._@-]{{1,{ID_LENGTH_MAX}}}")
_AMOUNT = re.compile(r"[0-9]{1,16}")
_FINGERPRINT = re.compile(r"[\x21-\x7e]{0,64}")
# Both halves of a stream id are unsigned 64-bit numbers.
_STREAM_ID = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")
# PostgreSQL keeps neither of these in a text.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


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


class _Head(TypedDict):
    partition: int
    stream_id: str
    workspace_id: str
    seq: int
    at_ms: int


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
        text = _as_text(fields)
        if isinstance(stream_id, bytes):
            stream_id = stream_id.decode()
        if not _STREAM_ID.fullmatch(stream_id):
            raise PoisonedEntry("stream id: not two numbers")
        kind = text["type"]
        parse = _PARSERS.get(kind)
        if parse is None:
            raise PoisonedEntry("type: not known")
        seq, at_ms = _amount(text, "seq"), _amount(text, "at")
        if seq == 0 or at_ms == 0:
            raise PoisonedEntry("seq and at begin at 1")
        return parse(
            text,
            {
                "partition": partition,
                "stream_id": stream_id,
                "workspace_id": _id(text, "workspace"),
                "seq": seq,
                "at_ms": at_ms,
            },
        )
    except KeyError as error:
        raise PoisonedEntry(f"{error.args[0]}: missing") from None
    except UnicodeDecodeError:
        raise PoisonedEntry("not UTF-8") from None


# --------------------------------------------------------------------------- one parser a type


def _parse_record(text: dict[str, str], head: _Head) -> RecordEntry:
    state = text["state"]
    reservation_id = _id_or_none(text, "reservation")
    # Only a record of a running total has these three.
    source = _id(text, "source") if text.get("source") else None
    total_micros = _amount(text, "total") if text.get("total") else None
    sequence = _amount(text, "sequence") if text.get("sequence") else None
    data = text["data"]
    if state not in STATES:
        raise PoisonedEntry("state: not known")
    if (state == "-") != (reservation_id is None):
        raise PoisonedEntry("state and reservation go together")
    if (source is None) != (total_micros is None) or (source is None and sequence is not None):
        raise PoisonedEntry("source, total and sequence go together")
    if text["priced"] not in ("0", "1"):
        raise PoisonedEntry("priced: neither 0 nor 1")
    if len(data) > DATA_LENGTH_MAX or _UNSTORABLE.search(data):
        raise PoisonedEntry("data: too long, or not a text")
    return RecordEntry(
        **head,
        event_id=_id(text, "event"),
        charged_micros=_amount(text, "charged"),
        fingerprint=_fingerprint(text),
        chat_id=_id_or_none(text, "chat"),
        reservation_id=reservation_id,
        state=STATES[state],
        source=source,
        total_micros=total_micros,
        sequence=sequence,
        priced=text["priced"] == "1",
        data=data or None,
    )


def _parse_hold(text: dict[str, str], head: _Head) -> HoldEntry:
    return HoldEntry(
        **head,
        reservation_id=_id(text, "reservation"),
        micros=_amount(text, "micros"),
        expires_at_ms=_amount(text, "expires_at"),
        chat_id=_id_or_none(text, "chat"),
        fingerprint=_fingerprint(text),
    )


def _parse_release(text: dict[str, str], head: _Head) -> ReleaseEntry:
    return ReleaseEntry(
        **head,
        reservation_id=_id(text, "reservation"),
        chat_id=_id_or_none(text, "chat"),
    )


def _parse_expire(text: dict[str, str], head: _Head) -> ExpireEntry:
    return ExpireEntry(
        **head,
        reservation_id=_id(text, "reservation"),
        charged_micros=_amount(text, "charged"),
        chat_id=_id_or_none(text, "chat"),
    )


def _parse_chat(text: dict[str, str], head: _Head) -> ChatEntry:
    chat_id, parent = _id(text, "chat"), _id_or_none(text, "parent")
    root, depth, limit = _id(text, "root"), _amount(text, "depth"), _amount_or_none(text, "limit")
    if not 1 <= depth <= DEPTH_MAX:
        raise PoisonedEntry("depth: out of range")
    if (parent is None) != (depth == 1) or (parent is None) != (root == chat_id):
        raise PoisonedEntry("parent, root and depth contradict each other")
    if parent == chat_id:
        raise PoisonedEntry("parent: the chat itself")
    if limit == 0:
        raise PoisonedEntry("limit: a chat's is above 0")
    return ChatEntry(
        **head,
        chat_id=chat_id,
        parent_chat_id=parent,
        root_chat_id=root,
        depth=depth,
        limit_micros=limit,
    )


_PARSERS: dict[str, Callable[[dict[str, str], _Head], Entry]] = {
    "record": _parse_record,
    "hold": _parse_hold,
    "release": _parse_release,
    "expire": _parse_expire,
    "chat": _parse_chat,
}


# --------------------------------------------------------------------------- fields


def _as_text(fields: Mapping[bytes, bytes] | Mapping[str, str]) -> dict[str, str]:
    # One of them tells for all: a pass parses a thousand entries while calls wait.
    if isinstance(next(iter(fields), ""), str):
        return dict(cast("Mapping[str, str]", fields))
    as_bytes = cast("Mapping[bytes, bytes]", fields)
    return {name.decode(): value.decode() for name, value in as_bytes.items()}


def _id(text: dict[str, str], name: str) -> str:
    value = text[name]
    if not _ID.fullmatch(value):
        raise PoisonedEntry(f"{name}: not an id")
    return value


def _id_or_none(text: dict[str, str], name: str) -> str | None:
    return _id(text, name) if text[name] else None


def _amount(text: dict[str, str], name: str) -> int:
    value = text[name]
    if not _AMOUNT.fullmatch(value) or (amount := int(value)) > MICROS_MAX:
        raise PoisonedEntry(f"{name}: not a whole number from 0 to {MICROS_MAX}")
    return amount


def _amount_or_none(text: dict[str, str], name: str) -> int | None:
    return _amount(text, name) if text[name] else None


def _fingerprint(text: dict[str, str]) -> str:
    value = text["fingerprint"]
    if not _FINGERPRINT.fullmatch(value):
        raise PoisonedEntry("fingerprint: too long, or not printable")
    return value
