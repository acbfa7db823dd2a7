"""The process that keeps looks for drift by itself, and goes on after outages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from limiter import driftwatch
from limiter.metrics import Metrics
from limiter.models import RecordRequest
from limiter.runtime import Parts, open_running
from limiter.settings import load_settings
from tests.faults.scene import QUICK, WORKSPACE, eventually
from tests.metrics.scrape import Watch
from tests.support.postgres import postgres_cluster
from tests.support.redis_process import RedisProcess

MICROS = "limiter_drift_micros"
EQUAL = "limiter_drift_checks_total{outcome=equal}"
DRIFTED = "limiter_drift_checks_total{outcome=drifted}"
AGE = "limiter_snapshot_age_seconds"


@asynccontextmanager
async def keeping(
    redis_url: str, metrics: Metrics, **settings: object
) -> AsyncIterator[tuple[Parts, Callable[[str], Awaitable[float]]]]:
    """One that keeps, with a charge; and what asks a metric of it."""
    watch = Watch(metrics)

    async def value(name: str) -> float:
        return watch.now()[name]

    options = {**QUICK, "redis_url": redis_url, "drift_interval_ms": 1, **settings}
    async with open_running(load_settings(options), metrics=metrics) as parts:
        await parts.limiter.record(RecordRequest(workspace_id="acme", cost_micros=7))
        yield parts, value


async def grows(value: Callable[[str], Awaitable[float]], name: str) -> None:
    before = await value(name)
    assert await eventually(lambda: value(name), lambda now: now > before + 2) > before + 2


async def fails(value: Callable[[str], Awaitable[float]]) -> None:
    """Passes do not succeed for a while."""
    assert await eventually(lambda: value(AGE), lambda seconds: seconds > 0.5) > 0.5


async def test_what_was_changed_by_hand_shows_and_goes(
    redis_server: RedisProcess, metrics: Metrics, tmp_path: Path
) -> None:
    async with keeping(redis_server.url, metrics, data_dir=tmp_path) as (_, value):
        await grows(value, EQUAL)
        redis_server.client.hincrby(WORKSPACE, "spent.hourly", 13)
        assert await eventually(lambda: value(MICROS), bool) == 13
        redis_server.client.hincrby(WORKSPACE, "spent.hourly", -13)
        assert await eventually(lambda: value(MICROS), lambda micros: micros == 0) == 0
        await grows(value, EQUAL)


async def test_redis_that_was_away_is_waited_out(
    redis_server: RedisProcess,
    metrics: Metrics,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with keeping(redis_server.url, metrics, data_dir=tmp_path) as (_, value):
        await grows(value, EQUAL)
        redis_server.kill()
        await fails(value)
        redis_server.start()
        await grows(value, EQUAL)
        assert await value(DRIFTED) == 0
    assert [each for each in caplog.records if each.name == driftwatch.__name__] == []


async def test_a_store_that_was_away_is_waited_out(
    redis_server: RedisProcess, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    with postgres_cluster() as cluster:
        url = cluster.create_database()
        async with keeping(redis_server.url, metrics, database_url=url) as (parts, value):
            await grows(value, EQUAL)
            await asyncio.to_thread(cluster.stop)
            await parts.limiter.record(RecordRequest(workspace_id="acme", cost_micros=7))
            await fails(value)
            await asyncio.to_thread(cluster.start)
            await grows(value, EQUAL)
            assert await value(DRIFTED) == 0
    assert [each for each in caplog.records if each.name == driftwatch.__name__] == []


async def test_what_redis_lost_is_loaded_again_and_never_drift(
    redis_server: RedisProcess, metrics: Metrics, tmp_path: Path
) -> None:
    async with keeping(redis_server.url, metrics, data_dir=tmp_path) as (parts, value):
        await grows(value, EQUAL)
        redis_server.kill()
        redis_server.wipe()
        redis_server.start()
        record = RecordRequest(workspace_id="acme", event_id="after", cost_micros=7)
        recorded = await eventually(
            lambda: parts.limiter.record(record), lambda recorded: not recorded.queued
        )
        assert not recorded.queued
        await grows(value, EQUAL)
        assert await value(DRIFTED) == 0


async def test_who_does_not_keep_does_not_look(
    redis_server: RedisProcess, metrics: Metrics, tmp_path: Path
) -> None:
    settings = load_settings({**QUICK, "redis_url": redis_server.url, "data_dir": tmp_path})
    async with open_running(settings, metrics=metrics, keeps=False) as parts:
        await parts.limiter.record(RecordRequest(workspace_id="acme", cost_micros=7))
        await parts.snapshot.run_once()
        assert Watch(metrics).now()[EQUAL] == 0


async def test_a_look_keeps_no_pass_waiting_and_closing_does_not_wait_for_it(
    redis_server: RedisProcess,
    metrics: Metrics,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = asyncio.Event()

    async def tick(_: driftwatch.DriftWatch) -> None:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(driftwatch.DriftWatch, "tick", tick)
    monkeypatch.setattr("limiter.runtime.STOP_MS_MAX", 20)
    async with keeping(redis_server.url, metrics, data_dir=tmp_path) as (_, value):
        await asyncio.wait_for(begun.wait(), 10)
        await grows(value, "limiter_snapshot_pass_duration_seconds_count")
    assert redis_server.client.xlen("lim:{0}:stream") == 0
