"""The metrics of drift: what is right is never suspected, and what is wrong is counted exactly."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis

from limiter import driftwatch
from limiter.driftwatch import DriftWatch
from limiter.errors import RedisUnavailable, StoreUnavailable
from limiter.metrics import Metrics
from limiter.models import CheckRequest, RecordRequest
from limiter.periods import PERIOD_NAMES
from limiter.runtime import Parts
from tests.commands.scene import WORKSPACES, build
from tests.faults.scene import eventually
from tests.metrics.scrape import Watch
from tests.support.redis_process import RedisProcess

ACME = "lim:{0}:acme:workspace"
MICROS = "limiter_drift_micros"
EQUAL, DRIFTED, UNSETTLED = (
    f"limiter_drift_checks_total{{outcome={outcome}}}"
    for outcome in ("equal", "drifted", "unsettled")
)


@pytest.fixture
def options(store_url: str) -> dict[str, Any]:
    return {"database_url": store_url}


@pytest.fixture
async def data(parts: Parts, redis_server: RedisProcess) -> redis.Redis:
    """Two workspaces with chats, holds and spend, all of it durable."""
    await build(parts.limiter)
    await parts.snapshot.run_once()
    return redis_server.client


async def go_round(parts: Parts, ticks: int = 8) -> None:
    """As the keeper does: a pass, and a look after it. Both workspaces have their turns."""
    for _ in range(ticks):
        await parts.snapshot.run_once()
        parts.drift_watch.pass_made()
        await parts.drift_watch.tick()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == driftwatch.__name__]


async def test_what_calls_have_made_is_equal(
    parts: Parts, watch: Watch, data: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    watch.changed()
    await go_round(parts, 2 * len(WORKSPACES))
    assert watch.changed() == {EQUAL: 2 * len(WORKSPACES)}
    assert watch.now()[MICROS] == 0
    assert warnings(caplog) == []


@pytest.mark.parametrize(
    ("key", "field", "counter"),
    [
        *((ACME, f"spent.{name}", f"spent.{name}") for name in PERIOD_NAMES),
        (ACME, "held", "held"),
        ("lim:{0}:acme:chat:c2", "spent.lifetime", "chat c2 spent.lifetime"),
        ("lim:{0}:acme:chat:c2", "own", "chat c2 own"),
        ("lim:{0}:acme:chat:d1", "held", "chat d1 held"),
    ],
)
async def test_a_counter_that_was_changed_shows_to_the_micro_until_it_is_right_again(
    parts: Parts,
    watch: Watch,
    data: redis.Redis,
    caplog: pytest.LogCaptureFixture,
    key: str,
    field: str,
    counter: str,
) -> None:
    right = int(data.hget(key, field) or 0)
    data.hincrby(key, field, 13)
    watch.changed()
    await go_round(parts)
    changed = watch.changed()
    assert changed.pop(DRIFTED) > 1
    assert changed == {EQUAL: changed[EQUAL], MICROS: 13}
    # Said once, however often it is seen.
    (said,) = warnings(caplog)
    assert said == (
        f"workspace acme: {counter} is {right + 13} in Redis and {right} in durable storage; "
        "other counters that differ: 0"
    )
    data.hincrby(key, field, -13)
    await go_round(parts)
    changed = watch.changed()
    assert changed == {EQUAL: changed[EQUAL], MICROS: -13}


async def test_differences_of_all_workspaces_are_added_without_their_signs(
    parts: Parts, watch: Watch, data: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    data.hincrby(ACME, "spent.hourly", -5)
    data.hincrby("lim:{0}:acme:chat:c1", "own", 20)
    data.hincrby("lim:{0}:zeta:workspace", "spent.daily", 300)
    data.zadd("lim:{0}:zeta:workspace:weekly", {"84000000:4000": 84_000_000})
    await go_round(parts, 12)
    assert watch.now()[MICROS] == 4_325
    lines = warnings(caplog)
    assert [line.partition("; ")[2] for line in lines] == ["other counters that differ: 1"] * 2
    # What comes to it is said, too.
    data.hincrby(ACME, "spent.hourly", 1)
    await go_round(parts, 12)
    assert watch.now()[MICROS] == 4_324
    assert len(warnings(caplog)) == 3


async def test_a_number_that_is_wrong_is_drift_of_no_amount(
    parts: Parts, watch: Watch, data: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    data.hincrby(ACME, "unpriced", 2)
    await go_round(parts)
    assert watch.now()[MICROS] == 0
    assert watch.now()[DRIFTED] > 0
    assert "unpriced is 2 in Redis and 0 in durable storage" in caplog.text


async def test_an_entry_that_never_reached_the_ledger_is_drift(
    parts: Parts, watch: Watch, data: redis.Redis
) -> None:
    await parts.limiter.record(RecordRequest(workspace_id="acme", cost_micros=9))
    data.execute_command("XTRIM", "lim:{0}:stream", "MAXLEN", 0)
    await go_round(parts)
    # It is missing in each window, and in a bucket of each.
    assert watch.now()[MICROS] == 9 * 2 * len(PERIOD_NAMES)


async def test_what_the_next_pass_puts_right_is_no_drift(
    parts: Parts, watch: Watch, data: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    for field in ("spent.hourly", "spent.daily"):
        data.hincrby(ACME, field, 13)
        await go_round(parts, 2)
        data.hincrby(ACME, field, -13)
        await go_round(parts)
    # Nor are differences that are others each time, as those of what is on its way.
    for micros in range(1, 20):
        data.hincrby(ACME, "spent.hourly", micros)
        await go_round(parts, 1)
    assert watch.now()[DRIFTED] == watch.now()[MICROS] == 0
    assert watch.now()[UNSETTLED] > 0
    assert warnings(caplog) == []


async def test_a_suspicion_waits_for_a_pass_that_began_after_it(
    parts: Parts, watch: Watch, data: redis.Redis
) -> None:
    data.hincrby(ACME, "spent.hourly", 13)
    for passes in range(3):
        assert watch.now()[DRIFTED] == 0
        for _ in range(5):
            await parts.drift_watch.tick()
        # The first of these may have begun before the look.
        if passes < 2:
            parts.drift_watch.pass_made()
    assert watch.now()[DRIFTED] > 0
    assert watch.now()[MICROS] == 13


@pytest.mark.parametrize(
    ("is_wrong", "rounds_max", "pause_ms"),
    # What is wrong is found between two calls, for which a slow machine needs some time.
    [(False, 40, 20), (True, 200, 100)],
)
async def test_calls_that_go_on_are_not_taken_for_drift(
    parts: Parts,
    watch: Watch,
    data: redis.Redis,
    is_wrong: bool,
    rounds_max: int,
    pause_ms: int,
) -> None:
    done = asyncio.Event()

    async def load(number: int) -> int:
        sent = 0
        while not done.is_set():
            sent += 1
            reservation_id = f"{number}-{sent}"
            await parts.limiter.check(
                CheckRequest(
                    workspace_id="acme",
                    chat_id="c3",
                    estimate_micros=5,
                    reservation_id=reservation_id,
                )
            )
            await parts.limiter.record(
                RecordRequest(workspace_id="acme", reservation_id=reservation_id, cost_micros=3)
            )
            await asyncio.sleep(pause_ms / 1_000)
        return sent

    if is_wrong:
        data.hincrby(ACME, "spent.monthly", 13)
    calls = [asyncio.create_task(load(number)) for number in range(2)]
    try:
        for _ in range(rounds_max):
            await go_round(parts, 1)
            if is_wrong and watch.now()[DRIFTED] > 0 < watch.now()[EQUAL]:
                break
    finally:
        done.set()
    assert sum(await asyncio.gather(*calls)) > 0
    now = watch.now()
    # The other one is at rest.
    assert now[EQUAL] > 0
    assert (now[DRIFTED] > 0) == is_wrong
    assert now[MICROS] == (13 if is_wrong else 0)
    await go_round(parts)
    assert watch.now()[MICROS] == (13 if is_wrong else 0)


async def test_what_waits_for_redis_is_not_drift(
    parts: Parts, watch: Watch, data: redis.Redis, redis_server: RedisProcess
) -> None:
    redis_server.kill()
    queued = RecordRequest(workspace_id="acme", chat_id="c3", event_id="queued", cost_micros=40)
    assert (await parts.limiter.record(queued)).queued
    watch.changed()
    for _ in range(3):
        parts.drift_watch.pass_made()
        with pytest.raises(RedisUnavailable):
            await parts.drift_watch.tick()
    redis_server.start()
    assert await eventually(lambda: parts.comparison.is_hot("acme"), bool)
    await go_round(parts)
    assert watch.now()[UNSETTLED] > 0
    await parts.limiter.bring_back()
    await go_round(parts)
    now = watch.now()
    assert (now[DRIFTED], now[MICROS]) == (0, 0)
    assert now[EQUAL] > 2


async def test_without_the_store_nothing_is_compared(
    parts: Parts, watch: Watch, data: redis.Redis
) -> None:
    await parts.storage.close()
    watch.changed()
    with pytest.raises(StoreUnavailable):
        await parts.drift_watch.tick()
    assert watch.changed() == {}


async def test_what_is_cold_is_passed_by_and_nothing_of_it_is_wrong(
    parts: Parts, watch: Watch, data: redis.Redis
) -> None:
    data.hincrby(ACME, "spent.hourly", 13)
    await go_round(parts)
    assert watch.now()[MICROS] == 13
    data.flushall()
    watch.changed()
    await go_round(parts)
    assert watch.changed() == {MICROS: -13}
    assert data.keys("lim:*:acme:*") == []


async def test_a_workspace_that_is_loaded_again_is_right_again(
    parts: Parts, watch: Watch, data: redis.Redis
) -> None:
    data.hincrby(ACME, "spent.hourly", 13)
    data.hincrby("lim:{0}:acme:chat:c2", "own", 13)
    await go_round(parts)
    assert watch.now()[MICROS] == 26
    await parts.redis.forget("acme")
    chat = await parts.limiter.chat_usage("acme", "c2")
    assert chat.own_spent_micros == 101
    watch.changed()
    await go_round(parts)
    changed = watch.changed()
    assert (changed[MICROS], DRIFTED in changed) == (-26, False)


async def test_a_workspace_with_many_chats_is_compared_part_by_part(
    parts: Parts, watch: Watch, data: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driftwatch, "CHATS_PER_TICK", 1)
    for number, chat_id in enumerate(("c1", "c3", "d1")):
        data.hincrby(f"lim:{{0}}:acme:chat:{chat_id}", "own", 10**number)
    data.hincrby(ACME, "held", 1_000)
    await go_round(parts, 40)
    assert watch.now()[MICROS] == 1_111
    data.hincrby("lim:{0}:acme:chat:c3", "own", -10)
    data.hincrby(ACME, "held", -1_000)
    await go_round(parts, 40)
    assert watch.now()[MICROS] == 101


async def test_the_rest_of_a_workspace_that_became_cold_is_passed_by(
    parts: Parts, watch: Watch, data: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driftwatch, "CHATS_PER_TICK", 1)
    watch.changed()
    await go_round(parts, 1)
    await parts.redis.forget("acme")
    await go_round(parts, 2)
    # One of acme, and one of zeta.
    assert watch.changed() == {EQUAL: 2}


async def test_what_is_remembered_is_bounded(
    parts: Parts, watch: Watch, data: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driftwatch, "COUNTERS_MAX", 3)
    for name in PERIOD_NAMES:
        for workspace_id in WORKSPACES:
            data.hincrby(f"lim:{{0}}:{workspace_id}:workspace", f"spent.{name}", 10)
    await go_round(parts, 12)
    assert watch.now()[MICROS] == 30
    for name in PERIOD_NAMES:
        for workspace_id in WORKSPACES:
            data.hincrby(f"lim:{{0}}:{workspace_id}:workspace", f"spent.{name}", -10)
    await go_round(parts, 12)
    assert watch.now()[MICROS] == 0


async def test_somebody_elses_key_does_not_end_the_round(
    parts: Parts, watch: Watch, data: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    data.delete(ACME)
    data.set(ACME, "mine")
    watch.changed()
    await go_round(parts, 4)
    assert watch.changed()[EQUAL] > 1
    assert "workspace acme cannot be compared: " in warnings(caplog)[0]


async def test_looks_are_paced_and_come_after_passes(
    parts: Parts, watch: Watch, data: redis.Redis
) -> None:
    now_s = 100.0
    paced = DriftWatch(
        parts.comparison,
        parts.storage,
        parts.metrics,
        interval_ms=1_000,
        pass_interval_ms=1_000,
        monotonic_s=lambda: now_s,
    )
    stopping = asyncio.Event()
    running = asyncio.create_task(paced.run(stopping))

    async def looks() -> float:
        return watch.now()[EQUAL]

    paced.pass_made()
    assert await eventually(looks, lambda equal: equal == 1) == 1
    now_s += 0.999
    paced.pass_made()
    for _ in range(10):
        await asyncio.sleep(0)
    now_s += 0.001
    assert watch.now()[EQUAL] == 1
    paced.pass_made()
    assert await eventually(looks, lambda equal: equal == 2) == 2
    stopping.set()
    paced.wake()
    await asyncio.wait_for(running, 10)
    assert watch.now()[EQUAL] == 2


@pytest.mark.parametrize(("pass_interval_ms", "makes_one"), [(60_000, True), (60_001, False)])
async def test_where_passes_are_rare_it_makes_none_of_its_own(
    parts: Parts, watch: Watch, data: redis.Redis, pass_interval_ms: int, makes_one: bool
) -> None:
    looking = DriftWatch(
        parts.comparison,
        parts.storage,
        parts.metrics,
        interval_ms=1_000,
        pass_interval_ms=pass_interval_ms,
    )
    await parts.limiter.record(RecordRequest(workspace_id="acme", cost_micros=7))
    watch.changed()
    await looking.tick()
    assert data.xlen("lim:{0}:stream") == (0 if makes_one else 1)
    assert (EQUAL if makes_one else UNSETTLED) in watch.changed()


async def test_it_can_be_switched_off(parts: Parts, metrics: Metrics, data: redis.Redis) -> None:
    off = DriftWatch(parts.comparison, parts.storage, metrics, interval_ms=0, pass_interval_ms=1)
    off.pass_made()
    await asyncio.wait_for(off.run(asyncio.Event()), 10)
    assert Watch(metrics).now()[EQUAL] == 0
