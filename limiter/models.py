"""The bodies of the API: one definition each, for the library, HTTP and OpenAPI alike.

Requests are strict: unknown fields, wrong types and out-of-range values are refused while decoding
(`msgspec.ValidationError` names the field). Results are what the library returns and, unchanged,
what HTTP sends. Amounts are integer micros (millionths of a US dollar).
It must not know how anything is stored or decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from limiter.money import MICROS_MAX
from limiter.periods import LEGACY_PERIOD, PERIOD_NAMES

ID_LENGTH_MAX = 128
DEPTH_MAX = 64
HOLD_MS_MAX = 86_400_000
TOKENS_MAX = 1_000_000_000

# `$` alone would let a trailing newline through; the look-ahead is valid ECMAScript as well.
ID_PATTERN = r"^[A-Za-z0-9._@-]+$(?!\n)"

Id = Annotated[str, Meta(pattern=ID_PATTERN, min_length=1, max_length=ID_LENGTH_MAX)]
Micros = Annotated[int, Meta(ge=0, le=MICROS_MAX)]
Limit = Annotated[int, Meta(ge=0, le=MICROS_MAX)] | None
ChatLimit = Annotated[int, Meta(ge=1, le=MICROS_MAX)]
Tokens = Annotated[int, Meta(ge=0, le=TOKENS_MAX)]
ModelName = Annotated[str, Meta(pattern=r"^[\x21-\x7e]+$(?!\n)", min_length=1, max_length=256)]

HoldExpiry = Literal["refund", "charge"]
OutagePolicy = Literal["allow", "deny"]
ReservationState = Literal["held", "recorded", "released", "expired", "unknown"]
# A record that finds its reservation so comes after its hold has expired.
LATE_STATES: frozenset[ReservationState | None] = frozenset({"expired", "unknown"})

Scope = Literal["account_period", "chat_lifetime"]
Reason = Literal[
    "blocked",  # the limit is 0
    "estimate_exceeds_limit",  # this call never fits, however long one waits
    "limit_exceeded",
]


def iso_ms(at_ms: int) -> str:
    """A moment of the Redis clock as RFC 3339 UTC with milliseconds."""
    seconds, milliseconds = divmod(at_ms, 1_000)
    return f"{_iso_seconds(seconds)}.{milliseconds:03d}Z"


# Calls that come together expire together: making the date takes ten times as long as the rest.
@lru_cache(maxsize=256)
def _iso_seconds(seconds: int) -> str:
    moment = datetime.fromtimestamp(0, UTC) + timedelta(seconds=seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%S")


# --------------------------------------------------------------------------- requests


class _Request(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of all request bodies."""


class EstimateUsage(_Request, frozen=True, kw_only=True):
    """Tokens of a call that is about to be made: an upper bound."""

    model: ModelName
    input_tokens: Tokens
    max_output_tokens: Tokens
    provider: ModelName | None = None


class RecordUsage(_Request, frozen=True, kw_only=True):
    """Tokens of a call that was made. `input_tokens` includes the cache tokens."""

    model: ModelName
    input_tokens: Tokens = 0
    output_tokens: Tokens = 0
    cache_read_tokens: Tokens = 0
    cache_write_tokens: Tokens = 0
    provider: ModelName | None = None

    def __post_init__(self) -> None:
        if self.cache_read_tokens + self.cache_write_tokens > self.input_tokens:
            raise ValueError("input_tokens includes the cache tokens and cannot be fewer")


class CheckRequest(_Request, frozen=True, kw_only=True):
    """May this call be made? Holds its estimate if it may."""

    workspace_id: Id
    chat_id: Id | None = None
    parent_chat_id: Id | None = None
    spend_limit_micros: ChatLimit | None = None
    estimate_micros: Micros | None = None
    usage: EstimateUsage | None = None
    reservation_id: Id | None = None
    hold_ms: Annotated[int, Meta(ge=1, le=HOLD_MS_MAX)] | None = None

    def __post_init__(self) -> None:
        if self.estimate_micros is not None and self.usage is not None:
            raise ValueError("estimate_micros and usage exclude each other")
        if self.chat_id is None:
            _refuse(parent_chat_id=self.parent_chat_id, spend_limit_micros=self.spend_limit_micros)


class RecordRequest(_Request, frozen=True, kw_only=True):
    """What a call cost. Exactly one of `cost_micros`, `usage`, `cumulative_micros`."""

    workspace_id: Id
    chat_id: Id | None = None
    parent_chat_id: Id | None = None
    spend_limit_micros: ChatLimit | None = None
    reservation_id: Id | None = None
    event_id: Id | None = None
    cost_micros: Micros | None = None
    usage: RecordUsage | None = None
    cumulative_micros: Micros | None = None
    source: Id | None = None
    sequence: Annotated[int, Meta(ge=0, le=MICROS_MAX)] | None = None

    def __post_init__(self) -> None:
        costs = (self.cost_micros, self.usage, self.cumulative_micros)
        if sum(cost is not None for cost in costs) != 1:
            raise ValueError("exactly one of cost_micros, usage and cumulative_micros is needed")
        if (self.cumulative_micros is None) != (self.source is None):
            raise ValueError("cumulative_micros and source go together")
        if self.sequence is not None and self.source is None:
            raise ValueError("sequence needs source")
        if self.chat_id is None:
            _refuse(parent_chat_id=self.parent_chat_id, spend_limit_micros=self.spend_limit_micros)


class ReleaseRequest(_Request, frozen=True, kw_only=True):
    """Gives a hold back."""

    workspace_id: Id
    reservation_id: Id


