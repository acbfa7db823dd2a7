"""The canonical configuration of workspaces and chats, and its audit, on both stores."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from limiter.durable import Storage
from limiter.errors import (
    ChatCycle,
    ChatParentImmutable,
    ChatParentUnknown,
    ChatTooDeep,
    InvalidRequest,
    WorkspaceNotFound,
)
from limiter.models import DEPTH_MAX
from limiter.money import MICROS_MAX
from limiter.periods import PERIOD_NAMES
from limiter.stored import WorkspaceSettings
from tests.durable.stream import START_MS, UNLIMITED, Stream, chat_of

SETTINGS = WorkspaceSettings(
    limits=dict.fromkeys(PERIOD_NAMES) | {"hourly": 0, "monthly": MICROS_MAX},
    default_estimate_micros=5,
    on_hold_expiry="charge",
    outage_policy="deny",
)


def unchanged(settings: WorkspaceSettings) -> WorkspaceSettings:
    return settings


async def test_a_workspace_that_nobody_configured_is_none(storage: Storage) -> None:
    assert await storage.workspace("acme") is None
    await storage.apply([Stream().record("e1", 5)])
    assert await storage.workspace("acme") is None
    assert await storage.workspaces() == ["acme"]
    await storage.create_workspace("acme", SETTINGS, actor="test")
    workspace = await storage.workspace("acme")
    assert workspace is not None
    assert (workspace.revision, workspace.settings) == (1, SETTINGS)
    assert workspace.windows["hourly"] == [(START_MS, 5)]


async def test_creating_twice_keeps_the_first(storage: Storage) -> None:
    await storage.create_workspace("acme", SETTINGS, actor="one")
    await storage.create_workspace("acme", UNLIMITED, actor="other")
    workspace = await storage.workspace("acme")
    assert workspace is not None
    assert (workspace.revision, workspace.settings) == (1, SETTINGS)
    assert [row.actor for row in await storage.audit("acme")] == ["one"]


async def test_configuring_changes_what_is_there(storage: Storage) -> None:
    def lower(settings: WorkspaceSettings) -> WorkspaceSettings:
        return replace(settings, limits={**settings.limits, "daily": 7, "hourly": None})

    first = await storage.configure_workspace("acme", unchanged, initial=SETTINGS, actor="ann")
    assert first == (SETTINGS, 1)
    second, revision = await storage.configure_workspace(
        "acme", lower, initial=UNLIMITED, actor="bob"
    )
    assert revision == 2
    assert second.limits == dict.fromkeys(PERIOD_NAMES) | {"daily": 7, "monthly": MICROS_MAX}
    workspace = await storage.workspace("acme")
    assert workspace is not None
    assert (workspace.revision, workspace.settings) == (2, second)
    latest, earliest = await storage.audit("acme")
    assert (earliest.actor, earliest.before) == ("ann", None)
    assert latest.actor == "bob"
    assert latest.before == earliest.after
    assert latest.after["limits"] == second.limits
    assert latest.at_ms >= earliest.at_ms > START_MS
    assert await storage.audit("acme", limit=1) == [latest]


async def test_configuring_touches_no_counter(storage: Storage) -> None:
    stream = Stream()
    await storage.create_workspace("acme", UNLIMITED, actor="test")
    await storage.apply([stream.record("e1", 5), stream.hold("r1", 3)])
    before = await storage.workspace("acme")
    await storage.configure_workspace("acme", lambda _: SETTINGS, initial=UNLIMITED, actor="test")
    after = await storage.workspace("acme")
    assert before is not None
    assert after == replace(before, settings=SETTINGS, revision=2)


async def test_a_change_that_is_refused_leaves_no_trace(storage: Storage) -> None:
    def refuse(_: WorkspaceSettings) -> WorkspaceSettings:
        raise InvalidRequest("no such thing", field="budget_limits")

    with pytest.raises(InvalidRequest):
        await storage.configure_workspace("acme", refuse, initial=SETTINGS, actor="test")
    assert await storage.workspace("acme") is None
    assert await storage.workspaces() == []
    assert await storage.audit("acme") == []


async def test_no_change_is_lost_between_two_storages(storage: Storage, store_url: str) -> None:
    def raise_by_one(settings: WorkspaceSettings) -> WorkspaceSettings:
        hourly = settings.limits["hourly"] or 0
        return replace(settings, limits={**settings.limits, "hourly": hourly + 1})

    async with Storage(store_url) as other:
        answers = await asyncio.gather(
            *(
                each.configure_workspace("acme", raise_by_one, initial=UNLIMITED, actor="test")
                for each in [storage, other] * 20
            )
        )
    assert sorted(revision for _, revision in answers) == list(range(1, 41))
    workspace = await storage.workspace("acme")
    assert workspace is not None
    assert workspace.settings.limits["hourly"] == 40
    assert len(await storage.audit("acme")) == 40


async def test_workspaces_are_listed_page_by_page(storage: Storage) -> None:
    names = ["A", "Z", "a", "b-1", "b.1", "b_1", "z"]
    for name in reversed(names):
        await storage.create_workspace(name, UNLIMITED, actor="test")
    listed: list[str] = []
    while page := await storage.workspaces(listed[-1] if listed else None, limit=2):
        assert len(page) <= 2
        listed += page
    assert listed == sorted(names)


# --------------------------------------------------------------------------- chats


@pytest.fixture
async def acme(storage: Storage) -> Storage:
    await storage.create_workspace("acme", UNLIMITED, actor="test")
    return storage


async def test_a_chat_is_created_and_its_limit_changed(acme: Storage) -> None:
    root = await acme.configure_chat("acme", "root", limit_micros=9, actor="ann")
    assert (root.parent_chat_id, root.root_chat_id, root.depth) == (None, "root", 1)
    assert (root.limit_micros, root.revision) == (9, 1)
    leaf = await acme.configure_chat("acme", "leaf", parent_chat_id="root", actor="bob")
    assert (leaf.parent_chat_id, leaf.root_chat_id, leaf.depth) == ("root", "root", 2)
    assert leaf.limit_micros is None
    for revision, limit in enumerate([5, 7, None], start=2):
        leaf = await acme.configure_chat("acme", "leaf", limit_micros=limit, actor="bob")
        assert (leaf.limit_micros, leaf.revision) == (limit, revision)
        assert leaf == await chat_of(acme, "leaf")
    # The parent may be named again, and what is not named stays.
    again = await acme.configure_chat("acme", "root", parent_chat_id=None, actor="ann")
    assert (again.limit_micros, again.revision) == (9, 2)


async def test_a_chats_spend_outlasts_its_configuration(acme: Storage) -> None:
    stream = Stream()
    await acme.apply(
        [stream.chat("c1"), stream.record("e1", 5, chat="c1"), stream.hold("r", 3, chat="c1")]
    )
    chat = await acme.configure_chat("acme", "c1", limit_micros=4, actor="test")
    assert (chat.spent_micros, chat.own_spent_micros, chat.held_micros) == (5, 5, 3)
    assert await acme.drift("acme") == []


async def test_changes_of_chats_are_audited(acme: Storage) -> None:
    await acme.configure_chat("acme", "c1", limit_micros=4, actor="ann")
    await acme.configure_chat("acme", "c1", limit_micros=None, actor="bob")
    latest, earliest, _ = await acme.audit("acme")
    assert (latest.chat_id, latest.actor, earliest.before) == ("c1", "bob", None)
    assert latest.before == earliest.after == {"parent_chat_id": None, "limit_micros": 4}
    assert latest.after == {"parent_chat_id": None, "limit_micros": None}


async def test_trees_stay_trees(acme: Storage) -> None:
    await acme.configure_chat("acme", "a", actor="test")
    await acme.configure_chat("acme", "b", parent_chat_id="a", actor="test")
    refused = [
        ("b", None, ChatParentImmutable),
        ("a", "b", ChatParentImmutable),
        ("c", "none", ChatParentUnknown),
        ("c", "c", ChatCycle),
    ]
    for chat_id, parent, error in refused:
        with pytest.raises(error):
            await acme.configure_chat("acme", chat_id, parent_chat_id=parent, actor="test")
    assert await acme.chat("acme", "c") is None
    assert len(await acme.audit("acme")) == 3


async def test_a_tree_has_a_depth(acme: Storage) -> None:
    parent = None
    for depth in range(1, DEPTH_MAX + 1):
        chat = await acme.configure_chat("acme", f"c{depth}", parent_chat_id=parent, actor="test")
        assert chat.depth == depth
        parent = chat.chat_id
    with pytest.raises(ChatTooDeep):
        await acme.configure_chat("acme", "deeper", parent_chat_id=parent, actor="test")


async def test_a_chat_needs_its_workspace(storage: Storage) -> None:
    with pytest.raises(WorkspaceNotFound):
        await storage.configure_chat("acme", "c1", actor="test")


async def test_a_parent_can_be_given_to_a_chat_that_only_has_spend(acme: Storage) -> None:
    stream = Stream()
    await acme.apply([stream.chat("root"), stream.record("e1", 5, chat="c1")])
    chat = await acme.configure_chat("acme", "c1", parent_chat_id="root", actor="test")
    assert (chat.depth, chat.spent_micros) == (2, 5)
    assert (await chat_of(acme, "root")).spent_micros == 5
    await acme.apply([stream.record("e2", 5, chat="c2")])
    await acme.configure_chat("acme", "c3", parent_chat_id="c2", actor="test")
    with pytest.raises(ChatCycle):
        await acme.configure_chat("acme", "c2", parent_chat_id="c3", actor="test")
    assert await acme.drift("acme") == []
