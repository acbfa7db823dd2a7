"""Amounts, moments and spans in words, and which limit is how far reached."""

from __future__ import annotations

import pytest

from limiter.web.periods import Bar, State, bar_of, state_of
from limiter.web.words import age, amount, clock, column, moment_ms, percent, share, span


@pytest.mark.parametrize(
    ("duration_ms", "words"),
    [
        (-5, "0 s"),
        (1, "1 s"),
        (59_001, "1 min"),
        (660_001, "12 min"),
        (720_000, "12 min"),
        (3_599_999, "1 h"),
        (3_600_001, "1 h 1 min"),
        (35_999_999, "10 h"),
        (36_000_001, "11 h"),
        (86_400_000, "1 d"),
        (86_400_001, "1 d 1 h"),
        (30 * 86_400_000 - 1, "30 d"),
    ],
)
def test_a_span_promises_nothing_too_early(duration_ms: int, words: str) -> None:
    assert span(duration_ms) == words


@pytest.mark.parametrize(
    ("duration_ms", "words"),
    [(-1, "0 s"), (59_999, "59 s"), (60_000, "1 min"), (7_199_999, "1 h"), (172_800_000, "2 d")],
)
def test_an_age_is_rounded_down(duration_ms: int, words: str) -> None:
    assert age(duration_ms) == words


def test_amounts() -> None:
    assert (amount(None), amount(0), amount(1), amount(2_500_000)) == (
        *("", "0.00"),
        *("0.000001", "2.50"),
    )
    assert (column(0), column(1_000_001)) == ("$0.000000", "$1.000001")


def test_moments() -> None:
    assert moment_ms("1970-01-01T00:00:01.123Z") == 1_123
    assert moment_ms("2026-03-01T11:05:12.007Z") % 1_000 == 7
    assert clock("2026-03-01T11:05:12.123Z") == "2026-03-01 11:05:12"


def test_shares_are_rounded_down() -> None:
    assert (percent(999_999, 1_000_000), percent(1, 1), percent(3, 2)) == (99, 100, 150)
    assert (share(1, 3), share(0, 0), share(2, 2)) == ("33.3", "0.0", "100.0")


@pytest.mark.parametrize(
    ("limit_micros", "used_micros", "state"),
    [
        (None, 5, "unlimited"),
        (0, 0, "blocked"),
        (100, 79, "fine"),
        (100, 80, "near"),
        (100, 99, "near"),
        # A check that finds the limit used up is denied.
        (100, 100, "over"),
        (100, 101, "over"),
    ],
)
def test_how_a_limit_stands(limit_micros: int | None, used_micros: int, state: State) -> None:
    assert state_of(limit_micros, used_micros) == state


@pytest.mark.parametrize(
    ("limit_micros", "spent_micros", "held_micros", "bar"),
    [
        (None, 5, 5, Bar("0.0", "0.0", None)),
        (0, 5, 5, Bar("0.0", "0.0", None)),
        (200, 50, 20, Bar("25.0", "10.0", None)),
        (100, 80, 20, Bar("80.0", "20.0", None)),
        (100, 150, 50, Bar("75.0", "25.0", "50.0")),
    ],
)
def test_a_bar_is_as_long_as_the_limit_or_what_is_used(
    limit_micros: int | None, spent_micros: int, held_micros: int, bar: Bar
) -> None:
    assert bar_of(limit_micros, spent_micros, held_micros) == bar
