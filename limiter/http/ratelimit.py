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
    sayable = tuple(item for item in limits.items() if item[1] <= _INTEGER_MAX)
    if not sayable:
        return []
    remaining = [(name, {**left[name], "r": max(0, left[name]["r"])}) for name, _ in sayable]
    return [(b"ratelimit-policy", _policies(sayable)), (b"ratelimit", _written(remaining))]


def of_usage(periods: Mapping[str, PeriodUsage], chat: ChatUsage | None) -> list[Header]:
    """Every period that has a limit, and the limit of the chat's own, if it has one."""
    names, usages = [*periods], [*periods.values()]
    limits = [usage.limit_micros for usage in usages]
    left = [usage.remaining_micros for usage in usages]
    if chat is not None:
        names.append(LIFETIME)
        limits.append(chat.limit_micros)
        left.append(chat.remaining_micros)
    form = _form(tuple(names), tuple(limits))
    if form is None:
        return []
    policies, numbers, which = form
    # What is overspent leaves nothing.
    return [policies, (b"ratelimit", numbers % tuple([max(0, left[i] or 0) for i in which]))]


@lru_cache(maxsize=1_024)
def _form(
    names: tuple[str, ...], limits: tuple[int | None, ...]
) -> tuple[Header, bytes, list[int]] | None:
    """What does not change while limits stay: the policies, and the text around the numbers of
    what is left, which are those of the names at these places. None: nothing can be said.
    """
    which = [i for i, limit in enumerate(limits) if limit is not None and limit <= _INTEGER_MAX]
    if not which:
        return None
    sayable = tuple((names[i], limits[i] or 0) for i in which)
    items = (_written([(name, {"r": 0})]).removesuffix(b"0") + b"%d" for name, _ in sayable)
    return (b"ratelimit-policy", _policies(sayable)), b", ".join(items), which


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
