"""The period table: the single source of every window's name, length and bucket width.

Adding a period is one line in `PERIODS`; scripts, storage, HTTP and pages read the table.
It must not know what is counted in a window or where.
"""

from __future__ import annotations

from dataclasses import dataclass

SECOND_MS = 1_000
HOUR_MS = 3_600 * SECOND_MS
DAY_MS = 24 * HOUR_MS

# Redis keeps a sorted set in one compact block up to 128 entries (`zset-max-listpack-entries`).
# A window holds its whole buckets, a partial one at either end, and never more than this.
BUCKETS_MAX = 126


@dataclass(frozen=True, slots=True)
class Period:
    """One rolling window.

    A bucket leaves the window only once all of it is older than `window_ms`, so spend counts for
    at least `window_ms` and at most `window_ms + bucket_ms`.
    """

    name: str
    window_ms: int
    bucket_ms: int

    def __post_init__(self) -> None:
        if self.window_ms % self.bucket_ms:
            raise ValueError(f"period {self.name}: window_ms is not a whole number of buckets")
        if self.window_ms // self.bucket_ms > BUCKETS_MAX:
            raise ValueError(f"period {self.name}: more than {BUCKETS_MAX} buckets")


PERIODS: tuple[Period, ...] = (
    Period("hourly", window_ms=HOUR_MS, bucket_ms=30 * SECOND_MS),
    Period("daily", window_ms=DAY_MS, bucket_ms=720 * SECOND_MS),
    Period("weekly", window_ms=7 * DAY_MS, bucket_ms=5_040 * SECOND_MS),
    Period("monthly", window_ms=30 * DAY_MS, bucket_ms=6 * HOUR_MS),
)

PERIOD_NAMES: tuple[str, ...] = tuple(period.name for period in PERIODS)

# A chat's only period: it never rolls.
LIFETIME = "lifetime"

# The period that the legacy single `budget_limit` stands for.
LEGACY_PERIOD = "monthly"
