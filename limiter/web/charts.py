"""Spend over time as a picture: the places and heights of its bars, in whole numbers.

Pure: buckets in, rectangles out. The template draws them as SVG.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from limiter.models import iso_ms
from limiter.periods import DAY_MS, Period
from limiter.web.words import clock, dollars

HEIGHT = 100
# A bucket that has any spend is seen, however high the highest one is.
_BAR_MIN = 3


class Bucket(Protocol):
    """What was spent in one bucket of a window."""

    @property
    def start_ms(self) -> int: ...

    @property
    def micros(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Column:
    """One bar: its place from the left, its height from the bottom, and what it stands for."""

    x: int
    y: int
    height: int
    title: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture `width` buckets wide and `HEIGHT` high."""

    width: int
    height: int
    columns: list[Column]
    label: str
    total: str
    peak: str | None


def chart(period: Period, buckets: Sequence[Bucket], now_ms: int) -> Chart:
    """The window's buckets up to now, the open one last."""
    width = period.window_ms // period.bucket_ms + 1
    last_start_ms = now_ms - now_ms % period.bucket_ms
    first_start_ms = last_start_ms - (width - 1) * period.bucket_ms
    peak = max((bucket.micros for bucket in buckets), default=0)
    columns = []
    for bucket in buckets:
        place = (bucket.start_ms - first_start_ms) // period.bucket_ms
        if bucket.micros <= 0 or not peak:
            continue
        height = max(_BAR_MIN, bucket.micros * HEIGHT // peak)
        columns.append(
            Column(
                x=min(max(place, 0), width - 1),
                y=HEIGHT - height,
                height=height,
                title=f"{_start(period, bucket.start_ms)}: {dollars(bucket.micros)}",
            )
        )
    return Chart(
        width=width,
        height=HEIGHT,
        columns=columns,
        label=_label(period, buckets, peak),
        total=dollars(sum(bucket.micros for bucket in buckets)),
        peak=dollars(peak) if peak else None,
    )


def _start(period: Period, start_ms: int) -> str:
    text = clock(iso_ms(start_ms))
    return text[11:] if period.window_ms <= DAY_MS else text[:16]


def _label(period: Period, buckets: Sequence[Bucket], peak: int) -> str:
    if not peak:
        return "Nothing was spent in this window."
    total = sum(bucket.micros for bucket in buckets)
    highest = next(bucket for bucket in buckets if bucket.micros == peak)
    return (
        f"Spend over this window: {dollars(total)} in all, "
        f"the most at once {dollars(peak)} from {_start(period, highest.start_ms)} UTC on."
    )
