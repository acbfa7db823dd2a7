"""How far a replay is: a bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@contextlib.contextmanager
def shown(console: Console, title: str, total: int, *, lines: int) -> Iterator[Callable[[], None]]:
    """Yields what has to be called once for each of `total` steps.

    `lines`: how many lines a console that is no terminal gets at most.
    """
    if not console.is_terminal:
        yield _plain(console, title, total, lines)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total)
        yield lambda: progress.advance(task)


def _plain(console: Console, title: str, total: int, lines: int) -> Callable[[], None]:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if done * lines // total > (done - 1) * lines // total:
            console.print(f"{title}: {done:,} of {total:,}", highlight=False)

    return step
