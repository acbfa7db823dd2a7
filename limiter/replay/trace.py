"""Reads a trace: when each request came, how many tokens it brought and how many it made.

It must not know where a request goes or what it costs.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

from limiter.models import TOKENS_MAX

HEADER = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]

_MICROSECOND = timedelta(microseconds=1)
_QUOTE_LENGTH_MAX = 60


class UnusableInput(Exception):
    """Nothing was replayed: an option, the trace or the address is no good. Says which and why."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of a trace. `offset_us`: after the first, in microseconds."""

    offset_us: int
    input_tokens: int
    output_tokens: int


def read_trace(path: Path, rows_max: int | None = None) -> list[Arrival]:
    """The requests in their order, at most `rows_max` of them.

    Raises UnusableInput for a file that is missing, empty, unsorted, or not such a trace.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            arrivals = list(islice(_arrivals(path, lines), rows_max))
    except FileNotFoundError:
        raise UnusableInput(f"{path}: there is no such file") from None
    except OSError as error:
        raise UnusableInput(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UnusableInput(f"{path}: not a CSV file: {error}") from None
    if not arrivals:
        raise UnusableInput(f"{path}: there are no requests in it")
    return arrivals


def _arrivals(path: Path, lines: Iterator[str]) -> Iterator[Arrival]:
    rows = csv.reader(lines)
    header = next(rows, [])
    if header != HEADER:
        raise UnusableInput(
            f"{path}, line 1: the columns must be {','.join(HEADER)}, not {_quoted(header)}"
        )
    first = previous = None
    for row in rows:
        try:
            if len(row) != len(HEADER):
                raise ValueError("not as many columns as the header")
            moment = _moment(row[0])
            tokens = _tokens(row[1]), _tokens(row[2])
        except ValueError as error:
            raise UnusableInput(f"{path}, line {rows.line_num}: {error}: {_quoted(row)}") from None
        if previous is not None and moment < previous:
            raise UnusableInput(f"{path}, line {rows.line_num}: earlier than the line before it")
        first, previous = first or moment, moment
        yield Arrival((moment - first) // _MICROSECOND, *tokens)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _tokens(text: str) -> int:
    # `int` alone takes signs, blanks, underscores and digits of other scripts.
    if not (text.isascii() and text.isdigit()) or int(text[:20]) > TOKENS_MAX:
        raise ValueError("not a number of tokens")
    return int(text)


def _quoted(row: list[str]) -> str:
    return repr(",".join(row))[:_QUOTE_LENGTH_MAX]
