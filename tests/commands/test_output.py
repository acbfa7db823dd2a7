"""How commands print: times in words, tables on a terminal and in a pipe."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from limiter.commands.output import (
    Head,
    duration,
    moment_ms,
    percent_of,
    print_table,
    right,
    share,
    table_of,
    until,
)
from limiter.models import iso_ms
from limiter.periods import DAY_MS, HOUR_MS, SECOND_MS

MINUTE_MS = 60 * SECOND_MS


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (-5, "0 s"),
        (0, "0 s"),
        (1, "1 s"),
        (1_000, "1 s"),
        (1_001, "2 s"),
        (59_000, "59 s"),
        (59_001, "1 min"),
        (MINUTE_MS, "1 min"),
        (12 * MINUTE_MS + 1, "12 min 1 s"),
        (HOUR_MS - 1, "1 h"),
        (3 * HOUR_MS + 20 * MINUTE_MS, "3 h 20 min"),
        (DAY_MS - MINUTE_MS + 1, "1 d"),
        (2 * DAY_MS + HOUR_MS, "2 d 1 h"),
        (30 * DAY_MS, "30 d"),
    ],
)
def test_a_duration_is_never_shown_shorter_than_it_is(ms: int, text: str) -> None:
    assert duration(ms) == text


@pytest.mark.parametrize("at_ms", [0, 1, 999, 1_795_335_900_000, 1_795_335_900_123])
def test_a_moment_is_read_back_exactly(at_ms: int) -> None:
    assert moment_ms(iso_ms(at_ms)) == at_ms


def test_the_time_until_then_is_shown() -> None:
    assert until(iso_ms(1_000), iso_ms(62_000)) == "1 min 1 s"
    assert until(iso_ms(1_000), None) == ""


@pytest.mark.parametrize(
    ("used", "limit", "text", "full"),
    [
        (0, 10, "0 %", 0),
        (999, 1_000, "99 %", 7),
        (1_000, 1_000, "100 %", 8),
        (5, 2, "250 %", 8),
        (0, 0, "100 %", 8),
    ],
)
def test_a_share_is_rounded_down(used: int, limit: int, text: str, full: int) -> None:
    assert percent_of(used, limit) == text
    shown = share(used, limit)
    assert shown.plain.split()[-2:] == text.split()
    assert shown.plain.count("█") == full
    assert [percent_of(used, None), share(used, None).plain] == ["-", "-"]


def test_a_pipe_gets_lines_with_tabs(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(file=io.StringIO(), force_terminal=False)
    print_table(console, ["name", right("micros")], [["[bold]acme[/]", "12"], ["zeta", "3"]])
    assert capsys.readouterr().out == "name\tmicros\n[bold]acme[/]\t12\nzeta\t3\n"


def test_columns_may_be_used_for_many_tables() -> None:
    columns: list[Head] = ["name", right("micros")]
    for micros in ("12", "3"):
        console = Console(file=io.StringIO(), width=60)
        console.print(table_of(columns, [["acme", micros]]))
        assert isinstance(console.file, io.StringIO)
        lines = console.file.getvalue().splitlines()
        assert [line.split() for line in lines] == [["name", "micros"], ["acme", micros]]


def test_a_terminal_gets_a_table_in_which_nothing_is_markup() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system=None, width=60)
    print_table(console, ["name", right("micros")], [["[bold]acme[/]", "12"], ["zeta", "3"]])
    lines = file.getvalue().splitlines()
    assert [line.rstrip() for line in lines] == [
        "name           micros",
        "[bold]acme[/]      12",
        "zeta                3",
    ]
