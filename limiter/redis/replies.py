"""Takes script replies apart into results. Shapes are documented in the scripts' headers.

It must not call anything: bytes and integers in, models out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from limiter.errors import ScriptError
from limiter.models import (
    ChatUsage,
    Denied,
    PeriodUsage,
    Reason,
    ReservationState,
    Violation,
    iso_ms,
)
from limiter.periods import PERIOD_NAMES
from limiter.stored import ChatCounters, WindowCounters, WorkspaceCounters
from limiter.views import Explanation

STATES: dict[bytes, ReservationState] = {
    b"h": "held",
    b"r": "recorded",
    b"l": "released",
    b"e": "expired",
    b"u": "unknown",
}

_REASONS: dict[bytes, Reason] = {reason.encode(): reason for reason in get_args(Reason)}
_BLOCK_LENGTH = 1 + 2 * len(PERIOD_NAMES)

# Where the blocks begin in the flat reply of a call that took effect.
_OUTCOME_AT = 5
_CHAT_AT = _OUTCOME_AT + _BLOCK_LENGTH


def number_or_none(value: Any) -> int | None:
    """A number, sent as an integer or as digits; '' is null."""
    return None if value == b"" else int(value)


def text_or_none(value: bytes) -> str | None:
    return value.decode() or None


def periods(block: Sequence[Any]) -> dict[str, PeriodUsage]:
    """A workspace block: {held, limit 1, spent 1, …}."""
    if len(block) != _BLOCK_LENGTH:
        raise ScriptError(f"workspace block of {len(block)} items, not {_BLOCK_LENGTH}")
    held = block[0]
    result = {}
    place = 1
    for name in PERIOD_NAMES:
        limit, spent = block[place], block[place + 1]
        place += 2
        if limit == b"":
            limit = remaining = None
        else:
            remaining = limit - spent - held
        result[name] = PeriodUsage(
            limit_micros=limit, spent_micros=spent, held_micros=held, remaining_micros=remaining
        )
    return result


def chat(block: Sequence[Any]) -> ChatUsage | None:
    """A chat block, {id, parent, root, held, limit, spent, own}, or none."""
    if not block:
        return None
    chat_id, parent, root, held, limit, spent, own = block
    limit = number_or_none(limit)
    return ChatUsage(
        chat_id=chat_id.decode(),
        parent_chat_id=text_or_none(parent),
        root_chat_id=root.decode(),
        limit_micros=limit,
        spent_micros=spent,
        own_spent_micros=own,
        held_micros=held,
        remaining_micros=None if limit is None else limit - spent - held,
    )


def outcome(
    reply: Sequence[Any],
) -> tuple[Sequence[Any], dict[str, PeriodUsage], ChatUsage | None]:
    """What a call that took effect says: its first five, the workspace's periods, its chat."""
    return reply[:_OUTCOME_AT], periods(reply[_OUTCOME_AT:_CHAT_AT]), chat(reply[_CHAT_AT:])


def violation(item: Sequence[Any]) -> Violation:
    kind, scope_id, period, reason, limit, spent, held, retry_after, transient = item
    is_chat = kind == b"chat"
    return Violation(
        scope="chat_lifetime" if is_chat else "account_period",
        chat_id=scope_id.decode() if is_chat else None,
        period=period.decode(),
        reason=_REASONS[reason],
        limit_micros=limit,
        spent_micros=spent,
        held_micros=held,
        remaining_micros=limit - spent - held,
        retry_after_ms=number_or_none(retry_after),
        transient=transient == 1,
    )


def longest_wait_ms(violations: Sequence[Violation]) -> int | None:
    """Until every one of them lets the call through; None if one never does by itself."""
    waits = [violation.retry_after_ms for violation in violations]
    return None if None in waits else max(wait for wait in waits if wait is not None)


def denied(reply: Sequence[Any]) -> Denied:
    """'denied', now, estimate, violations. The call fits when the last of its limits lets it."""
    _, now_ms, estimate, items = reply
    violations = [violation(item) for item in items]
    first = violations[0]
    retry_after_ms = longest_wait_ms(violations)
    return Denied(
        reason=first.reason,
        scope=first.scope,
        exceeded_periods=[v.period for v in violations if v.scope == "account_period"],
        estimate_micros=estimate,
        limit_micros=first.limit_micros,
        spent_micros=first.spent_micros,
        held_micros=first.held_micros,
        retry_after_ms=retry_after_ms,
        resets_at=None if retry_after_ms is None else iso_ms(now_ms + retry_after_ms),
        violations=violations,
    )


def explanation(workspace_id: str, chat_id: str | None, reply: Sequence[Any]) -> Explanation:
    """'explained', now, estimate, violations, workspace block, chat blocks."""
    _, now_ms, estimate, items, workspace, chats = reply
    violations = [violation(item) for item in items]
    retry_after_ms = longest_wait_ms(violations) if violations else 0
    return Explanation(
        workspace_id=workspace_id,
        chat_id=chat_id,
        at=iso_ms(now_ms),
        estimate_micros=estimate,
        allowed=not violations,
        retry_after_ms=retry_after_ms,
        fits_at=None if retry_after_ms is None else iso_ms(now_ms + retry_after_ms),
        violations=violations,
        periods=periods(workspace),
        chats=[found for found in map(chat, chats) if found],
    )


def counters(reply: Sequence[Any], chat_ids: Sequence[str]) -> WorkspaceCounters:
    """'inspected', epoch, seq, clock, held, live holds, unpriced, windows, chats asked for, now."""
    if len(reply) != 10 or len(reply[7]) != len(PERIOD_NAMES) or len(reply[8]) != len(chat_ids):
        raise ScriptError(f"inspect: reply of an unexpected shape: {reply!r:.200}")
    epoch, seq, clock_ms, held, live_holds, unpriced = map(int, reply[1:7])
    return WorkspaceCounters(
        epoch=epoch,
        seq=seq,
        clock_ms=clock_ms,
        held_micros=held,
        live_holds=live_holds,
        unpriced_records=unpriced,
        windows=dict(zip(PERIOD_NAMES, map(_window, reply[7]), strict=True)),
        chats={
            chat_id: ChatCounters(*map(int, block))
            for chat_id, block in zip(chat_ids, reply[8], strict=True)
            if block
        },
        now_ms=int(reply[9]),
    )


def _window(block: Sequence[bytes]) -> WindowCounters:
    """{spent, start of the open bucket, its micros, "<start>:<micros>" …}."""
    spent, open_start, open_micros, *closed = block
    buckets = {}
    for member in closed:
        start, _, micros = member.partition(b":")
        buckets[int(start)] = int(micros)
    if int(open_micros):
        buckets[int(open_start)] = int(open_micros)
    return WindowCounters(spent_micros=int(spent), buckets=buckets)
