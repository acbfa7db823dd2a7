"""How commands print: tables on a terminal, lines with tabs into a pipe, one JSON value on request.

Amounts are exact in either: dollars for people, micros in JSON. It must not know what is printed.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import msgspec
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from limiter.errors import InvalidRequest
from limiter.money import div_ceil, format_dollars, parse_dollars
from limiter.periods import DAY_MS, HOUR_MS, SECOND_MS

_MINUTE_MS = 60 * SECOND_MS
_UNITS = (("d", DAY_MS), ("h", HOUR_MS), ("min", _MINUTE_MS), ("s", SECOND_MS))
_BAR_CELLS = 8
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Cell = str | Text
Head = str | Column


def right(name: str) -> Column:
    """A column of numbers."""
    return Column(name, justify="right")


def print_json(value: object) -> None:
    """One line; structs by their fields, as HTTP has them."""
    print(msgspec.json.encode(value).decode())


def print_table(console: Console, columns: Iterable[Head], rows: Iterable[Iterable[Cell]]) -> None:
    """Into a pipe: a line of names, then a line a row, with tabs between."""
    if console.is_terminal:
        console.print(table_of(columns, rows))
        return
    print("\t".join(head if isinstance(head, str) else str(head.header) for head in columns))
    for row in rows:
        print("\t".join(str(cell) for cell in row))


def table_of(columns: Iterable[Head], rows: Iterable[Iterable[Cell]]) -> Table:
    # A column gathers the cells of its table, and must not be used for two.
    heads = (head if isinstance(head, str) else head.copy() for head in columns)
    # Without lines, the widest one fits 80 columns.
    table = Table(*heads, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for row in rows:
        # As text: what looks like markup in an id is none.
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    return table


def dollars(micros: int | None) -> str:
    """`$1.50`; of no limit `unlimited`."""
    return "unlimited" if micros is None else format_dollars(micros)


def amount(text: str, option: str) -> int:
    """Micros of the dollars that were typed. Raises InvalidRequest naming the option."""
    try:
        return parse_dollars(text)
    except ValueError as error:
        raise InvalidRequest(f"{option}: {error}", field=option) from None


def duration(ms: int) -> str:
    """`2 d 4 h`, `12 min`, `43 s`: the two largest units, rounded up to the last one shown."""
    for (unit, unit_ms), (finer, finer_ms) in pairwise(_UNITS):
        count = div_ceil(ms, finer_ms)
        whole, rest = divmod(count, unit_ms // finer_ms)
        if whole > 0:
            return f"{whole} {unit} {rest} {finer}" if rest else f"{whole} {unit}"
    return f"{max(0, div_ceil(ms, SECOND_MS))} s"


def until(at: str, then: str | None) -> str:
    """How long from one moment to another one, both as answers have them; '' without one."""
    return "" if then is None else duration(moment_ms(then) - moment_ms(at))


def moment_ms(text: str) -> int:
    """Milliseconds since 1970 of a moment as answers have them."""
    return (datetime.fromisoformat(text) - _EPOCH) // timedelta(milliseconds=1)


def share(used_micros: int, limit_micros: int | None) -> Text:
    """What is used of a limit: a bar and a percentage, rounded down; coloured when it is close."""
    if limit_micros is None:
        return Text("-")
    percent = 100 if limit_micros == 0 else used_micros * 100 // limit_micros
    full = min(_BAR_CELLS, percent * _BAR_CELLS // 100)
    style = "red" if percent >= 100 else "yellow" if percent >= 80 else "green"
    return Text.assemble(("█" * full, style), "░" * (_BAR_CELLS - full), f" {percent:>4} %")


def percent_of(used_micros: int, limit_micros: int | None) -> str:
    """The same as plain text, for pipes."""
    if limit_micros is None:
        return "-"
    return f"{100 if limit_micros == 0 else used_micros * 100 // limit_micros} %"


def share_cell(console: Console, used_micros: int, limit_micros: int | None) -> Cell:
    """The bar on a terminal, the percentage alone in a pipe."""
    if console.is_terminal:
        return share(used_micros, limit_micros)
    return percent_of(used_micros, limit_micros)
