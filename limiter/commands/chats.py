"""`limiter chats`: the chat trees of a workspace, from their roots or from one chat down."""

from __future__ import annotations

from msgspec import Struct
from rich.console import Console

from limiter.commands.data import open_data
from limiter.commands.output import Head, dollars, print_table, right, share_cell
from limiter.reads import Reads
from limiter.settings import Settings
from limiter.views import ChatView

_PAGE = 100


class ChatRow(ChatView, frozen=True, kw_only=True):
    """A chat and how far it is below where the list began."""

    level: int


class Chats(Struct, frozen=True, kw_only=True):
    """Each chat is followed by what is below it. `complete` false: there are more."""

    rows: list[ChatRow]
    complete: bool


async def chats(settings: Settings, workspace_id: str, parent: str | None, limit: int) -> Chats:
    """At most `limit` of them. Raises NotFound, InvalidRequest, StartupError, Unavailable."""
    async with open_data(settings) as parts:
        rows: list[ChatRow] = []
        complete = await _walk(parts.limiter.reads, workspace_id, parent, 0, limit, rows)
        return Chats(rows=rows, complete=complete)


async def _walk(
    reads: Reads, workspace_id: str, parent: str | None, level: int, limit: int, rows: list[ChatRow]
) -> bool:
    """Adds all below `parent`; returns whether that was all."""
    after = None
    while True:
        size = min(_PAGE, limit - len(rows) + 1)
        page = await reads.chats(workspace_id, parent=parent, limit=size, after=after)
        for chat in page.rows:
            if len(rows) == limit:
                return False
            fields = {name: getattr(chat, name) for name in chat.__struct_fields__}
            rows.append(ChatRow(**fields, level=level))
            if chat.has_children and not await _walk(
                reads, workspace_id, chat.chat_id, level + 1, limit, rows
            ):
                return False
        if page.next is None:
            return True
        after = page.next


def show_chats(console: Console, found: Chats) -> None:
    columns: list[Head] = [
        "chat",
        right("limit"),
        right("spent"),
        right("own"),
        right("held"),
        "used",
    ]
    rows = [
        [
            "  " * chat.level + chat.chat_id,
            dollars(chat.limit_micros),
            dollars(chat.spent_micros),
            dollars(chat.own_spent_micros),
            dollars(chat.held_micros),
            share_cell(console, chat.spent_micros + chat.held_micros, chat.limit_micros),
        ]
        for chat in found.rows
    ]
    print_table(console, columns, rows)
    if not found.complete:
        print(f"and more than these {len(found.rows):,}: see --limit")
