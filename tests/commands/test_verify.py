"""`limiter verify`: what is right is not suspected, and each counter that is wrong is named."""

from __future__ import annotations

import asyncio

import pytest
import redis
from sqlalchemy import create_engine, text

from limiter.commands.verify import verify
from limiter.comparing import CounterDrift
from limiter.durable.engine import parse_url
from limiter.models import RecordRequest
from limiter.periods import PERIOD_NAMES
from limiter.runtime import open_parts
from limiter.settings import Settings
from tests.commands.scene import CHATS, WORKSPACES, build, no_progress
from tests.support.keyspace import dump
from tests.support.redis_process import RedisProcess

WORKSPACE_KEY = "lim:{0}:acme:workspace"


@pytest.fixture
async def data(settings: Settings, redis_server: RedisProcess) -> redis.Redis:
    """The scene, with the latest of it still in the stream."""
    async with open_parts(settings) as parts:
        await build(parts.limiter)
    assert redis_server.client.xlen("lim:{0}:stream") > 0
    return redis_server.client


def execute(settings: Settings, statement: str) -> None:
    assert settings.database_url is not None
    engine = create_engine(parse_url(settings.database_url.get_secret_value()))
    with engine.begin() as connection:
        assert connection.execute(text(statement)).rowcount == 1
    engine.dispose()


async def drift(settings: Settings) -> list[CounterDrift]:
    verified = await verify(settings, no_progress)
    assert verified.unsettled == []
    return verified.drift


async def test_what_calls_have_made_has_no_drift(settings: Settings, data: redis.Redis) -> None:
    verified = await verify(settings, no_progress)
    assert (verified.drift, verified.unsettled) == ([], [])
    assert (verified.workspaces, verified.hot) == (len(WORKSPACES), len(WORKSPACES))
    assert verified.chats == len(WORKSPACES) * len(CHATS)
    # Four heads, a sum and the open bucket a period, three sums a chat; and what buckets closed
    # while the scene was being made.
    counters = 4 + 2 * len(PERIOD_NAMES) + 3 * len(CHATS)
    closed = sum(int(data.zcard(key)) for key in data.scan_iter("lim:*:workspace:*"))
    assert verified.counters == len(WORKSPACES) * counters + closed


async def test_it_changes_nothing_in_redis(settings: Settings, data: redis.Redis) -> None:
    await verify(settings, no_progress)
    before = dump(data)
    await verify(settings, no_progress)
    assert dump(data) == before


async def test_a_cold_workspace_is_not_loaded(settings: Settings, data: redis.Redis) -> None:
    await verify(settings, no_progress)
    data.flushall()
    verified = await verify(settings, no_progress)
    assert (verified.workspaces, verified.hot, verified.drift) == (len(WORKSPACES), 0, [])
    assert data.keys("lim:*:acme:*") == []


@pytest.mark.parametrize(
    ("key", "field", "counter"),
    [
        *((WORKSPACE_KEY, f"spent.{name}", f"spent.{name}") for name in PERIOD_NAMES),
        (WORKSPACE_KEY, "held", "held"),
        (WORKSPACE_KEY, "unpriced", "unpriced"),
        (WORKSPACE_KEY, "seq", "seq"),
        ("lim:{0}:acme:chat:c2", "spent.lifetime", "chat c2 spent.lifetime"),
        ("lim:{0}:acme:chat:c2", "own", "chat c2 own"),
        ("lim:{0}:acme:chat:d1", "held", "chat d1 held"),
    ],
)
async def test_a_counter_of_redis_that_drifted_is_named(
    settings: Settings, data: redis.Redis, key: str, field: str, counter: str
) -> None:
    await verify(settings, no_progress)
    right = int(data.hget(key, field) or 0)
    data.hincrby(key, field, 3)
    assert await drift(settings) == [
        CounterDrift(
            workspace_id="acme", where="redis", counter=counter, found=right + 3, ledger=right
        )
    ]


