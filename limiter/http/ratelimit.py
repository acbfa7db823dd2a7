"""`RateLimit-Policy` and `RateLimit`: limits and what is left of them, as the IETF's draft has it.

https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/ (version 10). Structured
fields (RFC 9651), written by a library: the policies once for each set of limits, and of what is
left all but the number. To write that as well would take longer than half of all the rest of a
check.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

from http_sf import ser

from limiter.http.answers import Header
from limiter.models import ChatUsage, PeriodUsage, Violation
from limiter.money import div_ceil
from limiter.periods import LIFETIME, PERIOD_NAMES, PERIODS, SECOND_MS

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
    sayable = tuple(item for item in limits.items() if item[1] <= _INTEGER_MAX)
    if not sayable:
        return []
    remaining = [(name, {**left[name], "r": max(0, left[name]["r"])}) for name, _ in sayable]
    return [(b"ratelimit-policy", _policies(sayable)), (b"ratelimit", _written(remaining))]


def of_usage(periods: Mapping[str, PeriodUsage], chat: ChatUsage | None) -> list[Header]:
    """Every period that has a limit, and the limit of the chat's own, if it has one."""
    limits: list[tuple[str, int]] = []
    left: list[bytes] = []
    for name, usage in periods.items():
        if usage.limit_micros is not None and usage.limit_micros <= _INTEGER_MAX:
            limits.append((name, usage.limit_micros))
            left.append(_left(name, usage.remaining_micros or 0))
    if chat is not None and chat.limit_micros is not None and chat.limit_micros <= _INTEGER_MAX:
        limits.append((LIFETIME, chat.limit_micros))
        left.append(_left(LIFETIME, chat.remaining_micros or 0))
    if not limits:
        return []
    return [
        (b"ratelimit-policy", _policies(tuple(limits))),
        (b"ratelimit", b", ".join(left)),
    ]


def _left(name: str, remaining_micros: int) -> bytes:
    # What is overspent leaves nothing.
    return b"%b%d" % (_LEFT[name], max(0, remaining_micros))


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


# By limit, the item that says what is left of it, up to the number.
_LEFT: Final = {
    name: _written([(name, {"r": 0})]).removesuffix(b"0") for name in (*PERIOD_NAMES, LIFETIME)
}
