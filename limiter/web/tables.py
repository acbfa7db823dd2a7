"""Rows of the lists: workspaces, chats, holds. Pure: views in, text and bars out."""

from __future__ import annotations

from dataclasses import dataclass

from limiter.models import ChatUsage
from limiter.views import ChatView, WorkspaceRow
from limiter.web.periods import Bar, State, Typed, bar_of, state_of
from limiter.web.words import amount, column, dollars, percent


@dataclass(frozen=True, slots=True)
class WorkspaceEntry:
    """A workspace by the period that is closest to its limit."""

    workspace_id: str
    period: str
    state: State
    percent: int | None
    used: str
    held: str | None
    limit: str | None
    bar: Bar
    live: bool

    @property
    def value_now(self) -> int:
        return min(self.percent or 0, 100)


def workspace_entry(row: WorkspaceRow) -> WorkspaceEntry:
    """A row of the list of workspaces."""
    used_micros = row.spent_micros + row.held_micros
    return WorkspaceEntry(
        workspace_id=row.workspace_id,
        period=row.period,
        state=state_of(row.limit_micros, used_micros),
        percent=row.share_percent,
        used=dollars(row.spent_micros),
        held=dollars(row.held_micros) if row.held_micros else None,
        limit=None if row.limit_micros is None else dollars(row.limit_micros),
        bar=bar_of(row.limit_micros, row.spent_micros, row.held_micros),
        live=row.live,
    )


@dataclass(frozen=True, slots=True)
class ChatNode:
    """A chat in its tree: what its subtree and it alone have spent, and its limit."""

    chat_id: str
    state: State
    percent: int | None
    spent: str
    own: str
    held: str | None
    limit: str | None
    bar: Bar
    text: str
    error: str | None
    has_children: bool
    live: bool

    @property
    def value_now(self) -> int:
        return min(self.percent or 0, 100)


def chat_node(
    chat: ChatUsage, *, has_children: bool, live: bool = True, typed: Typed | None = None
) -> ChatNode:
    """A node. `typed`: what was typed into its limit and not saved."""
    used_micros = chat.spent_micros + chat.held_micros
    limit_micros = chat.limit_micros
    return ChatNode(
        chat_id=chat.chat_id,
        state=state_of(limit_micros, used_micros),
        percent=percent(used_micros, limit_micros) if limit_micros else None,
        spent=column(chat.spent_micros),
        own=column(chat.own_spent_micros),
        held=column(chat.held_micros) if chat.held_micros else None,
        limit=None if limit_micros is None else dollars(limit_micros),
        bar=bar_of(limit_micros, chat.spent_micros, chat.held_micros),
        text=amount(limit_micros) if typed is None else typed.text,
        error=None if typed is None else typed.error,
        has_children=has_children,
        live=live,
    )


def chat_nodes(chats: list[ChatView]) -> list[ChatNode]:
    """The nodes of one level."""
    return [chat_node(chat, has_children=chat.has_children, live=chat.live) for chat in chats]
