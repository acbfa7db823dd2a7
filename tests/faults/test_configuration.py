"""A change of limits that is stored and that Redis was not told of comes into force by itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from limiter import Limiter, telling
from limiter.durable import Storage
from limiter.durable.engine import Database
from limiter.durable.revisions import Revisions
from limiter.errors import RedisUnavailable, StoreUnavailable
from limiter.models import ChatPatch, CheckRequest, WorkspacePatch
from limiter.redis.store import RedisStore
from limiter.runtime import Parts, open_parts
from limiter.settings import load_settings
from limiter.stored import StoredChat, StoredWorkspace, WorkspaceSettings
from tests.faults.configurer import LIMIT_MICROS, configurer
from tests.faults.scene import SCENE_MS_MAX, check, eventually, limit, limiter_on
from tests.support.redis_process import RedisProcess

OLD_MICROS = 1_000
ENDED_MS_MAX = 20_000


async def limit_in_force(limiter: Limiter, scope: str) -> int | None:
    """What Redis says that the limit is."""
    if scope == "workspace":
        return (await limiter.usage("acme")).periods["hourly"].limit_micros
    return (await limiter.chat_usage("acme", "c1")).limit_micros


@pytest.mark.parametrize("moment", ["killed", "frozen", "died"])
@pytest.mark.parametrize("scope", ["workspace", "chat"])
async def test_a_limit_that_redis_was_not_told_of_comes_into_force(
    redis_server: RedisProcess, store_url: str, scope: str, moment: str
) -> None:
    async with limiter_on(redis_server.url, store_url) as limiter:
        await limit(limiter, OLD_MICROS)
        await limiter.configure_chat("acme", "c1", ChatPatch(spend_limit_micros=OLD_MICROS))
        assert (await limiter.check(check(1, chat_id="c1"))).allowed

    info: Any = redis_server.client.info("server")
    with configurer(redis_server.url, store_url, scope, moment, int(info["process_id"])) as process:
        assert process.stdout is not None
        answer = await asyncio.to_thread(process.stdout.readline)
        # Nobody is left who knows that something is still to be told.
        process.kill()
        await asyncio.to_thread(process.wait, ENDED_MS_MAX / 1_000)
    assert answer.strip() == ("" if moment == "died" else "not_in_force_yet")
    if moment != "died":
        # Before it goes on, or it would read what was sent to it while it was frozen.
        redis_server.signal(signal.SIGKILL)
        redis_server.kill()
        redis_server.start()

    async with limiter_on(redis_server.url, store_url) as limiter:

        async def in_force() -> int | None:
            return await limit_in_force(limiter, scope)

        assert await eventually(in_force, lambda micros: micros != OLD_MICROS) == LIMIT_MICROS
        assert not (await limiter.check(check(LIMIT_MICROS + 1, chat_id="c1"))).allowed


@pytest.mark.parametrize("scope", ["workspace", "chat"])
async def test_a_limit_that_redis_was_told_of_and_lost_comes_into_force_again(
    redis_server: RedisProcess, store_url: str, tmp_path: Path, scope: str
) -> None:
    """Nothing was spent since, so that no number of an entry tells that something is missing."""
    async with limiter_on(redis_server.url, store_url) as limiter:
        await limit(limiter, OLD_MICROS)
        await limiter.configure_chat("acme", "c1", ChatPatch(spend_limit_micros=OLD_MICROS))
        assert (await limiter.check(check(0, chat_id="c1"))).allowed
    redis_server.kill()
    kept, old = tmp_path / "redis" / "appendonlydir", tmp_path / "old"
    shutil.copytree(kept, old)

    redis_server.start()
    async with limiter_on(redis_server.url, store_url) as limiter:
        if scope == "workspace":
            await limit(limiter, LIMIT_MICROS)
        else:
            patch = ChatPatch(spend_limit_micros=LIMIT_MICROS)
            await limiter.configure_chat("acme", "c1", patch)
        assert await limit_in_force(limiter, scope) == LIMIT_MICROS
    redis_server.kill()
    redis_server.wipe()
    shutil.copytree(old, kept)

    redis_server.start()
    async with limiter_on(redis_server.url, store_url) as limiter:

        async def in_force() -> int | None:
            return await limit_in_force(limiter, scope)

        assert await eventually(in_force, lambda micros: micros != OLD_MICROS) == LIMIT_MICROS


@contextlib.asynccontextmanager
async def parts_on(redis_server: RedisProcess, store_url: str) -> AsyncIterator[Parts]:
    """A limiter that does by itself only what it is called for."""
    settings = load_settings(
        {"redis_url": redis_server.url, "database_url": store_url, "redis_deadline_ms": 10_000}
    )
    async with asyncio.timeout(SCENE_MS_MAX / 1000), open_parts(settings) as parts:
        yield parts


async def store_limit(storage: Storage, workspace_id: str, hourly: int) -> None:
    """As a process does that dies before it tells Redis."""

    def change(settings: WorkspaceSettings) -> WorkspaceSettings:
        return WorkspaceSettings(limits={**settings.limits, "hourly": hourly})

    initial = WorkspaceSettings(limits={})
    await storage.configure_workspace(workspace_id, change, initial=initial, actor="test")


async def untold(storage: Storage) -> list[str | tuple[str, str]]:
    workspaces = await storage.revisions.untold_workspaces(None, 100)
    chats = await storage.revisions.untold_chats(None, 100)
    return [*(row.key for row in workspaces), *(row.key for row in chats)]


async def test_nothing_is_left_to_be_told_when_redis_answered(
    redis_server: RedisProcess, store_url: str
) -> None:
    """Neither of what is in Redis, nor of what is cold."""
    async with parts_on(redis_server, store_url) as parts:
        limiter = parts.limiter
        for _ in range(2):
            await limit(limiter, OLD_MICROS)
            await limiter.configure_chat("acme", "c1", ChatPatch(spend_limit_micros=OLD_MICROS))
            assert await untold(parts.storage) == []
            assert (await limiter.check(check(1, chat_id="c1"))).allowed
        # The first call of another one creates it, and a chat.
        assert (await limiter.check(CheckRequest(workspace_id="beta", chat_id="c1"))).allowed
        await parts.snapshot.run_once()
        assert await untold(parts.storage) == []
        assert await limiter.bring_into_force() == 0


async def test_a_change_takes_two_calls_to_durable_storage(
    redis_server: RedisProcess, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with parts_on(redis_server, store_url) as parts:
        await limit(parts.limiter, OLD_MICROS)
        calls: list[str] = []
        for name in ("read", "write"):
            method = getattr(Database, name)

            async def counted(self: Database, *args: Any, method: Any = method) -> Any:
                calls.append(method.__name__)
                return await method(self, *args)

            monkeypatch.setattr(Database, name, counted)
        await limit(parts.limiter, LIMIT_MICROS)
        assert calls == ["write", "write"]


async def test_a_change_that_cannot_be_noted_is_in_force_and_told_once_more(
    redis_server: RedisProcess,
    store_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(*_: object) -> None:
        raise StoreUnavailable("it is locked")

    async with parts_on(redis_server, store_url) as parts:
        await limit(parts.limiter, OLD_MICROS)
        assert (await parts.limiter.check(check(1))).allowed
        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
            patch.setattr(Revisions, "note_workspaces", fail)
            await limit(parts.limiter, LIMIT_MICROS)
        assert "it is locked" in caplog.text
        assert await limit_in_force(parts.limiter, "workspace") == LIMIT_MICROS
        assert await untold(parts.storage) == ["acme"]
        assert await parts.limiter.bring_into_force() == 1
        assert await untold(parts.storage) == []


async def test_what_cannot_be_told_keeps_no_other_waiting(
    redis_server: RedisProcess, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Foreign keys stand in the way of the first page, and of more than are told at once."""
    monkeypatch.setattr(telling, "PAGE_ROWS", 3)
    monkeypatch.setattr(telling, "TOLD_AT_ONCE_MAX", 2)
    blocked, others = [f"a{number}" for number in range(4)], ["b1", "b2"]
    async with parts_on(redis_server, store_url) as parts:
        for name in [*blocked, *others]:
            await parts.limiter.configure(name, WorkspacePatch(budget_limits={"hourly": 1}))
            await parts.limiter.usage(name)
            await store_limit(parts.storage, name, LIMIT_MICROS)
        for name in blocked:
            redis_server.client.delete(f"lim:{{0}}:{name}:workspace")
            redis_server.client.set(f"lim:{{0}}:{name}:workspace", "foreign")
        told = [await parts.limiter.bring_into_force() for _ in range(3)]
        assert sum(told) == len(others)
        for name in others:
            usage = await parts.limiter.usage(name)
            assert usage.periods["hourly"].limit_micros == LIMIT_MICROS
        assert await untold(parts.storage) == blocked
        for name in blocked:
            redis_server.client.delete(f"lim:{{0}}:{name}:workspace")
        told = [await parts.limiter.bring_into_force() for _ in range(4)]
        assert sum(told) == len(blocked)
        assert await untold(parts.storage) == []


