"""What pages and commands look at: one definition each. Amounts are integer micros.

Moments are RFC 3339 texts as in `limiter.models`, or `_ms` integers of the Redis clock where
somebody computes with them. `live`: from Redis, at this moment; otherwise from durable storage,
which is an interval behind. It must not know how anything is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from limiter.models import ChatUsage, PeriodUsage, Violation

WorkspaceSort = Literal["closeness", "name"]


class _View(Struct, frozen=True, kw_only=True):
    """Base of all views."""


class WorkspaceRow(_View, frozen=True, kw_only=True):
    """A workspace by the period that is closest to its limit, or over it.

    `share_percent` is spent and held of the limit, rounded down; it may be above 100. Null: nothing
    is limited, and the longest period is shown. `blocked`: the limit is 0, which counts as 100 %.
    """

    workspace_id: str
    period: str
    limit_micros: int | None
    spent_micros: int
    held_micros: int
    share_percent: int | None
    blocked: bool
    live: bool


class WorkspacePage(_View, frozen=True, kw_only=True):
    """`next`: what to pass as `after` for the rows behind these; null at the end.

    `complete`: every workspace was considered for this order.
    """

    rows: list[WorkspaceRow]
    next: str | None
    complete: bool


class HoldView(_View, frozen=True, kw_only=True):
    """A live reservation. `placed_at`, `age_ms` null: placed within about a snapshot interval."""

    reservation_id: str
    held_micros: int
    chat_id: str | None
    placed_at: str | None
    age_ms: int | None
    expires_at: str


class ChatView(ChatUsage, frozen=True, kw_only=True):
    """A node of a chat tree."""

    has_children: bool
    live: bool


class ChatPage(_View, frozen=True, kw_only=True):
    """Chats of one parent in the order of their ids; `next` as in `WorkspacePage`."""

    rows: list[ChatView]
    next: str | None


class RecordView(_View, frozen=True, kw_only=True):
    """A charge in the ledger. `expiry`: of a hold that expired, and of no record.

    `applied` false: written while Redis was away, and not brought there yet.
    """

    at: str
    event_id: str
    charged_micros: int
    chat_id: str | None
    reservation_id: str | None
    late: bool
    expiry: bool
    source: str | None
    priced: bool
    applied: bool


class AuditView(_View, frozen=True, kw_only=True):
    """A change of configuration, of the workspace or of a chat. `before` null: there was none."""

    at: str
    actor: str
    chat_id: str | None
    before: Mapping[str, object] | None
    after: Mapping[str, object]


class Explanation(_View, frozen=True, kw_only=True):
    """What a check of this estimate would say now, and the counters it would be said of.

    `retry_after_ms`: until the call fits; 0 if it does, null if waiting alone never helps. `chats`:
    from the chat up to its root.
    """

    workspace_id: str
    chat_id: str | None
    at: str
    estimate_micros: int
    allowed: bool
    retry_after_ms: int | None
    fits_at: str | None
    violations: list[Violation]
    periods: Mapping[str, PeriodUsage]
    chats: list[ChatUsage]


class Spender(_View, frozen=True, kw_only=True):
    """What a chat was charged itself. `chat_id` null: calls without a chat."""

    chat_id: str | None
    spent_micros: int


class Spenders(_View, frozen=True, kw_only=True):
    """The chats that spent most in a window. `complete`: all of its records were added up."""

    rows: list[Spender]
    complete: bool


class Bucket(_View, frozen=True, kw_only=True):
    """What was charged in one bucket of a rolling window. Its width is in `limiter.periods`."""

    start_ms: int
    micros: int
