"""Idle workspaces leave Redis and come back with every counter; leftovers go, hot scopes stay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from limiter.commands.verify import verify
from limiter.models import CheckRequest, RecordRequest, ReleaseRequest
from limiter.runtime import Parts, open_parts
from limiter.settings import Settings
from limiter.upkeep import PRUNE_PAUSE_S, WALK_PAUSE_S_MAX
from tests.commands.scene import CHATS, WORKSPACES, build, no_progress, usages
from tests.support.redis_process import RedisProcess
from tests.support.service import running_service
from tests.support.waiting import eventually

STEPS_MAX = 1_000


@pytest.fixture
def idle_settings(settings: Settings) -> Settings:
    """Whatever has no hold is idle as soon as the clock has gone on by a millisecond."""
    return settings.model_copy(update={"idle_workspace_ms": 1})


def clock_ms(client: redis.Redis) -> int:
    seconds, micros = client.time()
    return int(seconds) * 1_000 + int(micros) // 1_000


async def walk(parts: Parts, client: redis.Redis) -> None:
    """One walk over Redis, begun when all that was done so far is a millisecond ago."""
    began = clock_ms(client)
    eventually(lambda: clock_ms(client), lambda now: now > began + 1)
    for _ in range(STEPS_MAX):
        if await parts.upkeep.step():
            return
    raise AssertionError("the walk does not end")


async def end_holds(parts: Parts) -> None:
    for workspace_id in WORKSPACES:
        for reservation_id in ("r0", "r1"):
            await parts.limiter.release(
                ReleaseRequest(workspace_id=workspace_id, reservation_id=reservation_id)
            )


def names(client: redis.Redis, pattern: str) -> set[str]:
    return {str(key, "ascii") for key in client.keys(pattern) if isinstance(key, bytes)}


async def test_a_workspace_that_holds_something_stays(
    idle_settings: Settings, redis_server: RedisProcess
) -> None:
    async with open_parts(idle_settings) as parts:
        await build(parts.limiter)
        await walk(parts, redis_server.client)
    assert len(names(redis_server.client, "*:workspace")) == len(WORKSPACES)


async def test_an_idle_workspace_leaves_and_comes_back_with_every_counter(
    idle_settings: Settings, redis_server: RedisProcess
) -> None:
    client = redis_server.client
    async with open_parts(idle_settings) as parts:
        await build(parts.limiter)
        await end_holds(parts)
        before = await usages(parts.limiter)
        await walk(parts, redis_server.client)
        assert names(client, "*:workspace*") == set()
        await walk(parts, redis_server.client)
        assert names(client, "*:chat:*") | names(client, "*:source:*") == set()
        assert await usages(parts.limiter) == before
        # The reporter's total was not forgotten, either.
        report = RecordRequest(workspace_id="acme", cumulative_micros=10, source="worker")
        assert (await parts.limiter.record(report)).charged_micros == 7
    verified = await verify(idle_settings, no_progress)
    assert (verified.drift, verified.unsettled) == ([], [])
    assert verified.hot == len(WORKSPACES)


async def test_what_is_not_durable_yet_becomes_so_before_a_workspace_leaves(
    idle_settings: Settings, redis_server: RedisProcess
) -> None:
    async with open_parts(idle_settings) as parts:
        await parts.limiter.record(RecordRequest(workspace_id="acme", cost_micros=9))
        assert redis_server.client.xlen("lim:{0}:stream") > 0
        await walk(parts, redis_server.client)
        assert names(redis_server.client, "*:workspace*") == set()
        assert [row.charged_micros async for row in parts.storage.ledger_rows("acme")] == [9]


async def test_a_workspace_that_was_just_called_stays(
    settings: Settings, redis_server: RedisProcess
) -> None:
    patient = settings.model_copy(update={"idle_workspace_ms": 3_600_000})
    async with open_parts(patient) as parts:
        await build(parts.limiter)
        await end_holds(parts)
        await walk(parts, redis_server.client)
    assert len(names(redis_server.client, "*:workspace")) == len(WORKSPACES)
    assert len(names(redis_server.client, "*:chat:*")) == len(WORKSPACES) * len(CHATS)


async def test_a_sweep_leaves_hot_chats_and_other_peoples_keys_alone(
    settings: Settings, redis_server: RedisProcess
) -> None:
    """acme is forgotten and loaded again with one chat only; zeta was never forgotten."""
    client = redis_server.client
    async with open_parts(settings) as parts:
        await build(parts.limiter)
        await parts.snapshot.run_once()
        await parts.redis.forget("acme")
        await parts.limiter.check(CheckRequest(workspace_id="acme", chat_id="d1"))
        client.set("lim:{0}:acme:chat:stray", "a text")
        client.set("lim:{0}:acme:unheard-of", "a text")
        before = names(client, "*")
        await walk(parts, redis_server.client)
        # A key of another type under a chat's name ends the sweep of its workspace, and no other.
        assert names(client, "*") == before
        client.delete("lim:{0}:acme:chat:stray")
        await walk(parts, redis_server.client)
    gone = {f"lim:{{0}}:acme:chat:c{number}" for number in (1, 2, 3)}
    gone |= {"lim:{0}:acme:source:worker"}
    assert before - names(client, "*") == gone | {"lim:{0}:acme:chat:stray"}


async def test_what_a_sweep_was_about_to_remove_may_be_loaded_meanwhile(
    settings: Settings, redis_server: RedisProcess
) -> None:
    """The script looks at epochs itself: what the walk saw may be of yesterday."""
    client = redis_server.client
    async with open_parts(settings) as parts:
        await build(parts.limiter)
        await parts.snapshot.run_once()
        before = await usages(parts.limiter)
        await parts.redis.forget("acme")
        seen = sorted(names(client, "lim:{0}:acme:chat:*"))
        assert await usages(parts.limiter) == before  # loads all of them again
        assert await parts.redis.sweep("acme", seen) == 0
        assert names(client, "lim:{0}:acme:chat:*") == set(seen)
        await parts.redis.forget("acme")
        assert await parts.redis.sweep("acme", seen) == len(seen)


async def test_a_walk_over_more_keys_than_a_step(
    idle_settings: Settings, redis_server: RedisProcess
) -> None:
    client = redis_server.client
    async with open_parts(idle_settings) as parts:
        for number in range(3_000):
            client.hset(f"lim:{{0}}:gone-{number % 7}:chat:c{number}", "epoch", 1)
        await walk(parts, redis_server.client)
        assert names(client, "lim:*") == set()


async def test_upkeep_is_paced(
    settings: Settings, redis_server: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle = settings.model_copy(update={"idle_workspace_ms": 3_600_000})
    async with open_parts(idle) as parts:
        clock = [1_000.0]
        calls: list[str] = []
        left = [5, 5, 0, 0, 0]

        def counting(name: str, answers: Callable[[], object]) -> Callable[..., object]:
            async def call(*_: object, **__: object) -> object:
                calls.append(name)
                return answers()

            return call

        paced = parts.upkeep
        monkeypatch.setattr(paced, "_monotonic_s", lambda: clock[0])
        monkeypatch.setattr(paced, "_prune_at", clock[0])
        monkeypatch.setattr(paced, "_walk_at", clock[0])
        monkeypatch.setattr(parts.storage, "prune", counting("prune", lambda: left.pop(0)))
        monkeypatch.setattr(paced, "step", counting("step", lambda: True))
        # A batch a tick until nothing is left, and one walk; then a pause of both.
        for _ in range(5):
            await paced.tick()
        assert calls == ["prune", "step", "prune", "prune"]
        clock[0] += PRUNE_PAUSE_S
        assert PRUNE_PAUSE_S == WALK_PAUSE_S_MAX
        await paced.tick()
        await paced.tick()
        assert calls[4:] == ["prune", "step"]


def test_a_running_service_lets_idle_workspaces_go(
    tmp_path: Path, store_url: str, redis_server: RedisProcess
) -> None:
    with running_service(
        tmp_path,
        redis_url=redis_server.url,
        database_url=store_url,
        snapshot_interval_ms=20,
        idle_workspace_ms=100,
    ) as service:
        service.post("/record", {"workspace_id": "acme", "chat_id": "c", "cost_micros": 60})
        before = service.get("/usage/workspaces/acme").body
        left = eventually(
            lambda: (
                names(redis_server.client, "lim:{0}:acme:workspace*")
                | names(redis_server.client, "lim:{0}:acme:chat:*")
            ),
            lambda found: not found,
        )
        assert left == set()
        after = service.get("/usage/workspaces/acme").body
        assert {**after, "at": None} == {**before, "at": None}
