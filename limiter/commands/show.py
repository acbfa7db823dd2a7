"""What the commands print: a bar while they run, and what they found."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from limiter.commands.verify import Verified

DRIFT_ROWS_MAX = 1_000


@contextlib.contextmanager
def bar(console: Console, title: str) -> Iterator[Callable[[int, int], None]]:
    """Yields what takes the steps done by now, and how many there are. Only terminals show it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def print_verified(console: Console, verified: Verified) -> None:
    """The drift counter by counter, then a line of what was compared."""
    if verified.drift:
        table = Table("workspace", "where", "counter", "found", "by the ledger", "difference")
        for drift in verified.drift[:DRIFT_ROWS_MAX]:
            table.add_row(
                drift.workspace_id,
                drift.where,
                drift.counter,
                str(drift.found),
                str(drift.ledger),
                f"{drift.found - drift.ledger:+d}",
            )
        console.print(table, markup=False)
    if len(verified.drift) > DRIFT_ROWS_MAX:
        console.print(f"… and {len(verified.drift) - DRIFT_ROWS_MAX:,} more; --json has all")
    if verified.unsettled:
        console.print(
            f"not compared with Redis, as they never stood still: {', '.join(verified.unsettled)}",
            markup=False,
        )
    console.print(
        f"{verified.workspaces:,} workspaces, {verified.hot:,} of them in Redis with "
        f"{verified.chats:,} chats and {verified.counters:,} counters: "
        f"{f'{len(verified.drift):,} drifted' if verified.drift else 'no drift'}",
        highlight=False,
    )
