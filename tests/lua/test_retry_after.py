"""When a denied call fits again: to the millisecond where spend alone is in the way."""

from __future__ import annotations

import random

import pytest

from limiter.periods import PERIODS, Period
from tests.support.answers import Admitted, Denied, Violation
from tests.support.clock import START_MS, DrivenClock
from tests.support.driver import HOLD_MS, Driver

LIMIT = 1_000
ROUNDS = 15

each_period = pytest.mark.parametrize("period", PERIODS, ids=lambda period: period.name)


def denied(driver: Driver, estimate: int) -> Denied:
    answer = driver.check(estimate, "asked")
    assert isinstance(answer, Denied), answer
    return answer


def is_admitted(driver: Driver, estimate: int) -> bool:
    """Asks with an id that was never used, and gives back what is held."""
    answer = driver.check(estimate, "asked", fresh=True)
    driver.release("asked")
    return isinstance(answer, Admitted)


def only_violation(answer: Denied) -> Violation:
    (violation,) = answer.violations
    return violation


def wait_of(driver: Driver, estimate: int) -> int:
    """How long the call has to wait, asked with an id that was never used."""
    answer = driver.check(estimate, "asked", fresh=True)
    assert isinstance(answer, Denied), answer
    wait_ms = only_violation(answer).retry_after_ms
    assert wait_ms is not None
    return wait_ms


@each_period
@pytest.mark.parametrize("seed", range(2))
def test_it_is_exact(acme: Driver, clock: DrivenClock, period: Period, seed: int) -> None:
    """At the moment named the same call is admitted; a millisecond before it is denied."""
    acme.configure(2, {f"limit.{period.name}": LIMIT})
    rng = random.Random(seed)
    rounds = charges = 0
    while rounds < ROUNDS:
        estimate = rng.choice([0, 1, rng.randrange(1, LIMIT), LIMIT])
        if is_admitted(acme, estimate):
            charges += 1
            acme.record(rng.randrange(1, LIMIT // 4), f"e{charges}")
            clock.advance(rng.randrange(period.bucket_ms * 12))
            continue
        wait_ms = wait_of(acme, estimate)
        clock.advance(wait_ms - 1)
        assert not is_admitted(acme, estimate)
        clock.advance(1)
        assert is_admitted(acme, estimate)
        rounds += 1
    assert charges > 5


@each_period
def test_it_waits_for_as_many_buckets_as_the_estimate_needs(
    acme: Driver, clock: DrivenClock, period: Period
) -> None:
    acme.configure(2, {f"limit.{period.name}": 100})
    for bucket in range(4):
        clock.set(START_MS + bucket * period.bucket_ms)
        acme.record(25, f"e{bucket}")
    now = clock.now_ms

    def waits_for_buckets(estimate: int) -> int:
        buckets, rest = divmod(
            now + wait_of(acme, estimate) - START_MS - period.window_ms, period.bucket_ms
        )
        assert rest == 0
        return buckets

    estimates = [0, 1, 25, 26, 50, 51, 100]
    assert [waits_for_buckets(estimate) for estimate in estimates] == [1, 1, 1, 2, 2, 3, 4]


def test_where_holds_alone_are_in_the_way_it_is_the_next_expiry(
    acme: Driver, clock: DrivenClock
) -> None:
    acme.configure(2, {"limit.hourly": 100})
    acme.record(40, "e1")
    acme.check(30, "late", hold_ms=90_000)
    acme.check(30, "soon", hold_ms=60_000)
    clock.advance(1_000)
    violation = only_violation(denied(acme, 10))
    assert violation.retry_after_ms == 59_000
    assert violation.transient
    clock.advance(58_999)
    assert only_violation(denied(acme, 10)).retry_after_ms == 1
    clock.advance(1)
    assert isinstance(acme.check(10, "asked"), Admitted)


def test_where_spend_and_holds_are_in_the_way_it_waits_for_both(acme: Driver) -> None:
    acme.configure(2, {"limit.hourly": 100})
    acme.record(60, "e1")
    acme.check(40, "held", hold_ms=5_000_000)
    spend_leaves_ms, hold_expires_ms = 3_630_000, 5_000_000
    assert only_violation(denied(acme, 60)).retry_after_ms == spend_leaves_ms
    assert only_violation(denied(acme, 61)).retry_after_ms == hold_expires_ms


def test_each_period_that_binds_names_its_own_moment(acme: Driver) -> None:
    acme.configure(2, {f"limit.{period.name}": 10 for period in PERIODS})
    acme.record(10, "e1")
    violations = denied(acme, 1).violations
    assert [violation.period for violation in violations] == [period.name for period in PERIODS]
    for violation, period in zip(violations, PERIODS, strict=True):
        assert violation.retry_after_ms == period.bucket_ms + period.window_ms


@pytest.mark.parametrize(
    ("limit", "estimate", "reason"),
    [
        (0, 0, "blocked"),
        (0, 5, "blocked"),
        (10, 11, "estimate_exceeds_limit"),
    ],
)
def test_what_waiting_cannot_help_has_none(
    acme: Driver, limit: int, estimate: int, reason: str
) -> None:
    acme.configure(2, {"limit.hourly": limit})
    acme.record(3, "e1")
    assert denied(acme, estimate).violations == [
        Violation("workspace", "", "hourly", reason, limit, 3, 0, None, False)
    ]


def test_a_lifetime_limit_has_none(acme: Driver) -> None:
    acme.record(90, "e1", chat="c1", limit=100, new=True)
    acme.check(10, "held", chat="c1")
    spent = Violation("chat", "c1", "lifetime", "limit_exceeded", 100, 90, 10, None, False)
    answer = acme.check(11, "asked", chat="c1")
    assert isinstance(answer, Denied)
    assert answer.violations == [spent]
    # Here the hold alone is in the way: it may end, but nobody knows when.
    answer = acme.check(10, "asked", chat="c1")
    assert isinstance(answer, Denied)
    assert [violation.transient for violation in answer.violations] == [True]
    assert [violation.retry_after_ms for violation in answer.violations] == [None]


def test_usage_says_when_each_period_frees_something_next(acme: Driver, clock: DrivenClock) -> None:
    acme.configure(2, {"limit.hourly": 100})
    acme.record(60, "e1")
    clock.advance(30_000)
    acme.record(20, "e2")
    first_leaves_at = clock.now_ms - 30_000 + 3_630_000
    assert acme.usage().frees_at["hourly"] == first_leaves_at
    acme.check(20, "held", hold_ms=HOLD_MS)
    assert acme.usage().frees_at["hourly"] == clock.now_ms + HOLD_MS
    acme.record(20, "e3", "held")
    assert acme.usage().frees_at["hourly"] == first_leaves_at
    acme.configure(3, {"limit.hourly": 0})
    assert acme.usage().frees_at["hourly"] is None
