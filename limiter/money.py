"""Amounts: integer micros, millionths of a US dollar, and their conversions.

Pure integer arithmetic; no float ever holds money. It must not know what an amount is for.
"""

from __future__ import annotations

import re

# Lua, JSON and JavaScript hold numbers as doubles: exact up to here and nowhere beyond.
MICROS_MAX = 2**53 - 1

MICROS_PER_DOLLAR = 1_000_000
MICROS_PER_CENT = 10_000

# ASCII only: `int` and `Decimal` alone would also take digits of other scripts and underscores.
_DOLLARS = re.compile(r"\$?([0-9]+)(?:\.([0-9]+))?")
_DECIMALS_MAX = 6
# The longest amount in range, "$9007199254.740991", with room for leading zeros.
_DOLLARS_LENGTH_MAX = 40


def div_ceil(numerator: int, denominator: int) -> int:
    """`numerator / denominator`, rounded up towards positive infinity. Exact for any size."""
    return -(-numerator // denominator)


def micros_from_cents(cents: int) -> int:
    """The micros of a whole number of US cents.

    Raises ValueError if `cents` is negative or the result passes `MICROS_MAX`.
    """
    if not 0 <= cents <= MICROS_MAX // MICROS_PER_CENT:
        raise ValueError(f"cents must be between 0 and {MICROS_MAX // MICROS_PER_CENT}")
    return cents * MICROS_PER_CENT


def cents_from_micros(micros: int) -> int:
    """Whole US cents, rounded down, so that a limit shown in cents is never above the real one."""
    return micros // MICROS_PER_CENT


def format_dollars(micros: int) -> str:
    """`1_500_000` as `"$1.50"`: exact, two to six decimals, the sign before the dollar."""
    dollars, fraction = divmod(abs(micros), MICROS_PER_DOLLAR)
    decimals = f"{fraction:0{_DECIMALS_MAX}d}".rstrip("0").ljust(2, "0")
    sign = "-" if micros < 0 else ""
    return f"{sign}${dollars}.{decimals}"


def parse_dollars(text: str) -> int:
    """Micros of an amount that a person typed: `"12"`, `"$12.50"`, `" 0.000001 "`.

    Exact: at most six decimals, nothing is rounded. Thousands separators are refused, because
    "1,234" is a thousand dollars to some readers and about one to others.
    Raises ValueError, saying what is wrong, for anything else and above `MICROS_MAX`.
    """
    amount = text.strip()
    if not amount:
        raise ValueError("the amount is empty")
    if len(amount) > _DOLLARS_LENGTH_MAX:
        raise ValueError(f"the amount is longer than {_DOLLARS_LENGTH_MAX} characters")
    if amount.startswith(("-", "$-", "\N{MINUS SIGN}")):
        raise ValueError("the amount must not be negative")
    if "," in amount:
        raise ValueError("write the amount without commas, like 1234.50")
    match = _DOLLARS.fullmatch(amount)
    if match is None:
        raise ValueError("the amount must be dollars in plain digits, like 12 or 12.50")
    dollars, decimals = match[1], match[2] or ""
    if len(decimals) > _DECIMALS_MAX:
        raise ValueError(f"the amount has more than {_DECIMALS_MAX} decimals")
    micros = int(dollars) * MICROS_PER_DOLLAR + int(decimals.ljust(_DECIMALS_MAX, "0"))
    if micros > MICROS_MAX:
        raise ValueError(f"the amount is above {format_dollars(MICROS_MAX)}")
    return micros
