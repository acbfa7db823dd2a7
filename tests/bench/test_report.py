"""What `make bench` writes: figures, bars, and the table over all sections."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench.report import (
    AtLeast,
    AtMost,
    Plot,
    Report,
    Results,
    Row,
    median_row,
    number,
    quantile,
    ratios,
    write,
    write_overview,
)


def results(name: str, *rows: Row) -> Results:
    plot = Plot(name=f"{name}-plot", title="How it grows", svg="<svg/>")
    return Results(name=name, title=f"About {name}", rows=rows, rounds=3, plots=[plot])


def test_a_row_is_the_median_of_its_rounds_and_tells_their_range() -> None:
    row = median_row("a", [3.0, 1.0, 2.0], "ms")
    assert (row.value, row.low, row.high) == (2.0, 1.0, 3.0)


def test_a_single_round_has_no_range() -> None:
    row = median_row("a", [3.0], "ms")
    assert (row.value, row.low, row.high) == (3.0, None, None)


def test_ratios_compare_round_by_round() -> None:
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
    with pytest.raises(ValueError, match="longer"):
        ratios([1.0], [1.0, 2.0])


@pytest.mark.parametrize(
    ("share", "value"), [(0, 1), (0.5, 50), (0.99, 99), (0.991, 100), (1, 100)]
)
def test_a_quantile_is_a_value_that_was_measured(share: float, value: float) -> None:
    assert quantile(list(range(100, 0, -1)), share) == value


def test_of_no_values_there_is_no_quantile() -> None:
    with pytest.raises(ValueError, match="no values"):
        quantile([], 0.5)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0123456, "0.0123"), (1.5, "1.50"), (12.0, "12"), (99.96, "100"), (17675.2, "17,675")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_a_bar_is_met_at_its_value() -> None:
    assert AtLeast(2).holds(2)
    assert not AtLeast(2).holds(1.99)
    assert AtMost(2).holds(2)
    assert not AtMost(2).holds(2.01)


def test_the_files_say_what_was_measured(tmp_path: Path) -> None:
    missed = Row(figure="too slow", value=3.0, unit="ms", bar=AtMost(2))
    met = Row(figure="fast enough", value=3.0, unit="×", bar=AtLeast(2))
    text = write(results("one", missed, met), command="make x", load_before=0.5, folder=tmp_path)

    assert (tmp_path / "one.md").read_text(encoding="utf-8") == text
    assert "| too slow | 3 ms |  | ≤ 2 ✗ |" in text
    assert "| fast enough | 3 × |  | ≥ 2 ✓ |" in text
    assert (tmp_path / "one-plot.svg").read_text(encoding="utf-8") == "<svg/>"
    report = msgspec.json.decode((tmp_path / "one.json").read_bytes(), type=Report)
    assert report.results.rows == [missed, met]
    assert (report.command, report.load_before) == ("make x", 0.5)


def test_the_overview_has_every_section_that_was_measured_once(tmp_path: Path) -> None:
    for name, value in (("two", 1.0), ("one", 2.0), ("one", 3.0)):
        row = Row(figure="figure", value=value, unit="ms")
        write(results(name, row), command=f"make {name}", load_before=0, folder=tmp_path)
    write_overview(["one", "never", "two"], folder=tmp_path)
    lines = (tmp_path / "README.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if "figure | " in line and "](" in line] == [
        "| [one](one.md) | figure | 3 ms |  | `make one` |",
        "| [two](two.md) | figure | 1 ms |  | `make two` |",
    ]


def test_without_results_there_is_no_overview(tmp_path: Path) -> None:
    write_overview(["one"], folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
