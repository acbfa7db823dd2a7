"""Entries of a partition's stream, as types: what the scripts append, and durable storage applies.

It must not know what an entry does.
"""

from __future__ import annotations

from functools import lru_cache

from msgspec import Struct

from limiter.models import ReservationState

# The event id of an expired hold's charge. A caller's id cannot hold a colon.
EXPIRY_PREFIX = "expiry:"


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
