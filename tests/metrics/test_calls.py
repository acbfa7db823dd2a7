"""What checks, records and releases count: each by real calls, and nothing else changes."""

from __future__ import annotations

import pytest

from limiter.errors import IdReused, ReservationNotFound
from limiter.metrics import Metrics
from limiter.models import (
    CheckRequest,
    RecordRequest,
    RecordUsage,
    ReleaseRequest,
    WorkspacePatch,
)
from limiter.runtime import Parts
from tests.faults.scene import eventually
from tests.metrics.scrape import Watch
from tests.support.redis_process import RedisProcess


def check(micros: int, **fields: object) -> CheckRequest:
    return CheckRequest(workspace_id="acme", estimate_micros=micros, **fields)  # type: ignore[arg-type]


def record(micros: int, **fields: object) -> RecordRequest:
    return RecordRequest(workspace_id="acme", cost_micros=micros, **fields)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
async def acme(parts: Parts) -> None:
    await parts.limiter.configure("acme", WorkspacePatch(budget_limits={"hourly": 100}))
    await parts.limiter.usage("acme")


async def test_a_check_is_admitted_and_answered_again(parts: Parts, watch: Watch) -> None:
    watch.changed()
    await parts.limiter.check(check(10, reservation_id="r1"))
    assert watch.changed() == {"limiter_decisions_total{outcome=admitted}": 1}
    await parts.limiter.check(check(10, reservation_id="r1"))
    assert watch.changed() == {
        "limiter_decisions_total{outcome=admitted}": 1,
        "limiter_duplicates_total{call=check}": 1,
    }


async def test_a_denial_names_the_limit_that_bound_first(parts: Parts, watch: Watch) -> None:
    await parts.limiter.check(check(90, chat_id="c1", spend_limit_micros=95))
    watch.changed()
    for micros, fields, reason, period in (
        (20, {}, "limit_exceeded", "hourly"),
        (200, {}, "estimate_exceeds_limit", "hourly"),
        (6, {"chat_id": "c1"}, "limit_exceeded", "lifetime"),
        (96, {"chat_id": "c1"}, "estimate_exceeds_limit", "lifetime"),
    ):
        await parts.limiter.check(check(micros, **fields))
        assert watch.changed() == {
            "limiter_decisions_total{outcome=denied}": 1,
            f"limiter_denials_total{{period={period},reason={reason}}}": 1,
        }
    await parts.limiter.configure(
        "acme", WorkspacePatch(budget_limits={"hourly": None, "monthly": 0})
    )
    await parts.limiter.check(check(1))
    assert watch.changed()["limiter_denials_total{period=monthly,reason=blocked}"] == 1


async def test_while_redis_is_away_policy_answers_and_records_are_queued(
    parts: Parts, watch: Watch, redis_server: RedisProcess
) -> None:
    watch.changed()
    redis_server.kill()
    await parts.limiter.check(check(1))
    assert watch.changed() == {"limiter_decisions_total{outcome=degraded}": 1}
    await parts.limiter.check(check(1))
    assert watch.changed() == {
        "limiter_decisions_total{outcome=degraded}": 1,
        "limiter_breaker_open": 1,
        "limiter_breaker_openings_total": 1,
    }
    await parts.limiter.record(record(5, event_id="e1"))
    assert watch.changed() == {"limiter_records_total{outcome=queued}": 1}
    await parts.limiter.record(record(5, event_id="e1"))
    assert watch.changed() == {"limiter_duplicates_total{call=record}": 1}
    with pytest.raises(Exception, match="Redis"):
        await parts.limiter.release(ReleaseRequest(workspace_id="acme", reservation_id="r1"))
    assert watch.changed() == {"limiter_call_failures_total{call=release,cause=redis}": 1}

    redis_server.start()
    assert await eventually(lambda: parts.redis.answers(), bool)
    assert watch.changed() == {"limiter_breaker_open": -1}


async def test_a_workspace_that_denies_meanwhile_is_refused(
    parts: Parts, watch: Watch, redis_server: RedisProcess
) -> None:
    await parts.limiter.configure("acme", WorkspacePatch(outage_policy="deny"))
    watch.changed()
    redis_server.kill()
    await parts.limiter.check(check(1))
    assert watch.changed() == {"limiter_decisions_total{outcome=refused}": 1}