async def test_a_bucket_of_redis_that_drifted_is_named(
    settings: Settings, data: redis.Redis
) -> None:
    data.zadd(f"{WORKSPACE_KEY}:weekly", {"84000000:5": 84_000_000})
    found = await drift(settings)
    assert [(one.counter, one.found, one.ledger) for one in found] == [
        ("weekly bucket 84000000", 5, 0)
    ]


async def test_an_entry_that_never_reached_the_ledger_is_noticed(
    settings: Settings, data: redis.Redis
) -> None:
    newest = data.execute_command("XREVRANGE", "lim:{0}:stream", "+", "-", "COUNT", 1)[0][0]
    data.execute_command("XDEL", "lim:{0}:stream", newest)
    found = {one.counter: one.found - one.ledger for one in await drift(settings)}
    assert found["seq"] == 1
    assert {found[f"spent.{name}"] for name in PERIOD_NAMES} == {1}


@pytest.mark.parametrize(
    ("statement", "counter", "difference"),
    [
        (
            "UPDATE chats SET spent_micros = 1122 WHERE workspace_id = 'zeta' AND chat_id = 'c1'",
            "chat c1 spent_micros",
            11,
        ),
        (
            "UPDATE chats SET held_micros = 52 WHERE workspace_id = 'zeta' AND chat_id = 'd1'",
            "chat d1 held_micros",
            2,
        ),
        (
            "UPDATE workspaces SET unpriced_records = 4 WHERE workspace_id = 'zeta'",
            "unpriced_records",
            4,
        ),
    ],
)
async def test_an_aggregate_that_drifted_is_named(
    settings: Settings, data: redis.Redis, statement: str, counter: str, difference: int
) -> None:
    await verify(settings, no_progress)
    execute(settings, statement)
    (found,) = await drift(settings)
    assert (found.workspace_id, found.where, found.counter) == ("zeta", "aggregates", counter)
    assert found.found - found.ledger == difference


async def test_a_ledger_row_that_changed_contradicts_both(
    settings: Settings, data: redis.Redis
) -> None:
    await verify(settings, no_progress)
    execute(
        settings,
        "UPDATE spend_events SET charged_micros = charged_micros + 1"
        " WHERE workspace_id = 'acme' AND event_id = 'e0'",
    )
    found = await drift(settings)
    assert {one.where for one in found} == {"aggregates", "redis"}
    assert {"spent.hourly", "chat c1 own"} <= {one.counter for one in found}
    assert {one.found - one.ledger for one in found} == {-1}


async def test_calls_that_go_on_are_not_taken_for_drift(
    settings: Settings, data: redis.Redis
) -> None:
    async with open_parts(settings) as parts:
        done = asyncio.Event()

        async def load() -> int:
            sent = 0
            while not done.is_set() and sent < 3_000:
                await parts.limiter.record(
                    RecordRequest(workspace_id="acme", chat_id="c3", cost_micros=1)
                )
                sent += 1
            return sent

        calls = asyncio.create_task(load())
        try:
            for _ in range(2):
                assert (await verify(settings, no_progress)).drift == []
        finally:
            done.set()
        assert await calls > 0
    assert await drift(settings) == []


async def test_records_that_wait_for_redis_are_brought_first(
    settings: Settings, data: redis.Redis, redis_server: RedisProcess
) -> None:
    await verify(settings, no_progress)
    redis_server.kill()
    limits = settings.model_copy(update={"redis_deadline_ms": 500})
    redis_server.start()
    async with open_parts(limits) as parts:
        redis_server.kill()
        answer = await parts.limiter.record(
            RecordRequest(workspace_id="acme", chat_id="c3", event_id="queued", cost_micros=40)
        )
        assert answer.queued
    redis_server.start()
    assert await drift(settings) == []
    assert int(data.hget(WORKSPACE_KEY, "spent.hourly") or 0) == 1_155
