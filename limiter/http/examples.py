"""Examples of every body: the structs themselves, so that none can be out of date.

They tell one story: workspace acme, its chat c1, and c2, a sub-agent of c1.
"""

from __future__ import annotations

from typing import Final

from limiter.http.problems import denial_problem
from limiter.models import (
    Admitted,
    ChatConfig,
    ChatPatch,
    ChatTreeUsage,
    ChatUsage,
    CheckRequest,
    Denied,
    EstimateUsage,
    PeriodUsage,
    Readiness,
    Recorded,
    RecordRequest,
    RecordUsage,
    Refused,
    Released,
    ReleaseRequest,
    Reservation,
    Violation,
    WorkspaceConfig,
    WorkspacePatch,
    WorkspaceUsage,
)
from limiter.periods import PERIODS

_MODEL: Final = "claude-sonnet-4-5"
_RESERVATION: Final = "019c3a5d2f7b4e0d1c2b3a495867"
_HOURLY_MICROS: Final = 2_000_000
_DAILY_MICROS: Final = 10_000_000
_CHAT_MICROS: Final = 5_000_000

# --------------------------------------------------------------------------- requests

CHECKS: Final = {
    "an estimate in micros": CheckRequest(
        workspace_id="acme", chat_id="c2", parent_chat_id="c1", estimate_micros=12_000
    ),
    "an estimate in tokens": CheckRequest(
        workspace_id="acme",
        usage=EstimateUsage(model=_MODEL, input_tokens=1_500, max_output_tokens=500),
        reservation_id="call-8f14e45f",
        hold_ms=600_000,
    ),
    "the first call of a chat with a limit": CheckRequest(
        workspace_id="acme", chat_id="c1", spend_limit_micros=_CHAT_MICROS, estimate_micros=12_000
    ),
    "no estimate: is anything left?": CheckRequest(workspace_id="acme"),
}

RECORDS: Final = {
    "what a held call cost": RecordRequest(
        workspace_id="acme", chat_id="c2", reservation_id=_RESERVATION, cost_micros=9_000
    ),
    "tokens, priced by the service": RecordRequest(
        workspace_id="acme",
        chat_id="c2",
        event_id="call-8f14e45f",
        usage=RecordUsage(
            model=_MODEL, input_tokens=1_500, output_tokens=300, cache_read_tokens=1_000
        ),
    ),
    "a running total": RecordRequest(
        workspace_id="acme", cumulative_micros=450_000, source="gateway-1", sequence=17
    ),
}

RELEASES: Final = {
    "a call that was not made": ReleaseRequest(workspace_id="acme", reservation_id=_RESERVATION)
}

WORKSPACE_PATCHES: Final = {
    "one limit set, one removed": WorkspacePatch(
        budget_limits={"hourly": _HOURLY_MICROS, "monthly": None}
    ),
    "everything blocked": WorkspacePatch(budget_limits={"hourly": 0}),
    "the monthly limit, in whole cents": WorkspacePatch(budget_limit=25_000),
}

CHAT_PATCHES: Final = {
    "a limit": ChatPatch(spend_limit_micros=_CHAT_MICROS),
    "a new chat below c1": ChatPatch(parent_chat_id="c1", spend_limit_micros=1_000_000),
    "no limit": ChatPatch(spend_limit_micros=None),
}

# --------------------------------------------------------------------------- answers

_LIMITS: Final = {"hourly": _HOURLY_MICROS, "daily": _DAILY_MICROS}


def _periods(spent_micros: int, held_micros: int) -> dict[str, PeriodUsage]:
    """Every period with the same spend, as on a workspace's first day."""
    return {
        period.name: PeriodUsage(
            limit_micros=(limit := _LIMITS.get(period.name)),
            spent_micros=spent_micros,
            held_micros=held_micros,
            remaining_micros=None if limit is None else limit - spent_micros - held_micros,
        )
        for period in PERIODS
    }


def _chat(spent_micros: int, held_micros: int) -> ChatUsage:
    return ChatUsage(
        chat_id="c2",
        parent_chat_id="c1",
        root_chat_id="c1",
        limit_micros=None,
        spent_micros=spent_micros,
        own_spent_micros=spent_micros,
        held_micros=held_micros,
        remaining_micros=None,
    )


ADMITTED: Final = {
    "held": Admitted(
        reservation=Reservation(
            id=_RESERVATION, held_micros=12_000, expires_at="2026-02-07T10:10:00.000Z"
        ),
        periods=_periods(450_000, 12_000),
        chat=_chat(30_000, 12_000),
    ),
    "nothing to hold": Admitted(reservation=None, periods=_periods(450_000, 0), chat=None),
    "Redis is away, and policy is to allow": Admitted(
        degraded=True, reservation=None, periods={}, chat=None
    ),
}

RECORDED: Final = {
    "charged": Recorded(
        event_id=_RESERVATION,
        charged_micros=9_000,
        reservation_state="held",
        periods=_periods(459_000, 0),
        chat=_chat(39_000, 0),
    ),
    "again: charged before": Recorded(
        duplicate=True,
        event_id=_RESERVATION,
        charged_micros=9_000,
        reservation_state="recorded",
        periods=_periods(459_000, 0),
        chat=_chat(39_000, 0),
    ),
    "after the hold expired": Recorded(
        late=True,
        event_id=_RESERVATION,
        charged_micros=9_000,
        reservation_state="expired",
        periods=_periods(459_000, 0),
        chat=_chat(39_000, 0),
    ),
}

QUEUED: Final = {
    "in the ledger, until Redis is back": Recorded(
        queued=True,
        event_id="call-8f14e45f",
        charged_micros=9_000,
        reservation_state=None,
        periods={},
        chat=None,
    )
}

