"""Chat trees in memory: rows that were loaded with all their ancestors, changed, and written back.

Charges are collected a chat and added to the chat and its ancestors at the end, so that a batch
walks each chat's chain once. The caller holds the lock of the chats' workspaces.
It must not know stream entries.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, Select, and_, select

from limiter.durable.bulk import AnyRow, key_parameter, key_source, matching, replace
from limiter.durable.schema import chats
from limiter.errors import ChatCycle, ChatParentImmutable, ChatParentUnknown, ChatTooDeep
from limiter.models import DEPTH_MAX
from limiter.stored import StoredChat

Key = tuple[str, str]

_NAMES = tuple(column.name for column in chats.columns)
_values = attrgetter(*_NAMES)


@dataclass(slots=True)
class Chat:
    """One row of `chats`; fields in the order of its columns."""

    workspace_id: str
    chat_id: str
    parent_chat_id: str | None
    root_chat_id: str
    depth: int
    provisional: bool
    limit_micros: int | None = None
    revision: int = 0
    spent_micros: int = 0
    own_spent_micros: int = 0
    held_micros: int = 0
    pruned_micros: int = 0
    told_revision: int = 0

    @property
    def key(self) -> Key:
        return (self.workspace_id, self.chat_id)

    def stored(self) -> StoredChat:
        return StoredChat(
            chat_id=self.chat_id,
            parent_chat_id=self.parent_chat_id,
            root_chat_id=self.root_chat_id,
            depth=self.depth,
            limit_micros=self.limit_micros,
            spent_micros=self.spent_micros,
            own_spent_micros=self.own_spent_micros,
            held_micros=self.held_micros,
            revision=self.revision,
        )


class ContradictedTree(Exception):
    """The news of a chat's place does not go with what is stored."""


