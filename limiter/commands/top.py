"""`limiter top`: the workspaces that are closest to a limit, once or over and over."""

from __future__ import annotations

import asyncio
import contextlib

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from limiter.commands.data import open_data
from limiter.commands.output import Cell, Head, dollars, print_table, right, share_cell, table_of
from limiter.errors import Unavailable
from limiter.reads import Reads
from limiter.settings import Settings
from limiter.views import WorkspacePage, WorkspaceRow

# Of very many workspaces a page only orders what it has seen by then; each goes on where the last
# one ended.
_PAGES_MAX = 50

COLUMNS: list[Head] = [
    *("workspace", "period", right("limit"), right("spent"), right("held"), "used", "note")
]


async def top(settings: Settings, limit: int) -> WorkspacePage:
    """The first page of the list by closeness, of all workspaces if that can be had."""
    async with open_data(settings) as parts:
        return await _complete_page(parts.limiter.reads, limit)


async def watch(settings: Settings, console: Console, limit: int, interval_s: float) -> None:
    """Shows it until it is interrupted. While it cannot be had, it shows why, and what it was."""
    async with open_data(settings) as parts:
        shown = Group()
        with Live(shown, console=console, screen=True, auto_refresh=False) as live:
            while True:
                try:
                    page = await parts.limiter.reads.workspaces(limit=limit)
                    shown = _screen(console, page, interval_s)
                    live.update(shown, refresh=True)
                except Unavailable as error:
                    live.update(Group(shown, Text(str(error), style="red")), refresh=True)
                await asyncio.sleep(interval_s)


def show_top(console: Console, page: WorkspacePage) -> None:
    print_table(console, COLUMNS, rows_of(console, page))
    if not page.complete:
        print("not every workspace has been looked at")


def rows_of(console: Console, page: WorkspacePage) -> list[list[Cell]]:
    return [
        [
            row.workspace_id,
            row.period,
            dollars(row.limit_micros),
            dollars(row.spent_micros),
            dollars(row.held_micros),
            share_cell(console, row.spent_micros + row.held_micros, row.limit_micros),
            _note(row),
        ]
        for row in page.rows
    ]


def _note(row: WorkspaceRow) -> str:
    marks = {"blocked": row.blocked, "not in Redis": not row.live}
    return ", ".join(mark for mark, is_so in marks.items() if is_so)


def _screen(console: Console, page: WorkspacePage, interval_s: float) -> Group:
    rows = rows_of(console, page)
    note = f"every {interval_s:g} s; Ctrl-C ends it"
    if not page.complete:
        note = f"not every workspace has been looked at yet; {note}"
    return Group(table_of(COLUMNS, rows), Text(note, style="dim"))


async def _complete_page(reads: Reads, limit: int) -> WorkspacePage:
    page = await reads.workspaces(limit=limit)
    for _ in range(_PAGES_MAX):
        if page.complete:
            break
        page = await reads.workspaces(limit=limit)
    return page


def run_watch(settings: Settings, console: Console, limit: int, interval_s: float) -> None:
    """Until Ctrl-C, which is how one leaves."""
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(watch(settings, console, limit, interval_s))
