"""Which configuration Redis was told of, on both stores."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import Connection, text

from limiter.durable import Storage
from limiter.durable.engine import Database
from limiter.durable.examine import examine
from limiter.durable.revisions import UntoldChat, UntoldWorkspace
from limiter.stored import WorkspaceSettings
from tests.durable.stream import UNLIMITED, Stream

MANY = 100


def hourly(limit_micros: int) -> WorkspaceSettings:
    return replace(UNLIMITED, limits={**UNLIMITED.limits, "hourly": limit_micros})


async def configure(storage: Storage, workspace_id: str, limit_micros: int) -> int:
    _, revision = await storage.configure_workspace(
        workspace_id, lambda _: hourly(limit_micros), initial=UNLIMITED, actor="test"
    )
    return revision


async def untold(storage: Storage) -> list[object]:
    revisions = storage.revisions
    workspaces = await revisions.untold_workspaces(None, MANY)
    return [*workspaces, *await revisions.untold_chats(None, MANY)]


async def test_a_workspace_that_its_first_call_creates_needs_no_telling(storage: Storage) -> None:
    await storage.create_workspace("acme", hourly(5), actor="first call")
    assert await untold(storage) == []
    # Neither does what only came by the stream.
    stream = Stream()
    await storage.apply([stream.chat("c1"), stream.record("e1", 5, chat="c2")])
    assert await untold(storage) == []


async def test_what_is_changed_is_untold_until_the_newest_of_it_is_noted(storage: Storage) -> None:
    await storage.create_workspace("acme", UNLIMITED, actor="test")
    await storage.configure_chat("acme", "c1", limit_micros=3, actor="test")
    assert await configure(storage, "acme", 5) == 2
    assert await configure(storage, "beta", 6) == 1
    acme, beta = UntoldWorkspace("acme", hourly(5), 2), UntoldWorkspace("beta", hourly(6), 1)
    chat = UntoldChat(("acme", "c1"), 3, 1)
    assert await untold(storage) == [acme, beta, chat]

    await storage.revisions.note_workspaces({"acme": 1, "beta": 1})
    assert await untold(storage) == [acme, chat]
    await storage.revisions.note_workspaces({"acme": 2})
    await storage.revisions.note_chats({("acme", "c1"): 1})
    assert await untold(storage) == []

    await storage.configure_chat("acme", "c1", limit_micros=None, actor="test")
    assert await untold(storage) == [UntoldChat(("acme", "c1"), None, 2)]


async def test_spend_leaves_what_is_noted_alone(storage: Storage) -> None:
    stream = Stream()
    await configure(storage, "acme", 5)
    await storage.configure_chat("acme", "c1", limit_micros=3, actor="test")
    await storage.revisions.note_workspaces({"acme": 1})
    await storage.revisions.note_chats({("acme", "c1"): 1})
    await storage.apply([stream.record("e1", 5, chat="c1"), stream.hold("r1", 3, chat="c1")])
    assert await untold(storage) == []


async def test_pages_begin_where_the_last_one_ended(storage: Storage) -> None:
    names = ["A", "Z", "a", "b-1", "z"]
    for name in names:
        await configure(storage, name, 1)
        for chat_id in ("c1", "c2"):
            await storage.configure_chat(name, chat_id, limit_micros=1, actor="test")
    workspaces: list[str] = []
    while rows := await storage.revisions.untold_workspaces(
        workspaces[-1] if workspaces else None, 2
    ):
        workspaces += [row.key for row in rows]
    chats: list[tuple[str, str]] = []
    while page := await storage.revisions.untold_chats(chats[-1] if chats else None, 3):
        chats += [row.key for row in page]
    assert workspaces == names
    assert chats == [(name, chat_id) for name in names for chat_id in ("c1", "c2")]


async def test_notes_and_spend_at_once_lose_nothing(storage: Storage, store_url: str) -> None:
    stream = Stream()
    await configure(storage, "acme", 5)
    await storage.configure_chat("acme", "c1", limit_micros=3, actor="test")
    async with Storage(store_url) as other:
        await asyncio.gather(
            *(other.apply([stream.record(f"e{number}", 1, chat="c1")]) for number in range(20)),
            storage.revisions.note_workspaces({"acme": 1}),
            storage.revisions.note_chats({("acme", "c1"): 1}),
        )
    assert await untold(storage) == []
    assert await storage.drift("acme") == []


async def test_what_was_told_before_there_were_notes_is_told_once_more(
    storage: Storage, store_url: str
) -> None:
    """A database of the version before: nobody knows what Redis missed."""

    def back_to_0002(connection: Connection) -> None:
        for table in ("workspaces", "chats"):
            connection.execute(text(f"DROP INDEX ix_{table}_untold"))
            connection.execute(text(f"ALTER TABLE {table} DROP COLUMN told_revision"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0002'"))

    await storage.create_workspace("acme", hourly(5), actor="test")
    await storage.configure_chat("acme", "c1", limit_micros=3, actor="test")
    await storage.apply([Stream().chat("c2")])
    database = Database(store_url)
    await database.write(back_to_0002)
    await database.close()
    async with Storage(store_url) as again:
        assert await untold(again) == [
            UntoldWorkspace("acme", hourly(5), 1),
            UntoldChat(("acme", "c1"), 3, 1),
        ]


@pytest.mark.parametrize("changes", [0, 2])
async def test_the_doctor_counts_them(storage: Storage, store_url: str, changes: int) -> None:
    await storage.create_workspace("acme", UNLIMITED, actor="test")
    for _ in range(changes):
        await configure(storage, "acme", 5)
        await storage.configure_chat("acme", "c1", limit_micros=3, actor="test")
    contents = (await examine(store_url)).contents
    assert contents is not None
    # Scopes, not changes.
    assert contents.untold_scopes == (2 if changes else 0)
