"""What the value of a setting may be, where pydantic is not strict enough. Pure."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import BeforeValidator
from pydantic_settings import NoDecode

from limiter import periods
from limiter.money import MICROS_MAX

_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,20}")


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of a sentence about a name that is none: the nearest one, or nothing."""
    # Compared without the prefix, which would make any two names look alike.
    nearest = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {prefix}{nearest[0]}?" if nearest else ""


def _whole_number(value: object) -> object:
    """Stricter than int(): no floats, booleans, blanks, underscores, exponents."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value):
        return int(value)
    if value is None:
        return None
    raise ValueError("must be a whole number")


def _limits(value: object) -> object:
    """Every period with its limit or None, from a mapping or a JSON object of some of them."""
    if isinstance(value, str):
        try:
            value = json.loads(value, object_pairs_hook=_object_without_repeats)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"must be a JSON object of limits by period: {error}") from None
    if not isinstance(value, Mapping):
        raise ValueError("must be a JSON object of limits by period")
    for name, limit in value.items():
        if name not in periods.PERIOD_NAMES:
            nearest = did_you_mean(str(name), periods.PERIOD_NAMES)
            known = ", ".join(periods.PERIOD_NAMES)
            raise ValueError(f"no such period: {str(name)[:40]!r}{nearest} (there are {known})")
        whole = isinstance(limit, int) and not isinstance(limit, bool)
        if limit is not None and not (whole and 0 <= limit <= MICROS_MAX):
            raise ValueError(f"{name} must be null or a whole number from 0 to {MICROS_MAX}")
    return {name: value.get(name) for name in periods.PERIOD_NAMES}


def _object_without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name is there twice")
    return dict(pairs)


Whole = Annotated[int, BeforeValidator(_whole_number)]
WholeOrNone = Annotated[int | None, BeforeValidator(_whole_number)]
# `NoDecode`: the text reaches `_limits`, which is stricter than the default JSON decoder.
Limits = Annotated[dict[str, int | None], NoDecode, BeforeValidator(_limits)]
