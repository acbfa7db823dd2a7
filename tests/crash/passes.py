"""Since when Redis alone may have what was acknowledged, by what the service says of its passes.

It must not assume how long a pass takes: that is the machine's affair.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from tests.metrics.scrape import Numbers, scraped

ATTEMPTS_MAX = 20
PAUSE_S = 0.02

_AGE = "limiter_snapshot_age_seconds"
_BUCKET = "limiter_snapshot_pass_duration_seconds_bucket{le="
_COUNT = "limiter_snapshot_pass_duration_seconds_count"


async def unsaved_since_s(url: str, *, interval_s: float, started_s: float) -> float:
    """A moment of the monotonic clock: what was acknowledged before it is in the ledger.

    `started_s`: one before which nothing can have been that is not. It stands until a service that
    was started again has completed its first pass.
    """
    for _ in range(ATTEMPTS_MAX):
        asked_s = time.monotonic()
        with contextlib.suppress(OSError):
            numbers = await asyncio.to_thread(scraped, url)
            if numbers[_COUNT] == 0:
                return started_s
            return asked_s - unsaved_s(numbers, interval_s)
        await asyncio.sleep(PAUSE_S)
    raise AssertionError("the service does not tell its metrics")


def unsaved_s(numbers: Numbers, interval_s: float) -> float:
    """How long ago the last completed pass began, at most. There has been one.

    A worker that loads something passes as well. It may have read entries before the keeper did,
    up to an interval and a pass after they were acknowledged, and be about to commit them.
    """
    longest_s = _longest_pass_s(numbers)
    return max(numbers[_AGE], interval_s + longest_s) + longest_s


def _longest_pass_s(numbers: Numbers) -> float:
    """The upper bound of the histogram's last bucket that has any pass in it."""
    counts = {
        float(name.removeprefix(_BUCKET).rstrip("}")): count
        for name, count in numbers.items()
        if name.startswith(_BUCKET)
    }
    return min(bound for bound, count in counts.items() if count == numbers[_COUNT])