class WorkspacePatch(_Request, frozen=True, kw_only=True):
    """Changes only what it names. `budget_limit` is the legacy monthly limit in whole cents."""

    budget_limits: dict[str, Limit] | UnsetType = UNSET
    budget_limit: Annotated[int, Meta(ge=0, le=MICROS_MAX // 10000)] | UnsetType | None = UNSET
    default_estimate_micros: Micros | UnsetType = UNSET
    on_hold_expiry: HoldExpiry | UnsetType = UNSET
    outage_policy: OutagePolicy | UnsetType | None = UNSET

    def __post_init__(self) -> None:
        if self.budget_limits is not UNSET:
            for name in self.budget_limits:
                if name not in PERIOD_NAMES:
                    raise ValueError(f"budget_limits: no such period: {name[:40]!r}")
            if self.budget_limit is not UNSET and LEGACY_PERIOD in self.budget_limits:
                raise ValueError(f"budget_limit and budget_limits.{LEGACY_PERIOD} are the same")


class ChatPatch(_Request, frozen=True, kw_only=True):
    """A chat's limit (> 0, null removes it) and, when the chat is new, its parent."""

    spend_limit_micros: ChatLimit | UnsetType | None = UNSET
    parent_chat_id: Id | UnsetType | None = UNSET


def _refuse(**fields: object) -> None:
    """What says something about a chat, in a request that names none."""
    for name, value in fields.items():
        if value is not None:
            raise ValueError(f"{name} needs chat_id")


# --------------------------------------------------------------------------- results


class _Result(Struct, frozen=True, kw_only=True):
    """Base of all answers."""


class PeriodUsage(_Result, frozen=True, kw_only=True):
    """One window. `remaining_micros` may be negative; null limits leave it null."""

    limit_micros: int | None
    spent_micros: int
    held_micros: int
    remaining_micros: int | None
    resets_at: str | UnsetType | None = UNSET


class ChatUsage(_Result, frozen=True, kw_only=True):
    """A chat's subtree against its own limit, and what the chat spent itself."""

    chat_id: str
    parent_chat_id: str | None
    root_chat_id: str
    limit_micros: int | None
    spent_micros: int
    own_spent_micros: int
    held_micros: int
    remaining_micros: int | None


class Reservation(_Result, frozen=True, kw_only=True):
    """One hold."""

    id: str
    held_micros: int
    expires_at: str


class Admitted(_Result, frozen=True, kw_only=True):
    """The call may be made. `degraded`: Redis was away and policy let it pass, uncounted."""

    allowed: Literal[True] = True
    degraded: bool = False
    duplicate: bool = False
    reservation: Reservation | None
    periods: Mapping[str, PeriodUsage]
    chat: ChatUsage | None


class Violation(_Result, frozen=True, kw_only=True):
    """One limit that binds. `transient`: waiting can help; `retry_after_ms` says how long."""

    scope: Scope
    chat_id: str | None
    period: str
    reason: Reason
    limit_micros: int
    spent_micros: int
    held_micros: int
    remaining_micros: int
    retry_after_ms: int | None
    transient: bool


class Denied(_Result, frozen=True, kw_only=True):
    """The call may not be made. The first violation gives scope and amounts.

    `retry_after_ms` and `resets_at` say when every binding limit lets this very call through;
    null when waiting alone never helps.
    """

    allowed: Literal[False] = False
    degraded: bool = False
    reason: Reason
    scope: Scope
    exceeded_periods: list[str]
    estimate_micros: int
    limit_micros: int
    spent_micros: int
    held_micros: int
    retry_after_ms: int | None
    resets_at: str | None
    violations: list[Violation]


class Refused(_Result, frozen=True, kw_only=True):
    """Redis is away and the outage policy is `deny`: no limit was looked at."""

    allowed: Literal[False] = False
    degraded: Literal[True] = True


class Recorded(_Result, frozen=True, kw_only=True):
    """A charge. `reservation_state` is the state the record found its reservation in."""

    recorded: Literal[True] = True
    duplicate: bool = False
    late: bool = False
    queued: bool = False
    priced: bool = True
    event_id: str
    charged_micros: int
    reservation_state: ReservationState | None
    periods: Mapping[str, PeriodUsage]
    chat: ChatUsage | None


class Released(_Result, frozen=True, kw_only=True):
    """`state` is what the reservation is now; `duplicate`: it was so before."""

    released: bool
    duplicate: bool
    reservation_id: str
    state: ReservationState
    released_micros: int


class WorkspaceConfig(_Result, frozen=True, kw_only=True):
    """A workspace's configuration. `outage_policy` null: the service's default.

    `budget_limit` is the legacy view of the monthly limit, in whole US cents, rounded down.
    """

    workspace_id: str
    budget_limits: Mapping[str, int | None]
    budget_limit: int | None
    default_estimate_micros: int
    on_hold_expiry: HoldExpiry
    outage_policy: OutagePolicy | None


class ChatConfig(_Result, frozen=True, kw_only=True):
    chat_id: str
    parent_chat_id: str | None
    root_chat_id: str
    depth: int
    spend_limit_micros: int | None


class WorkspaceUsage(_Result, frozen=True, kw_only=True):
    """Every window now, and what is held. `resets_at`: when the oldest spend leaves it."""

    workspace_id: str
    at: str
    periods: Mapping[str, PeriodUsage]
    held_micros: int
    live_holds: int
    unpriced_records: int


class ChatTreeUsage(ChatUsage, frozen=True, kw_only=True):
    """A chat with its ancestors, root first, and its direct children."""

    ancestors: list[str]
    children: list[str]


class Readiness(_Result, frozen=True, kw_only=True):
    """Whether the service can do its work now. Ages in milliseconds; null: not known."""

    ready: bool
    redis: bool
    store: bool
    snapshot_age_ms: int | None
