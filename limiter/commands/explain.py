"""`limiter explain`: what binds a call, what fills that limit, when the call fits, and how to see
the same with redis-cli.

The verdict is the scripts' own; nothing is decided here.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from msgspec import Struct, structs

from limiter.commands.data import open_data
from limiter.models import ChatUsage, PeriodUsage, Scope, Violation, iso_ms
from limiter.periods import LIFETIME, PERIODS
from limiter.reads import LIMIT_MAX
from limiter.redis.keys import Keys
from limiter.runtime import Parts
from limiter.settings import Settings
from limiter.views import Explanation, HoldView, Spender

# Of each kind, so many that matter most are named.
LARGEST = 5

_PERIODS = {period.name: period for period in PERIODS}


class Leaving(Struct, frozen=True, kw_only=True):
    """A bucket of a rolling window, and when it leaves."""

    start: str
    micros: int
    leaves_at: str


class Command(Struct, frozen=True, kw_only=True):
    """A command line that shows the same numbers, and what it prints."""

    command: str
    shows: str


class Filled(Struct, frozen=True, kw_only=True):
    """A limit and what fills it, the largest first: `buckets` of a period, `chats` that spent it
    (of a chat's limit: itself and its children with all below them), live `holds`.

    `violation` null: it does not bind. `chats_complete` false: not all records were added up.
    """

    scope: Scope
    chat_id: str | None
    period: str
    limit_micros: int | None
    spent_micros: int
    held_micros: int
    remaining_micros: int | None
    violation: Violation | None
    buckets: list[Leaving]
    chats: list[Spender]
    chats_complete: bool
    holds: list[HoldView]
    commands: list[Command]


class Explained(Explanation, frozen=True, kw_only=True):
    """An explanation with the limits that bind; if none does, with the one closest to it."""

    limits: list[Filled]


async def explain(
    settings: Settings, workspace_id: str, chat_id: str | None, estimate_micros: int | None
) -> Explained:
    """Raises NotFound, InvalidRequest, StartupError, Unavailable."""
    async with open_data(settings) as parts:
        explanation = await parts.limiter.explain(workspace_id, chat_id, estimate_micros)
        limits = [
            await _filled_chat(parts, explanation, scope, violation)
            if isinstance(scope, ChatUsage)
            else await _filled_period(parts, explanation, scope, violation)
            for scope, violation in _of_interest(explanation)
        ]
        return Explained(**structs.asdict(explanation), limits=limits)


def _of_interest(
    explanation: Explanation,
) -> Iterator[tuple[ChatUsage | str, Violation | None]]:
    """The limits that bind, a period by its name. If none does, the one with the largest share."""
    chats = {chat.chat_id: chat for chat in explanation.chats}
    for violation in explanation.violations:
        chat = None if violation.chat_id is None else chats[violation.chat_id]
        yield chat or violation.period, violation
    if explanation.violations:
        return
    limited: list[ChatUsage | str] = [
        *(chat for chat in explanation.chats if chat.limit_micros is not None),
        *(name for name, usage in explanation.periods.items() if usage.limit_micros is not None),
    ]
    if limited:
        closest = max(limited, key=lambda scope: _share(_usage_of(explanation, scope)))
        yield closest, None


def _usage_of(explanation: Explanation, scope: ChatUsage | str) -> ChatUsage | PeriodUsage:
    return explanation.periods[scope] if isinstance(scope, str) else scope


def _share(usage: ChatUsage | PeriodUsage) -> int:
    """Of a limit that does not bind, which is therefore above 0: parts of a million."""
    return (usage.spent_micros + usage.held_micros) * 1_000_000 // (usage.limit_micros or 1)


async def _filled_period(
    parts: Parts, explanation: Explanation, name: str, violation: Violation | None
) -> Filled:
    workspace_id, reads = explanation.workspace_id, parts.limiter.reads
    usage, period = explanation.periods[name], _PERIODS[name]
    buckets = sorted(await reads.history(workspace_id, name), key=lambda b: -b.micros)[:LARGEST]
    holds = _largest(await reads.holds(workspace_id, limit=LIMIT_MAX)) if usage.held_micros else []
    spenders = await reads.spenders(workspace_id, name, limit=LARGEST)
    return Filled(
        scope="account_period",
        chat_id=None,
        period=name,
        limit_micros=usage.limit_micros,
        spent_micros=usage.spent_micros,
        held_micros=usage.held_micros,
        remaining_micros=usage.remaining_micros,
        violation=violation,
        buckets=[
            Leaving(
                start=iso_ms(bucket.start_ms),
                micros=bucket.micros,
                leaves_at=iso_ms(bucket.start_ms + period.bucket_ms + period.window_ms),
            )
            for bucket in buckets
        ],
        chats=spenders.rows,
        chats_complete=spenders.complete,
        holds=holds,
        commands=_period_commands(parts.keys, workspace_id, name, holds),
    )


async def _filled_chat(
    parts: Parts, explanation: Explanation, chat: ChatUsage, violation: Violation | None
) -> Filled:
    workspace_id, reads = explanation.workspace_id, parts.limiter.reads
    below = await reads.chats(workspace_id, parent=chat.chat_id, limit=LIMIT_MAX)
    spenders = [
        Spender(chat_id=chat.chat_id, spent_micros=chat.own_spent_micros),
        *(Spender(chat_id=row.chat_id, spent_micros=row.spent_micros) for row in below.rows),
    ]
    holds: list[HoldView] = []
    if chat.held_micros:
        tree = await reads.tree_holds(workspace_id, chat.root_chat_id, limit=LIMIT_MAX)
        holds = _largest(tree)
    return Filled(
        scope="chat_lifetime",
        chat_id=chat.chat_id,
        period=LIFETIME,
        limit_micros=chat.limit_micros,
        spent_micros=chat.spent_micros,
        held_micros=chat.held_micros,
        remaining_micros=chat.remaining_micros,
        violation=violation,
        buckets=[],
        chats=sorted(spenders, key=lambda spender: -spender.spent_micros)[:LARGEST],
        chats_complete=below.next is None,
        holds=holds,
        commands=_chat_commands(parts.keys, workspace_id, chat.chat_id, holds),
    )


def _largest(holds: list[HoldView]) -> list[HoldView]:
    return sorted(holds, key=lambda hold: -hold.held_micros)[:LARGEST]


# --------------------------------------------------------------------------- redis-cli


def _period_commands(
    keys: Keys, workspace_id: str, period: str, holds: list[HoldView]
) -> list[Command]:
    key = keys.workspace(workspace_id)
    return [
        _redis_cli(
            f"the {period} limit, what is spent and what is held, micros",
            *("HMGET", key, f"limit.{period}", f"spent.{period}", "held"),
        ),
        _redis_cli(
            "closed buckets of the window, oldest first: start in ms, micros",
            *("ZRANGE", keys.window(workspace_id, period), "0", "-1"),
        ),
        _redis_cli(
            "the open bucket: when something was last charged, in ms; its micros",
            *("HMGET", key, "spent_at", f"open.{period}"),
        ),
        *_hold_commands(keys, workspace_id, holds),
    ]


def _chat_commands(
    keys: Keys, workspace_id: str, chat_id: str, holds: list[HoldView]
) -> list[Command]:
    fields = (f"limit.{LIFETIME}", f"spent.{LIFETIME}", "held", "own")
    return [
        _redis_cli(
            "the chat's limit; what it and all below it spent, and hold; its own spend, micros",
            *("HMGET", keys.chat(workspace_id, chat_id), *fields),
        ),
        *_hold_commands(keys, workspace_id, holds),
    ]


def _hold_commands(keys: Keys, workspace_id: str, holds: list[HoldView]) -> list[Command]:
    if not holds:
        return []
    return [
        _redis_cli(
            "the hundred holds that expire next, and when, in ms",
            *("ZRANGE", keys.holds(workspace_id), "0", "99", "WITHSCORES"),
        ),
        *(
            _redis_cli(
                "a hold: micros, its chat, when it expires in ms",
                *("HMGET", keys.hold(workspace_id, hold.reservation_id)),
                *("micros", "chat", "expires_at"),
            )
            for hold in holds
        ),
    ]


def _redis_cli(shows: str, *words: str) -> Command:
    """It finds the embedded server, or the one that is set, and keeps the password to itself."""
    return Command(command=shlex.join(["limiter", "redis-cli", *words]), shows=shows)