class ChatTrees:
    """Chats of any number of workspaces. `changed` are those to be written."""

    def __init__(self, rows: Iterable[AnyRow] = ()) -> None:
        self.changed: set[Key] = set()
        self._chats = {chat.key: chat for chat in (Chat(*row) for row in rows)}
        self._moved: set[Key] = set()
        self._spent: dict[Key, int] = {}
        self._held: dict[Key, int] = {}

    def get(self, workspace_id: str, chat_id: str) -> Chat | None:
        return self._chats.get((workspace_id, chat_id))

    def charge(self, workspace_id: str, chat_id: str, micros: int) -> None:
        """Adds to what the chat spent; a negative amount takes out."""
        key = (workspace_id, chat_id)
        self._spent[key] = self._spent.get(key, 0) + micros

    def hold(self, workspace_id: str, chat_id: str, micros: int) -> None:
        """Adds to what is held for the chat; a negative amount takes out."""
        key = (workspace_id, chat_id)
        self._held[key] = self._held.get(key, 0) + micros

    def chain(self, chat: Chat) -> list[Chat]:
        """The chat and its ancestors, up to the root. Raises ContradictedTree on a cycle."""
        found = [chat]
        while chat.parent_chat_id is not None:
            chat = self._chats[chat.workspace_id, chat.parent_chat_id]
            found.append(chat)
            if len(found) > DEPTH_MAX:
                raise ContradictedTree
        return found

    def place(self, new: Chat) -> None:
        """Creates the chat, or gives a provisional one its place and limit.

        A parent that is not known yet becomes a provisional root. Raises ContradictedTree, and
        changes nothing, if the chat has another parent, would be its own ancestor, or too deep.
        """
        known = self._chats.get(new.key)
        if known is not None and not known.provisional:
            if known.parent_chat_id != new.parent_chat_id:
                raise ContradictedTree
            return
        above: list[Chat] = []
        if new.parent_chat_id is not None:
            parent = self._chats.get((new.workspace_id, new.parent_chat_id))
            if parent is None:
                parent = Chat(
                    new.workspace_id,
                    new.parent_chat_id,
                    None,
                    new.root_chat_id,
                    new.depth - 1,
                    True,
                )
            above = self.chain(parent)
            if known in above:
                raise ContradictedTree
            if not parent.provisional:
                new.root_chat_id, new.depth = parent.root_chat_id, parent.depth + 1
            if new.depth > DEPTH_MAX:
                raise ContradictedTree
            self._put(parent)
        if known is None:
            self._put(new)
            return
        # It may have a place already, which a queued record gave it.
        for ancestor in self.chain(known)[1:]:
            ancestor.spent_micros -= known.spent_micros
            ancestor.held_micros -= known.held_micros
            self.changed.add(ancestor.key)
        for ancestor in above:
            ancestor.spent_micros += known.spent_micros
            ancestor.held_micros += known.held_micros
            self.changed.add(ancestor.key)
        if (known.root_chat_id, known.depth) != (new.root_chat_id, new.depth):
            self._moved.add(known.key)
        known.parent_chat_id = new.parent_chat_id
        known.root_chat_id, known.depth = new.root_chat_id, new.depth
        known.provisional = new.provisional
        if known.revision == 0:
            known.limit_micros = new.limit_micros
        self.changed.add(known.key)

    def create(
        self,
        workspace_id: str,
        chat_id: str,
        parent_chat_id: str | None,
        *,
        limit_micros: int | None,
        provisional: bool,
    ) -> Chat:
        """The chat, created if it is new, at the place that a caller wants for it.

        Raises ChatParentImmutable, ChatParentUnknown, ChatCycle and ChatTooDeep.
        """
        known = self.get(workspace_id, chat_id)
        if known is not None and not known.provisional:
            if known.parent_chat_id != parent_chat_id:
                raise ChatParentImmutable(chat_id)
            return known
        root, depth = chat_id, 1
        if parent_chat_id is not None:
            if parent_chat_id == chat_id:
                raise ChatCycle(chat_id)
            parent = self.get(workspace_id, parent_chat_id)
            if parent is None:
                raise ChatParentUnknown(parent_chat_id)
            if known in self.chain(parent):
                raise ChatCycle(chat_id)
            root, depth = parent.root_chat_id, parent.depth + 1
            if depth > DEPTH_MAX:
                raise ChatTooDeep(chat_id, DEPTH_MAX)
        self.place(
            Chat(workspace_id, chat_id, parent_chat_id, root, depth, provisional, limit_micros)
        )
        return self._chats[workspace_id, chat_id]

    def settle(self) -> None:
        """Brings what was collected up every chain. A chat nobody told of becomes provisional."""
        for key in self._spent.keys() | self._held.keys():
            spent, held = self._spent.get(key, 0), self._held.get(key, 0)
            chat = self._chats.get(key)
            if chat is None:
                workspace_id, chat_id = key
                chat = Chat(workspace_id, chat_id, None, chat_id, 1, True)
                self._put(chat)
            if spent == held == 0:
                continue
            chat.own_spent_micros += spent
            for node in self.chain(chat):
                node.spent_micros += spent
                node.held_micros += held
                self.changed.add(node.key)
        self._spent.clear()
        self._held.clear()

    def write(self, connection: Connection) -> None:
        """Writes what changed, and the new root and depth of all that is below a moved chat."""
        self.settle()
        rows = [_values(self._chats[key]) for key in sorted(self.changed)]
        replace(connection, chats, _NAMES, rows)
        self.changed.clear()
        level = [self._chats[key] for key in self._moved]
        self._moved.clear()
        for _ in range(DEPTH_MAX):
            if not level:
                break
            parents = {chat.key: chat for chat in level}
            key = ("workspace_id", "parent_chat_id")
            level = [Chat(*row) for row in matching(connection, chats, key, parents)]
            for chat in level:
                parent = parents[chat.workspace_id, chat.parent_chat_id or ""]
                chat.root_chat_id, chat.depth = parent.root_chat_id, parent.depth + 1
            replace(connection, chats, _NAMES, [_values(chat) for chat in level])

    def _put(self, chat: Chat) -> None:
        if chat.key not in self._chats:
            self._chats[chat.key] = chat
            self.changed.add(chat.key)


def load_chats(connection: Connection, keys: Iterable[Key]) -> ChatTrees:
    """Those of the chats that exist, and all their ancestors."""
    wanted: Sequence[Key] = list(keys)
    if not wanted:
        return ChatTrees()
    statement = _chains(connection.dialect.name)
    return ChatTrees(connection.execute(statement, key_parameter(wanted)))


@lru_cache
def _chains(dialect_name: str) -> Select[Any]:
    source, (workspace_id, chat_id) = key_source(dialect_name, 2)
    chain = (
        select(workspace_id.label("workspace_id"), chat_id.label("chat_id"))
        .select_from(source)
        .cte("chain", recursive=True)
    )
    above = select(chats.c.workspace_id, chats.c.parent_chat_id).join_from(
        chain,
        chats,
        and_(
            chats.c.workspace_id == chain.c.workspace_id,
            chats.c.chat_id == chain.c.chat_id,
            chats.c.parent_chat_id.is_not(None),
        ),
    )
    # UNION, not UNION ALL: a chain that others share is walked once, and a cycle ends.
    chain = chain.union(above)
    on = and_(chats.c.workspace_id == chain.c.workspace_id, chats.c.chat_id == chain.c.chat_id)
    return select(chats).select_from(chain.join(chats, on))
