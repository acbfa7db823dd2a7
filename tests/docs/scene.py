"""The state that the examples of docs/redis.md show: one workspace on an ordinary morning."""

from __future__ import annotations

from tests.support.clock import DrivenClock
from tests.support.driver import Driver

# 2026-11-22 08:00:00 UTC, on the hour, so that the page's arithmetic can be followed.
MORNING_MS = 1_795_334_400_000
MINUTE_MS = 60_000

LIMITS = {"limit.hourly": 2_000_000, "limit.monthly": 50_000_000}


def build(driver: Driver, clock: DrivenClock) -> None:
    """$1.50 spent over twenty minutes, $0.40 held by a sub-agent, 25 minutes past the hour."""
    clock.set(MORNING_MS)
    driver.load(LIMITS, revision=1)
    driver.record(900_000, "ev-1", chat="c1", limit=5_000_000, new=True)
    clock.advance(10 * MINUTE_MS)
    driver.record(250_000, "ev-2", chat="c2", parent="c1", new=True)
    clock.advance(10 * MINUTE_MS)
    driver.record(350_000, "ev-3", chat="c2")
    driver.record(120, "ev-4", source="worker-7", stored_total=0, sequence=3)
    clock.advance(5 * MINUTE_MS)
    driver.check(400_000, "r-77", chat="c2")
