"""An explanation as text: the verdict, then limit by limit what fills it."""

from __future__ import annotations

from collections.abc import Iterator

from limiter.commands.explain import Explained, Filled
from limiter.commands.output import dollars, duration, percent_of, until
from limiter.models import Violation


def explained_text(found: Explained) -> str:
    return "\n".join(_lines(found))


def _lines(found: Explained) -> Iterator[str]:
    who = found.workspace_id if found.chat_id is None else f"{found.workspace_id} {found.chat_id}"
    call = f"A call of {dollars(found.estimate_micros)}" if found.estimate_micros else "A call"
    if found.allowed:
        yield f"{who}: {call} fits now."
    elif found.retry_after_ms is None:
        yield f"{who}: {call} is denied, and waiting alone does not help."
    else:
        yield (
            f"{who}: {call} is denied. It fits in {duration(found.retry_after_ms)}, "
            f"at {found.fits_at}."
        )
    if not found.limits:
        yield "Nothing is limited here."
    for limit in found.limits:
        yield ""
        yield from _limit_lines(found, limit)


def _limit_lines(found: Explained, limit: Filled) -> Iterator[str]:
    name = f"chat {limit.chat_id}" if limit.chat_id is not None else limit.period
    used = limit.spent_micros + limit.held_micros
    verb = "The closest limit is" if limit.violation is None else "What binds is"
    yield (
        f"{verb} {name}: {dollars(limit.spent_micros)} spent and {dollars(limit.held_micros)} "
        f"held of {dollars(limit.limit_micros)}, {percent_of(used, limit.limit_micros)}."
    )
    if limit.violation is not None:
        yield f"  {_reason(limit.violation, found.estimate_micros)}"
    if limit.buckets:
        yield "  The largest buckets:"
    for bucket in limit.buckets:
        leaves = until(found.at, bucket.leaves_at)
        yield f"    {dollars(bucket.micros)} from {bucket.start}, leaves in {leaves}"
    if limit.chats:
        partly = "" if limit.chats_complete else ", of the latest records"
        yield f"  The chats that spent most{partly}:"
    for spender in limit.chats:
        yield f"    {dollars(spender.spent_micros)} {spender.chat_id or '(no chat)'}"
    if limit.holds:
        yield "  The largest holds:"
    for hold in limit.holds:
        chat = "" if hold.chat_id is None else f" of {hold.chat_id}"
        expires = until(found.at, hold.expires_at)
        yield f"    {dollars(hold.held_micros)} {hold.reservation_id}{chat}, expires in {expires}"
    yield "  The same by hand:"
    for command in limit.commands:
        yield f"    {command.command}"
        yield f"      # {command.shows}"


def _reason(violation: Violation, estimate_micros: int) -> str:
    if violation.reason == "blocked":
        return "A limit of 0 blocks everything: raise it or take it away."
    if violation.reason == "estimate_exceeds_limit":
        return f"{dollars(estimate_micros)} is more than the whole limit: it never fits."
    if violation.retry_after_ms is not None:
        return f"This limit lets it through in {duration(violation.retry_after_ms)}."
    if violation.transient:
        return "It fits once enough of what is held is given back."
    return "A chat's limit does not roll: raise it, or go on in another chat."
