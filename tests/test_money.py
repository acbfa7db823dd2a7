"""Conversions of amounts: exact, bounded, and refused rather than guessed."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.money import (
    MICROS_MAX,
    cents_from_micros,
    div_ceil,
    format_dollars,
    micros_from_cents,
    parse_dollars,
)

amounts = st.integers(min_value=0, max_value=MICROS_MAX)


def test_the_largest_amount_is_the_last_one_that_a_double_holds_exactly() -> None:
    assert MICROS_MAX == 9_007_199_254_740_991
    assert int(float(MICROS_MAX)) == MICROS_MAX
    assert float(MICROS_MAX + 2) == float(MICROS_MAX + 1)


@pytest.mark.parametrize(
    ("numerator", "denominator", "quotient"),
    [(0, 7, 0), (1, 7, 1), (7, 7, 1), (8, 7, 2), (-8, 7, -1), (10**40 + 1, 10, 10**39 + 1)],
)
def test_div_ceil(numerator: int, denominator: int, quotient: int) -> None:
    assert div_ceil(numerator, denominator) == quotient


@given(st.integers(), st.integers(min_value=1))
def test_div_ceil_is_the_smallest_whole_number_that_is_enough(
    numerator: int, denominator: int
) -> None:
    quotient = div_ceil(numerator, denominator)
    assert quotient - 1 < Fraction(numerator, denominator) <= quotient


@pytest.mark.parametrize(("cents", "micros"), [(0, 0), (1, 10_000), (12_345, 123_450_000)])
def test_cents_become_micros(cents: int, micros: int) -> None:
    assert micros_from_cents(cents) == micros


@pytest.mark.parametrize("cents", [-1, MICROS_MAX // 10_000 + 1])
def test_cents_out_of_range_are_refused(cents: int) -> None:
    with pytest.raises(ValueError, match="cents must be between 0 and 900719925474"):
        micros_from_cents(cents)


def test_the_most_cents_stay_in_range() -> None:
    assert micros_from_cents(MICROS_MAX // 10_000) <= MICROS_MAX


@pytest.mark.parametrize(
    ("micros", "cents"), [(0, 0), (9_999, 0), (10_000, 1), (19_999, 1), (-1, -1)]
)
def test_cents_shown_are_rounded_down(micros: int, cents: int) -> None:
    assert cents_from_micros(micros) == cents


@given(st.integers(min_value=-MICROS_MAX, max_value=MICROS_MAX))
def test_cents_shown_are_less_than_a_cent_below_and_never_above(micros: int) -> None:
    assert 0 <= micros - cents_from_micros(micros) * 10_000 < 10_000


@given(st.integers(min_value=0, max_value=MICROS_MAX // 10_000))
def test_cents_survive_the_round_trip(cents: int) -> None:
    assert cents_from_micros(micros_from_cents(cents)) == cents


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (0, "$0.00"),
        (1, "$0.000001"),
        (10, "$0.00001"),
        (10_000, "$0.01"),
        (100_000, "$0.10"),
        (1_234_567, "$1.234567"),
        (1_500_000, "$1.50"),
        (12_345_000_000, "$12345.00"),
        (MICROS_MAX, "$9007199254.740991"),
        (-1, "-$0.000001"),
        (-1_500_000, "-$1.50"),
        (-MICROS_MAX, "-$9007199254.740991"),
    ],
)
def test_format_dollars(micros: int, text: str) -> None:
    assert format_dollars(micros) == text


@given(amounts)
def test_what_is_formatted_parses_back(micros: int) -> None:
    assert parse_dollars(format_dollars(micros)) == micros


@given(st.integers(min_value=-MICROS_MAX, max_value=MICROS_MAX))
def test_formatting_loses_nothing(micros: int) -> None:
    assert Decimal(format_dollars(micros).replace("$", "")) * 1_000_000 == micros


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("0", 0),
        ("12", 12_000_000),
        ("$12", 12_000_000),
        ("1.5", 1_500_000),
        ("$1234.50", 1_234_500_000),
        ("0.1", 100_000),
        ("0.000001", 1),
        ("1.000000", 1_000_000),
        ("007", 7_000_000),
        ("  $3.20\n", 3_200_000),
        ("9007199254.740991", MICROS_MAX),
    ],
)
def test_parse_dollars(text: str, micros: int) -> None:
    assert parse_dollars(text) == micros


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (" \t", "is empty"),
        ("$", "plain digits"),
        ("nan", "plain digits"),
        ("inf", "plain digits"),
        ("Infinity", "plain digits"),
        ("1e3", "plain digits"),
        ("1E400", "plain digits"),
        ("0x10", "plain digits"),
        ("1_000", "plain digits"),
        ("+1", "plain digits"),
        ("1.", "plain digits"),
        (".5", "plain digits"),
        ("1.2.3", "plain digits"),
        ("1 000", "plain digits"),
        ("1\n2", "plain digits"),
        ("$ 1", "plain digits"),
        ("$$1", "plain digits"),
        ("1$", "plain digits"),
        ("€1", "plain digits"),
        ("\N{ARABIC-INDIC DIGIT ONE}", "plain digits"),
        ("\N{FULLWIDTH DIGIT ONE}", "plain digits"),
        ("1\x00", "plain digits"),
        ("-1", "negative"),
        ("-0", "negative"),
        ("-$1", "negative"),
        ("$-1", "negative"),
        ("\N{MINUS SIGN}1", "negative"),
        ("1,234.50", "without commas"),
        ("$1,234.50", "without commas"),
        ("1,5", "without commas"),
        ("0.0000001", "more than 6 decimals"),
        ("1.0000000", "more than 6 decimals"),
        ("9007199254.740992", "above \\$9007199254.740991"),
        ("99999999999999999999", "above"),
        ("1" * 41, "longer than 40"),
        ("1" * 10_000, "longer than 40"),
    ],
)
def test_anything_else_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_dollars(text)


@given(st.text(max_size=50))
def test_any_text_is_an_amount_in_range_or_a_value_error(text: str) -> None:
    try:
        micros = parse_dollars(text)
    except ValueError:
        return
    assert 0 <= micros <= MICROS_MAX
    assert Decimal(text.strip().removeprefix("$")) * 1_000_000 == micros