@pytest.mark.parametrize("scope", ["workspace", "chat"])
@pytest.mark.parametrize("goes_away", [False, True])
async def test_a_change_between_the_read_and_the_load_of_a_cold_scope_comes_into_force(
    redis_server: RedisProcess,
    store_url: str,
    scope: str,
    goes_away: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who changes it finds it cold, and is done; who loads it has read what was before."""
    load_workspace, load_chat = RedisStore.load_workspace, RedisStore.load_chat
    is_loaded = False

    async def late_workspace(self: RedisStore, name: str, stored: StoredWorkspace) -> None:
        nonlocal is_loaded
        if scope == "workspace":
            await limit(parts.limiter, LIMIT_MICROS)
        await load_workspace(self, name, stored)
        is_loaded = scope == "workspace"

    async def late_chat(self: RedisStore, name: str, stored: StoredChat, epoch: int) -> None:
        nonlocal is_loaded
        patch = ChatPatch(spend_limit_micros=LIMIT_MICROS)
        if scope == "chat":
            await parts.limiter.configure_chat("acme", "c1", patch)
        await load_chat(self, name, stored, epoch)
        is_loaded = scope == "chat"

    def failing(method: Any) -> Any:
        async def call(*args: Any) -> None:
            if goes_away and is_loaded:
                raise RedisUnavailable("it went away in between")
            await method(*args)

        return call

    async with parts_on(redis_server, store_url) as parts:
        await limit(parts.limiter, OLD_MICROS)
        patch = ChatPatch(spend_limit_micros=OLD_MICROS)
        await parts.limiter.configure_chat("acme", "c1", patch)
        with monkeypatch.context() as patched:
            patched.setattr(RedisStore, "load_workspace", late_workspace)
            patched.setattr(RedisStore, "load_chat", late_chat)
            for name in ("configure_workspace", "configure_chat"):
                patched.setattr(RedisStore, name, failing(getattr(RedisStore, name)))
            with contextlib.suppress(RedisUnavailable):
                await limit_in_force(parts.limiter, "chat")
        assert await parts.limiter.bring_into_force() == int(goes_away)
        assert await limit_in_force(parts.limiter, scope) == LIMIT_MICROS
        assert await untold(parts.storage) == []
