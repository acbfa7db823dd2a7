"""What durable storage knows: plain values that pass between the store and the scripts.

Pure data, so that neither `redis/` nor `durable/` has to import the other.
Amounts are micros, moments are milliseconds of the Redis clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from limiter.models import HoldExpiry, OutagePolicy


@dataclass(frozen=True, slots=True)
class WorkspaceSettings:
    """A workspace's configuration. `limits` names every period; None is unlimited."""

    limits: Mapping[str, int | None]
    default_estimate_micros: int = 0
    on_hold_expiry: HoldExpiry = "refund"
    outage_policy: OutagePolicy | None = None  # None: the service's default


@dataclass(frozen=True, slots=True)
class StoredHold:
    reservation_id: str
    micros: int
    expires_at_ms: int
    chat_id: str | None
    fingerprint: str


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A record in the ledger that Redis has not been told of yet."""

    event_id: str
    fingerprint: str
    charged_micros: int


@dataclass(frozen=True, slots=True)
class StoredWorkspace:
    """All that a cold workspace is loaded from.

    `windows`: per period, (start_ms, micros) of the buckets that may still count, oldest first.
    `events`: what waits in the queue. Of what is loaded it is in the sums, and remembered.
    """

    settings: WorkspaceSettings
    revision: int
    seq: int = 0
    spent_at_ms: int = 0
    clock_ms: int = 0
    unpriced_records: int = 0
    windows: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)
    holds: Sequence[StoredHold] = ()
    events: Sequence[StoredEvent] = ()


@dataclass(frozen=True, slots=True)
class StoredChat:
    """A chat's place in its tree and its sums. Depth 1 is a root. Revision 0: never configured."""

    chat_id: str
    parent_chat_id: str | None
    root_chat_id: str
    depth: int
    limit_micros: int | None
    spent_micros: int = 0
    own_spent_micros: int = 0
    held_micros: int = 0
    revision: int = 0


@dataclass(frozen=True, slots=True)
class StoredSource:
    """The last running total of a cumulative reporter."""

    total_micros: int
    sequence: int | None


@dataclass(frozen=True, slots=True)
class ChatCounters:
    """`spent_micros` and `held_micros` include all below the chat."""

    spent_micros: int
    own_spent_micros: int
    held_micros: int


@dataclass(frozen=True, slots=True)
class WindowCounters:
    """One window as Redis has it. `buckets`: start_ms to micros, the open one included."""

    spent_micros: int
    buckets: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class WorkspaceCounters:
    """What Redis has of a workspace since `clock_ms`, and of its chats that are not cold.

    `now_ms`: when it was looked at. What is due since `clock_ms` has not left and not expired.
    """

    epoch: int
    seq: int
    clock_ms: int
    held_micros: int
    live_holds: int
    unpriced_records: int
    windows: Mapping[str, WindowCounters]
    chats: Mapping[str, ChatCounters]
    now_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedRecord:
    """A record with everything worked out that needs no counter: what Redis or the ledger charges.

    `cost_micros` is a running total where there is a `source`. `data` is JSON for the ledger.
    """

    workspace_id: str
    event_id: str
    fingerprint: str
    cost_micros: int
    chat_id: str | None = None
    parent_chat_id: str | None = None
    spend_limit_micros: int | None = None
    reservation_id: str | None = None
    source: str | None = None
    sequence: int | None = None
    priced: bool = True
    data: str | None = None
