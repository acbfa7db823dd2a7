"""`RateLimit-Policy` and `RateLimit`: limits and what is left of them, as the IETF's draft has it.

https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/ (version 10). Structured
fields (RFC 9651), written by a library. They are on denials and on usage: on a check that is
admitted they would take longer than half of all the rest, to say what its body says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

from http_sf import ser

from limiter.http.answers import Header
from limiter.models import ChatUsage, PeriodUsage, Violation
from limiter.money import div_ceil
from limiter.periods import LIFETIME, PERIODS, SECOND_MS

# The draft's registry has no unit of money, and without any a client would count requests.
UNIT: Final = "micros"
# A structured field has no longer integers.
_INTEGER_MAX: Final = 999_999_999_999_999
_WINDOW_S: Final = {period.name: period.window_ms // SECOND_MS for period in PERIODS}


def of_violations(violations: Iterable[Violation]) -> list[Header]:
    """Every limit that binds; of several chats the first. `t`: when this very call fits."""
    limits: dict[str, int] = {}
    left: dict[str, dict[str, int]] = {}
    for violation in violations:
        if violation.period in limits:
            continue
        limits[violation.period] = violation.limit_micros
        left[violation.period] = {"r": violation.remaining_micros}
        if violation.retry_after_ms is not None:
            left[violation.period]["t"] = div_ceil(violation.retry_after_ms, SECOND_MS)
    return _headers(limits, left)


def of_periods(periods: Mapping[str, PeriodUsage]) -> list[Header]:
    """Every period that has a limit."""
    limits, left = {}, {}
    for name, usage in periods.items():
        if usage.limit_micros is not None and usage.remaining_micros is not None:
            limits[name] = usage.limit_micros
            left[name] = {"r": usage.remaining_micros}
    return _headers(limits, left)


def of_chat(chat: ChatUsage) -> list[Header]:
    """The limit of a chat's own, if it has one."""
    if chat.limit_micros is None or chat.remaining_micros is None:
        return []
    return _headers({LIFETIME: chat.limit_micros}, {LIFETIME: {"r": chat.remaining_micros}})


def _headers(limits: Mapping[str, int], left: Mapping[str, dict[str, int]]) -> list[Header]:
    sayable = tuple(item for item in limits.items() if item[1] <= _INTEGER_MAX)
    if not sayable:
        return []
    # What is overspent leaves nothing.
    remaining = [(name, {**left[name], "r": max(0, left[name]["r"])}) for name, _ in sayable]
    return [
        (b"ratelimit-policy", _policies(sayable)),
        (b"ratelimit", _written(remaining)),
    ]


# Limits change seldom, and writing them takes as long as writing what is left.
@lru_cache(maxsize=1_024)
def _policies(limits: tuple[tuple[str, int], ...]) -> bytes:
    policies = []
    for name, limit_micros in limits:
        window = {"w": _WINDOW_S[name]} if name in _WINDOW_S else {}
        policies.append((name, {"q": limit_micros, **window, "qu": UNIT}))
    return _written(policies)


def _written(items: Any) -> bytes:
    # The library spells out every nesting, and its lists take no narrower ones.
    return ser(items).encode("ascii")