RELEASED: Final = {
    "given back": Released(
        released=True,
        duplicate=False,
        reservation_id=_RESERVATION,
        state="released",
        released_micros=12_000,
    ),
    "recorded before, so nothing to give back": Released(
        released=False,
        duplicate=True,
        reservation_id=_RESERVATION,
        state="recorded",
        released_micros=0,
    ),
}

WORKSPACE_CONFIGS: Final = {
    "limits by the hour and the day": WorkspaceConfig(
        workspace_id="acme",
        budget_limits={period.name: _LIMITS.get(period.name) for period in PERIODS},
        budget_limit=None,
        default_estimate_micros=0,
        on_hold_expiry="refund",
        outage_policy=None,
    )
}

CHAT_CONFIGS: Final = {
    "a root": ChatConfig(
        chat_id="c1",
        parent_chat_id=None,
        root_chat_id="c1",
        depth=1,
        spend_limit_micros=_CHAT_MICROS,
    )
}

WORKSPACE_USAGES: Final = {
    "one call under way": WorkspaceUsage(
        workspace_id="acme",
        at="2026-02-07T10:00:00.000Z",
        periods={
            name: PeriodUsage(
                limit_micros=usage.limit_micros,
                spent_micros=usage.spent_micros,
                held_micros=usage.held_micros,
                remaining_micros=usage.remaining_micros,
                resets_at="2026-02-07T10:41:30.000Z",
            )
            for name, usage in _periods(450_000, 12_000).items()
        },
        held_micros=12_000,
        live_holds=1,
        unpriced_records=0,
    )
}

CHAT_USAGES: Final = {
    "a sub-agent": ChatTreeUsage(
        chat_id="c2",
        parent_chat_id="c1",
        root_chat_id="c1",
        limit_micros=1_000_000,
        spent_micros=39_000,
        own_spent_micros=30_000,
        held_micros=12_000,
        remaining_micros=949_000,
        ancestors=["c1"],
        children=["c3"],
    )
}

READY: Final = {
    "ready": Readiness(ready=True, redis=True, store=True, snapshot_age_ms=420),
}
NOT_READY: Final = {
    "Redis is away": Readiness(ready=False, redis=False, store=True, snapshot_age_ms=8_130),
}

# --------------------------------------------------------------------------- denials

_RETRY_AFTER_MS: Final = 725_400
_RESETS_AT: Final = "2026-02-07T10:12:05.400Z"


def _violation(period: str, limit_micros: int, spent_micros: int, held_micros: int) -> Violation:
    return Violation(
        scope="account_period",
        chat_id=None,
        period=period,
        reason="limit_exceeded",
        limit_micros=limit_micros,
        spent_micros=spent_micros,
        held_micros=held_micros,
        remaining_micros=limit_micros - spent_micros - held_micros,
        retry_after_ms=_RETRY_AFTER_MS,
        transient=True,
    )


def _denied(first: Violation, *others: Violation, estimate_micros: int) -> Denied:
    violations = [first, *others]
    return Denied(
        reason=first.reason,
        scope=first.scope,
        exceeded_periods=[v.period for v in violations if v.scope == "account_period"],
        estimate_micros=estimate_micros,
        limit_micros=first.limit_micros,
        spent_micros=first.spent_micros,
        held_micros=first.held_micros,
        retry_after_ms=first.retry_after_ms,
        resets_at=None if first.retry_after_ms is None else _RESETS_AT,
        violations=violations,
    )


_BLOCKED: Final = Violation(
    scope="account_period",
    chat_id=None,
    period="hourly",
    reason="blocked",
    limit_micros=0,
    spent_micros=0,
    held_micros=0,
    remaining_micros=0,
    retry_after_ms=None,
    transient=False,
)
_NEVER_FITS: Final = Violation(
    scope="account_period",
    chat_id=None,
    period="hourly",
    reason="estimate_exceeds_limit",
    limit_micros=_HOURLY_MICROS,
    spent_micros=450_000,
    held_micros=0,
    remaining_micros=1_550_000,
    retry_after_ms=None,
    transient=False,
)
_CHAT_SPENT: Final = Violation(
    scope="chat_lifetime",
    chat_id="c1",
    period="lifetime",
    reason="limit_exceeded",
    limit_micros=_CHAT_MICROS,
    spent_micros=4_996_000,
    held_micros=0,
    remaining_micros=4_000,
    retry_after_ms=None,
    transient=False,
)

DENIED_BY_PERIOD: Final = {
    "two periods are exceeded": denial_problem(
        _denied(
            _violation("hourly", _HOURLY_MICROS, 1_990_000, 4_000),
            _violation("daily", _DAILY_MICROS, 9_994_000, 4_000),
            estimate_micros=12_000,
        )
    ),
    "the limit is 0": denial_problem(_denied(_BLOCKED, estimate_micros=12_000)),
    "the estimate is above the whole limit": denial_problem(
        _denied(_NEVER_FITS, estimate_micros=3_000_000)
    ),
}

DENIED_BY_CHAT: Final = {
    "the tree of c1 has spent its limit": denial_problem(
        _denied(_CHAT_SPENT, estimate_micros=12_000)
    )
}

METRICS: Final = """\
# HELP limiter_breaker_openings_total Times that a circuit breaker opened.
# TYPE limiter_breaker_openings_total counter
limiter_breaker_openings_total 0.0
"""

REFUSED: Final = {"Redis is away, and policy is to deny": denial_problem(Refused())}

DECISIONS: Final = {
    f"with decision=true: {name}": problem
    for name, problem in {**DENIED_BY_PERIOD, **DENIED_BY_CHAT, **REFUSED}.items()
}
