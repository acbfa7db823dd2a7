"""Amounts, moments and spans as people read them. Pure: integers in, text out."""

from __future__ import annotations

from datetime import datetime

from limiter.money import MICROS_PER_DOLLAR, div_ceil, format_dollars

_SECOND_MS = 1_000
_UNITS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"))


def dollars(micros: int) -> str:
    """`1_500_000` as `"$1.50"`: exact, two to six decimals."""
    return format_dollars(micros)


def column(micros: int) -> str:
    """An amount in a column: always six decimals, so that the points stand below each other."""
    return f"${micros // MICROS_PER_DOLLAR}.{micros % MICROS_PER_DOLLAR:06d}"


def amount(micros: int | None) -> str:
    """A limit as it stands in an input: dollars without the sign; blank is no limit."""
    return "" if micros is None else format_dollars(micros)[1:]


def span(duration_ms: int) -> str:
    """`740_000` as `"13 min"`: rounded up, because nothing may be promised too early."""
    seconds = div_ceil(max(duration_ms, 0), _SECOND_MS)
    minutes = div_ceil(seconds, 60)
    hours = div_ceil(minutes, 60)
    if seconds < 60:
        return f"{seconds} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 10 * 60:
        return _two(minutes, 60, "h", "min")
    if hours < 24:
        return f"{hours} h"
    return _two(hours, 24, "d", "h") if hours < 10 * 24 else f"{div_ceil(hours, 24)} d"


def _two(amount: int, size: int, unit: str, part: str) -> str:
    whole, parts = divmod(amount, size)
    return f"{whole} {unit} {parts} {part}" if parts else f"{whole} {unit}"


def age(duration_ms: int) -> str:
    """How long ago something was: rounded down, in its largest unit."""
    for unit_ms, unit in _UNITS:
        if duration_ms >= unit_ms:
            return f"{duration_ms // unit_ms} {unit}"
    return f"{max(0, duration_ms) // _SECOND_MS} s"


def moment_ms(text: str) -> int:
    """Milliseconds since 1970 of an RFC 3339 moment."""
    moment = datetime.fromisoformat(text)
    return int(moment.timestamp()) * _SECOND_MS + moment.microsecond // 1_000


def clock(text: str) -> str:
    """`2026-03-01T11:05:12.123Z` as `2026-03-01 11:05:12`, which is UTC as everywhere here."""
    return text[:19].replace("T", " ")


def percent(part: int, whole: int) -> int:
    """Rounded down, so that 100 means that a limit is reached and not that it nearly is."""
    return part * 100 // whole if whole else 100


def share(part: int, whole: int) -> str:
    """A part of a bar's length, in percent with one decimal: `"42.5"`."""
    tenths = part * 1_000 // whole if whole else 0
    return f"{tenths // 10}.{tenths % 10}"
