"""How progress looks on a terminal and elsewhere."""

import io

import pytest
from rich.console import Console

from limiter.replay.progress import shown


def printed(steps: int, total: int, lines: int, *, terminal: bool) -> str:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=80)
    with shown(console, "requests", total, lines=lines) as step:
        for _ in range(steps):
            step()
    return output.getvalue()


def test_a_terminal_gets_a_bar_that_ends_where_the_work_did() -> None:
    text = printed(7, 20, 10, terminal=True)
    assert "requests" in text
    assert " 7/20" in text
    assert "━" in text


@pytest.mark.parametrize(
    ("total", "lines", "expected"),
    [
        (20, 4, ["5 of 20", "10 of 20", "15 of 20", "20 of 20"]),
        (3, 10, ["1 of 3", "2 of 3", "3 of 3"]),
        (2_000, 1, ["2,000 of 2,000"]),
    ],
)
def test_elsewhere_it_is_at_most_so_many_lines(total: int, lines: int, expected: list[str]) -> None:
    text = printed(total, total, lines, terminal=False)
    assert text.splitlines() == [f"requests: {words}" for words in expected]
