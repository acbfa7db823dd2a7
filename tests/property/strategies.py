"""What the histories of the state machine are made of."""

from __future__ import annotations

from hypothesis import strategies as st

from limiter.periods import DAY_MS, HOUR_MS, PERIODS
from tests.property.oracle import MICROS_MAX

MEMORY_MS = 600_000

# Counts of a unit that each history draws for itself: few, so that limits are met.
counts = st.integers(0, 30)
limits = st.one_of(st.none(), st.integers(0, 99), st.integers(50, 500), st.integers(50, 500))
chat_limits = st.one_of(st.none(), st.integers(1, 400))
# From one micro to where a few dozen units leave the range that is exact.
units = st.sampled_from([1, 1, 1, 999_983, MICROS_MAX // 97])

# A tree of two branches and a lone chat; calls mostly name a chat's own parent or say nothing.
PARENTS = {"c0": "", "c1": "c0", "c2": "c1", "c3": "c2", "c4": "c1", "c5": ""}
chats = st.sampled_from(["", "", *PARENTS])
kinships = st.sampled_from([*["own"] * 6, *["unsaid"] * 4, "c0", "c5"])

# Few names, so that they meet again by chance; None is made for the call.
names = st.sampled_from([None, None, "a", "b", "c"])
reservations = st.sampled_from(["", "", "a", "b", "c", "other"])
holds_ms = st.sampled_from([1_000, 60_000, 300_000, 300_000, 2 * DAY_MS])
sources = st.sampled_from(["s", "t"])
sequences = st.one_of(st.none(), st.integers(0, 5))

short_jumps_ms = st.one_of(st.just(0), st.integers(0, 1_000))
EDGES = [
    *[999, 1_000, 59_999, 60_000, 299_999, 300_000, MEMORY_MS],
    *[edge for p in PERIODS for edge in (p.bucket_ms, p.window_ms, p.window_ms + p.bucket_ms)],
]
long_jumps_ms = st.one_of(
    st.sampled_from(EDGES),
    st.integers(0, 2 * MEMORY_MS),
    st.integers(0, 40 * DAY_MS),
    st.integers(-2 * HOUR_MS, 0),
)
jumps_ms = st.one_of(*[short_jumps_ms] * 9, long_jumps_ms)
