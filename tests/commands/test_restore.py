"""`limiter restore` and `limiter snapshot`: all comes back before its first call, and only once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
from sqlalchemy import Engine, event

from limiter.commands.restore import Restored, restore
from limiter.commands.snapshot import snapshot
from limiter.commands.verify import verify
from limiter.errors import WorkspaceNotFound
from limiter.models import RecordRequest
from limiter.redis.store import RedisStore
from limiter.runtime import open_parts
from limiter.settings import Settings
from limiter.stored import StoredWorkspace, WorkspaceSettings
from tests.commands.scene import CHATS, RECORDS, WORKSPACES, build, no_progress, usages
from tests.durable.stream import Stream
from tests.support.keyspace import dump
from tests.support.redis_process import RedisProcess

EVERYTHING = Restored(workspaces=len(WORKSPACES), chats=len(WORKSPACES) * len(CHATS))


async def test_a_snapshot_moves_all_there_is_and_says_how_much(
    settings: Settings, redis_server: RedisProcess
) -> None:
    async with open_parts(settings) as parts:
        await build(parts.limiter)
        rows = [row async for row in parts.storage.ledger_rows("zeta")]
        assert len(rows) < RECORDS
    waiting = redis_server.client.xlen("lim:{0}:stream")
    assert waiting > 0
    assert await snapshot(settings) == waiting
    assert redis_server.client.xlen("lim:{0}:stream") == 0
    assert await snapshot(settings) == 0
    async with open_parts(settings) as parts:
        rows = [row async for row in parts.storage.ledger_rows("zeta")]
        assert len(rows) == RECORDS


async def test_after_a_flush_every_scope_is_there_again_as_it_was(
    settings: Settings, redis_server: RedisProcess
) -> None:
    async with open_parts(settings) as parts:
        await build(parts.limiter)
        before = await usages(parts.limiter)
    await snapshot(settings)
    redis_server.client.flushall()
    steps: list[tuple[int, int]] = []
    restored = await restore(settings, lambda done, total: steps.append((done, total)))
    assert restored == EVERYTHING
    assert steps == [(1, 2), (2, 2)]
    # All of it is there: asking loads nothing more.
    keys = set(redis_server.client.keys("lim:{0}:*:workspace")) | set(
        redis_server.client.keys("lim:{0}:*:chat:*")
    )
    assert len(keys) == EVERYTHING.workspaces + EVERYTHING.chats
    async with open_parts(settings) as parts:
        assert await usages(parts.limiter) == before
    verified = await verify(settings, no_progress)
    assert (verified.drift, verified.unsettled) == ([], [])
    assert (verified.hot, verified.chats) == (EVERYTHING.workspaces, EVERYTHING.chats)


async def test_what_is_there_stays_as_it_is(settings: Settings, redis_server: RedisProcess) -> None:
    async with open_parts(settings) as parts:
        await build(parts.limiter)
    await snapshot(settings)
    before = dump(redis_server.client)
    assert await restore(settings, no_progress) == EVERYTHING
    assert dump(redis_server.client) == before


async def test_a_workspace_that_redis_lost_a_part_of_is_loaded_anew(
    settings: Settings, redis_server: RedisProcess
) -> None:
    async with open_parts(settings) as parts:
        await build(parts.limiter)
        before = await usages(parts.limiter)
    await snapshot(settings)
    key = "lim:{0}:acme:workspace"
    redis_server.client.hincrby(key, "seq", -1)
    redis_server.client.hincrby(key, "spent.daily", -1)
    await restore(settings, no_progress)
    async with open_parts(settings) as parts:
        assert await usages(parts.limiter) == before


async def test_calls_may_go_on_while_it_restores(
    settings: Settings, redis_server: RedisProcess
) -> None:
    async with open_parts(settings) as parts:
        await build(parts.limiter)
        await parts.snapshot.run_once()
        redis_server.client.flushall()
        calls = [
            parts.limiter.record(RecordRequest(workspace_id=name, chat_id=chat_id, cost_micros=1))
            for name in WORKSPACES
            for chat_id in CHATS
            for _ in range(25)
        ]
        await asyncio.gather(restore(settings, no_progress), *calls)
        usage = await parts.limiter.usage("acme")
        assert usage.periods["daily"].spent_micros == 1_115 + 25 * len(CHATS)
    verified = await verify(settings, no_progress)
    assert (verified.drift, verified.unsettled) == ([], [])


@pytest.mark.parametrize("count", [250])
async def test_many_workspaces_and_more_chats_than_a_page(
    settings: Settings, redis_server: RedisProcess, count: int
) -> None:
    async with open_parts(settings) as parts:
        for number in range(count):
            await parts.storage.create_workspace(
                f"ws-{number}", WorkspaceSettings(limits={"hourly": 5}), actor="test"
            )
            await parts.storage.configure_chat("ws-0", f"c{number}", actor="test")
    assert await restore(settings, no_progress) == Restored(workspaces=count, chats=count)
    assert len(redis_server.client.keys("lim:{0}:*:workspace")) == count
    assert len(redis_server.client.keys("lim:{0}:ws-0:chat:*")) == count


@contextmanager
def statements() -> Iterator[list[str]]:
    """Whatever is asked of a store meanwhile."""
    seen: list[str] = []

    def note(_c: object, _k: object, statement: str, *_: object) -> None:
        seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def meanwhile(monkeypatch: pytest.MonkeyPatch, work: Callable[[], Awaitable[object]]) -> None:
    """Runs `work` once, when a workspace was read and Redis does not have it yet."""
    real, left = RedisStore.load_workspace, [work]

    async def load(store: RedisStore, workspace_id: str, stored: StoredWorkspace) -> None:
        while left:
            await left.pop()()
        await real(store, workspace_id, stored)

    monkeypatch.setattr(RedisStore, "load_workspace", load)


async def test_the_rows_of_a_workspace_are_read_once(
    settings: Settings, redis_server: RedisProcess
) -> None:
    async with open_parts(settings) as parts:
        await build(parts.limiter)
        await parts.snapshot.run_once()
    redis_server.client.flushall()
    with statements() as seen:
        assert await restore(settings, no_progress) == EVERYTHING
    # Chats fit a page, and there is no second one.
    for table in ("window_buckets", "budget_limits", "reservations", "chats"):
        reads = [statement for statement in seen if f"FROM {table}" in statement]
        assert len(reads) == len(WORKSPACES), table


async def test_a_workspace_that_nobody_configured_costs_one_statement(
    settings: Settings, redis_server: RedisProcess
) -> None:
    async with open_parts(settings) as parts:
        with statements() as seen, pytest.raises(WorkspaceNotFound):
            await parts.limiter.usage("acme")
    assert len([statement for statement in seen if "FROM" in statement]) == 1


async def test_what_is_committed_while_a_workspace_is_loaded_counts(
    settings: Settings, redis_server: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_parts(settings) as parts:
        await build(parts.limiter)
        await parts.snapshot.run_once()
        before = (await parts.limiter.usage("acme")).periods["daily"].spent_micros
        head = await parts.storage.workspace_head("acme")
        assert head is not None
        redis_server.client.flushall()
        seconds, micros = redis_server.client.time()
        at_ms = seconds * 1_000 + micros // 1_000
        entry = Stream(seq=head[0], at_ms=at_ms, stream_ms=at_ms).record("meanwhile", 800)
        meanwhile(monkeypatch, lambda: parts.storage.apply([entry]))
        usage = await parts.limiter.usage("acme")
        assert usage.periods["daily"].spent_micros == before + 800


async def test_what_is_configured_while_a_workspace_is_loaded_counts(
    settings: Settings, redis_server: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    latest = WorkspaceSettings(limits={"hourly": 77})
    async with open_parts(settings) as parts:
        await build(parts.limiter)
        await parts.snapshot.run_once()
        redis_server.client.flushall()
        configure = partial(
            parts.storage.configure_workspace,
            "acme",
            lambda _: latest,
            initial=latest,
            actor="test",
        )
        meanwhile(monkeypatch, configure)
        usage = await parts.limiter.usage("acme")
        assert usage.periods["hourly"].limit_micros == 77