async def test_records_are_charged_once_late_and_unpriced(parts: Parts, watch: Watch) -> None:
    limiter = parts.limiter
    watch.changed()
    await limiter.record(record(5, event_id="e1"))
    assert watch.changed() == {"limiter_records_total{outcome=charged}": 1}
    await limiter.record(record(5, event_id="e1"))
    assert watch.changed() == {"limiter_duplicates_total{call=record}": 1}

    usage = RecordUsage(model="nobody-prices-this", input_tokens=5)
    await limiter.record(RecordRequest(workspace_id="acme", usage=usage))
    assert watch.changed() == {
        "limiter_records_total{outcome=charged}": 1,
        "limiter_unpriced_records_total": 1,
    }

    await limiter.check(check(5, reservation_id="r1", hold_ms=1))

    async def live_holds() -> int:
        return (await limiter.usage("acme")).live_holds

    assert await eventually(live_holds, lambda holds: holds == 0) == 0
    watch.changed()
    await limiter.record(record(5, reservation_id="r1"))
    assert watch.changed() == {
        "limiter_records_total{outcome=charged}": 1,
        "limiter_late_records_total": 1,
    }


async def test_releases_and_failures(parts: Parts, watch: Watch) -> None:
    limiter = parts.limiter
    await limiter.check(check(5, reservation_id="r1"))
    watch.changed()
    release = ReleaseRequest(workspace_id="acme", reservation_id="r1")
    await limiter.release(release)
    assert watch.changed() == {}
    await limiter.release(release)
    assert watch.changed() == {"limiter_duplicates_total{call=release}": 1}
    with pytest.raises(ReservationNotFound):
        await limiter.release(ReleaseRequest(workspace_id="acme", reservation_id="r2"))
    assert watch.changed() == {"limiter_call_failures_total{call=release,cause=caller}": 1}
    await limiter.check(check(5, reservation_id="r3"))
    watch.changed()
    with pytest.raises(IdReused):
        await limiter.check(check(6, reservation_id="r3"))
    assert watch.changed() == {"limiter_call_failures_total{call=check,cause=caller}": 1}


async def test_a_cold_workspace_whose_store_is_gone_fails_by_the_store(
    parts: Parts, watch: Watch, redis_server: RedisProcess
) -> None:
    await parts.snapshot.run_once()
    redis_server.client.flushall()
    await parts.storage.close()
    watch.changed()
    with pytest.raises(Exception, match=r"\w"):
        await parts.limiter.release(ReleaseRequest(workspace_id="acme", reservation_id="r1"))
    assert watch.changed() == {"limiter_call_failures_total{call=release,cause=store}": 1}


async def test_every_call_is_timed_whatever_becomes_of_it(
    parts: Parts, metrics: Metrics, watch: Watch
) -> None:
    limiter = parts.limiter
    for _ in range(3):
        await limiter.check(check(60, reservation_id="r1"))  # once, and two repetitions
    await limiter.check(check(60))  # denied
    with pytest.raises(IdReused):
        await limiter.check(check(61, reservation_id="r1"))
    await limiter.record(record(7, event_id="e1"))
    await limiter.release(ReleaseRequest(workspace_id="acme", reservation_id="r1"))
    now = watch.now()
    for call, times in (("check", 5), ("record", 1), ("release", 1)):
        name = "limiter_call_duration_seconds"
        assert now[f"{name}_count{{call={call}}}"] == times
        assert now[f"{name}_bucket{{call={call},le=+Inf}}"] == times
        assert now[f"{name}_bucket{{call={call},le=0.0005}}"] <= times
        # Measured from outside, seven calls on this machine's own socket take less than this.
        assert 0 < now[f"{name}_sum{{call={call}}}"] < 60


def test_an_elapsed_time_is_in_every_bucket_that_is_not_below_it(metrics: Metrics) -> None:
    for elapsed_us in (500, 501, 2_500_000, 2_500_001):
        metrics.failed("check", ValueError(), elapsed_us)
    now = Watch(metrics).now()
    name = "limiter_call_duration_seconds"
    assert now[f"{name}_bucket{{call=check,le=0.0005}}"] == 1
    assert now[f"{name}_bucket{{call=check,le=0.001}}"] == 2
    assert now[f"{name}_bucket{{call=check,le=2.5}}"] == 3
    assert now[f"{name}_bucket{{call=check,le=+Inf}}"] == 4
    assert now[f"{name}_sum{{call=check}}"] == 5.001_002
    assert now["limiter_call_failures_total{call=check,cause=internal}"] == 4
