"""`limiter usage`: every counter of a workspace, or of a chat, as it stands now."""

from __future__ import annotations

from rich.console import Console

from limiter.commands.data import open_data
from limiter.commands.output import Head, dollars, print_table, right, share_cell, until
from limiter.models import ChatTreeUsage, WorkspaceUsage
from limiter.settings import Settings


async def usage(
    settings: Settings, workspace_id: str, chat_id: str | None
) -> WorkspaceUsage | ChatTreeUsage:
    """What `GET /usage/…` answers. Raises NotFound, InvalidRequest, StartupError, Unavailable."""
    async with open_data(settings) as parts:
        if chat_id is None:
            return await parts.limiter.usage(workspace_id)
        return await parts.limiter.chat_usage(workspace_id, chat_id)


def show_usage(console: Console, found: WorkspaceUsage | ChatTreeUsage) -> None:
    if isinstance(found, WorkspaceUsage):
        _show_workspace(console, found)
    else:
        _show_chat(console, found)


def _show_workspace(console: Console, found: WorkspaceUsage) -> None:
    columns: list[Head] = [
        "period",
        right("limit"),
        right("spent"),
        right("held"),
        right("remaining"),
    ]
    rows = [
        [
            name,
            dollars(period.limit_micros),
            dollars(period.spent_micros),
            dollars(period.held_micros),
            "" if period.remaining_micros is None else dollars(period.remaining_micros),
            share_cell(console, period.spent_micros + period.held_micros, period.limit_micros),
            until(found.at, period.resets_at or None),
        ]
        for name, period in found.periods.items()
    ]
    print_table(console, [*columns, "used", "frees up in"], rows)
    if found.unpriced_records:
        print(f"{found.unpriced_records:,} records were of a model without a price")


def _show_chat(console: Console, found: ChatTreeUsage) -> None:
    columns: list[Head] = ["chat", right("limit"), right("spent"), right("own"), right("held")]
    row = [
        found.chat_id,
        dollars(found.limit_micros),
        dollars(found.spent_micros),
        dollars(found.own_spent_micros),
        dollars(found.held_micros),
        "" if found.remaining_micros is None else dollars(found.remaining_micros),
        share_cell(console, found.spent_micros + found.held_micros, found.limit_micros),
    ]
    print_table(console, [*columns, right("remaining"), "used"], [row])
    if found.ancestors:
        print(f"below {' > '.join(found.ancestors)}")
    if found.children:
        print(f"above {', '.join(found.children)}")
