"""The circuit breaker, on a clock that the tests drive."""

from __future__ import annotations

import pytest

from limiter.redis.breaker import Breaker


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(failures=3, reset_ms=1_000, monotonic_s=clock)


def test_opens_after_so_many_failures_in_a_row(breaker: Breaker) -> None:
    for _ in range(2):
        breaker.failed()
    assert breaker.admits()
    breaker.failed()
    assert breaker.is_open
    assert not breaker.admits()


def test_a_success_in_between_starts_the_count_again(breaker: Breaker) -> None:
    for _ in range(2):
        breaker.failed()
    breaker.succeeded()
    for _ in range(2):
        breaker.failed()
    assert not breaker.is_open


def test_lets_one_caller_a_period_through_while_open(breaker: Breaker, clock: Clock) -> None:
    for _ in range(3):
        breaker.failed()
    clock.now_s += 0.999
    assert not breaker.admits()
    clock.now_s += 0.001
    assert [breaker.admits() for _ in range(5)] == [True, False, False, False, False]
    breaker.failed()
    clock.now_s += 1
    assert [breaker.admits(), breaker.admits()] == [True, False]


def test_closes_when_the_probe_succeeds(breaker: Breaker, clock: Clock) -> None:
    for _ in range(3):
        breaker.failed()
    clock.now_s += 1
    assert breaker.admits()
    breaker.succeeded()
    assert not breaker.is_open
    assert all(breaker.admits() for _ in range(5))
