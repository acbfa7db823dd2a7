"""May this call be made? The decision and the time to wait, over the facts.

It must not change anything.
"""

from __future__ import annotations

from limiter.periods import LIFETIME, PERIODS, Period
from tests.property.facts import Chat, Facts
from tests.support.answers import Violation


def violations(facts: Facts, lineage: list[Chat], estimate: int, now: int) -> list[Violation]:
    """Every limit that binds: the chat's and its ancestors' first, then the periods'."""
    found = []
    for chat in lineage:
        spent, held = facts.chat_spent(chat.chat_id), facts.chat_held(chat.chat_id)
        if chat.limit is not None and _denies(chat.limit, spent, held, estimate):
            reason = _reason(chat.limit, estimate)
            # Spend never leaves a chat. Its holds may end, but nobody can say when.
            transient = spent + max(estimate, 1) <= chat.limit
            amounts = (chat.limit, spent, held)
            found.append(
                Violation("chat", chat.chat_id, LIFETIME, reason, *amounts, None, transient)
            )
    for period in PERIODS:
        limit, spent, held = facts.limits[period.name], facts.spent(period, now), facts.held()
        if limit is not None and _denies(limit, spent, held, estimate):
            reason = _reason(limit, estimate)
            at = _fits_at(facts, period, limit, estimate, now)
            wait_ms = None if at is None else at - now
            amounts = (limit, spent, held)
            found.append(
                Violation("workspace", "", period.name, reason, *amounts, wait_ms, at is not None)
            )
    return found


def frees_at(facts: Facts, period: Period, now: int) -> int | None:
    """When a period that admits nothing admits again; for another, when any spend leaves it."""
    limit, spent = facts.limits[period.name], facts.spent(period, now)
    if limit is not None and _denies(limit, spent, facts.held(), 0):
        return _fits_at(facts, period, limit, 0, now)
    return facts.aged_out_at(period, 1, now)


def _denies(limit: int, spent: int, held: int, estimate: int) -> bool:
    return spent + held >= limit or spent + held + estimate > limit


def _reason(limit: int, estimate: int) -> str:
    if limit == 0:
        return "blocked"
    return "estimate_exceeds_limit" if estimate > limit else "limit_exceeded"


def _fits_at(facts: Facts, period: Period, limit: int, estimate: int, now: int) -> int | None:
    """When enough has gone for this estimate; None: it never fits."""
    if limit == 0 or estimate > limit:
        return None
    held, next_expiry = facts.held(), facts.next_expiry() or 0
    # A limit that is just reached denies as well, so at least one micro has to be free.
    excess = facts.spent(period, now) + held + max(estimate, 1) - limit
    if excess <= held:
        return next_expiry
    at = facts.aged_out_at(period, excess, now)
    if at is not None:
        return at
    # All spend together will not do: holds must go, too.
    at = facts.aged_out_at(period, excess - held, now)
    assert at is not None
    return max(at, next_expiry)
