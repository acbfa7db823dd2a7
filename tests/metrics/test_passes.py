"""What the snapshot pass, cold scopes and the connection to Redis count, by real events."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from limiter.errors import RedisUnavailable
from limiter.metrics import Metrics
from limiter.models import CheckRequest, RecordRequest, ReleaseRequest
from limiter.runtime import Parts
from tests.faults.scene import STREAM, WORKSPACE, eventually
from tests.metrics.scrape import Watch
from tests.support.redis_process import RedisProcess

# Redis forgets ids at once, so that what comes twice is charged twice.
IDEMPOTENCY_MS = 1


@pytest.fixture
def options() -> dict[str, Any]:
    return {"idempotency_ms": IDEMPOTENCY_MS}


def check(micros: int, **fields: object) -> CheckRequest:
    return CheckRequest(workspace_id="acme", estimate_micros=micros, **fields)  # type: ignore[arg-type]


def record(micros: int, **fields: object) -> RecordRequest:
    return RecordRequest(workspace_id="acme", cost_micros=micros, **fields)  # type: ignore[arg-type]


async def test_holds_and_charges_are_counted_as_they_become_durable(
    parts: Parts, watch: Watch
) -> None:
    limiter = parts.limiter
    for number in range(4):
        hold_ms = 1 if number == 3 else None
        await limiter.check(check(5, reservation_id=f"r{number}", hold_ms=hold_ms))
    await limiter.record(record(7, reservation_id="r0"))
    await limiter.record(record(30, event_id="e1"))
    await limiter.release(ReleaseRequest(workspace_id="acme", reservation_id="r1"))

    async def live_holds() -> int:
        return (await limiter.usage("acme")).live_holds

    assert await eventually(live_holds, lambda holds: holds == 1) == 1
    watch.changed()
    moved = await parts.snapshot.run_once()
    assert watch.changed() == {
        "limiter_holds_placed_total": 4,
        "limiter_holds_ended_total{by=record}": 1,
        "limiter_holds_ended_total{by=release}": 1,
        "limiter_holds_ended_total{by=expiry}": 1,
        "limiter_charged_micros_total": 37,
    }
    now = watch.now()
    assert now["limiter_snapshot_entries_total"] == now["limiter_snapshot_waiting_entries"] == moved
    assert moved == 8
    await parts.snapshot.run_once()
    assert watch.changed() == {}
    assert watch.now()["limiter_snapshot_waiting_entries"] == 0
    assert watch.now()["limiter_snapshot_pass_duration_seconds_count"] == 2


async def test_a_charge_that_is_taken_back_is_not_charged(parts: Parts, watch: Watch) -> None:
    await parts.limiter.record(record(30, event_id="e1"))
    await parts.snapshot.run_once()
    watch.changed()

    async def forgotten() -> bool:
        return not (await parts.limiter.record(record(30, event_id="e1"))).duplicate

    assert await eventually(forgotten, bool)
    watch.changed()
    await parts.snapshot.run_once()
    assert watch.changed() == {"limiter_retracted_records_total": 1}


async def test_a_poisoned_entry(parts: Parts, watch: Watch, redis_server: RedisProcess) -> None:
    redis_server.client.execute_command("XADD", STREAM, "*", "hello", "world")
    watch.changed()
    await parts.snapshot.run_once()
    assert watch.changed() == {"limiter_poisoned_entries_total": 1}


async def test_the_age_starts_anew_with_each_complete_pass_only(
    parts: Parts, watch: Watch, redis_server: RedisProcess
) -> None:
    async def age() -> float:
        return watch.now()["limiter_snapshot_age_seconds"]

    assert await age() == 0
    parts.metrics.passes_begin()
    assert await eventually(age, lambda seconds: seconds > 0.3) > 0.3
    await parts.snapshot.run_once()
    assert await age() < 0.3
    redis_server.kill()
    watch.changed()
    with pytest.raises(RedisUnavailable):
        await parts.snapshot.run_once()
    assert watch.changed() == {"limiter_snapshot_pass_failures_total": 1}
    assert await eventually(age, lambda seconds: seconds > 0.3) > 0.3


async def test_what_redis_lost_a_part_of_is_forgotten_and_loaded(
    parts: Parts, watch: Watch, redis_server: RedisProcess
) -> None:
    client = redis_server.client
    await parts.limiter.record(record(1))
    old: Any = client.dump(WORKSPACE)
    await parts.limiter.record(record(1))
    await parts.snapshot.run_once()
    client.restore(WORKSPACE, 0, old, replace=True)
    watch.changed()
    await parts.snapshot.reconcile()
    assert watch.changed() == {"limiter_forgotten_workspaces_total{cause=behind}": 1}

    await parts.limiter.record(record(1))
    assert watch.changed() == {
        "limiter_cold_loads_total{kind=workspace}": 1,
        "limiter_records_total{outcome=charged}": 1,
    }
    await parts.snapshot.run_once()
    client.restore(WORKSPACE, 0, old, replace=True)
    await parts.limiter.record(record(1))  # by a number that was given before
    watch.changed()
    await parts.snapshot.run_once()
    changed = watch.changed()
    assert changed.pop("limiter_charged_micros_total") == 1
    assert changed == {"limiter_forgotten_workspaces_total{cause=rewound}": 1}


async def test_cold_scopes_are_counted_by_kind(
    parts: Parts, watch: Watch, redis_server: RedisProcess
) -> None:
    total = RecordRequest(workspace_id="acme", chat_id="c1", cumulative_micros=5, source="s1")
    await parts.limiter.record(total)  # all of it is new, and only a workspace is made to be loaded
    assert watch.changed() == {
        "limiter_cold_loads_total{kind=workspace}": 1,
        "limiter_records_total{outcome=charged}": 1,
    }
    await parts.snapshot.run_once()
    redis_server.client.flushall()
    watch.changed()
    await parts.limiter.record(total)
    assert watch.changed() == {
        "limiter_cold_loads_total{kind=workspace}": 1,
        "limiter_cold_loads_total{kind=chat}": 1,
        "limiter_cold_loads_total{kind=source}": 1,
        "limiter_records_total{outcome=charged}": 1,
    }


async def test_commands_of_one_turn_leave_in_few_batches(parts: Parts, watch: Watch) -> None:
    await parts.limiter.check(check(1))
    name = "limiter_redis_batch_commands"
    before = watch.now()
    await asyncio.gather(*(parts.limiter.check(check(1)) for _ in range(50)))
    now = watch.now()
    assert now[f"{name}_sum"] - before[f"{name}_sum"] == 50
    # Three full ones, and the rest.
    assert now[f"{name}_count"] - before[f"{name}_count"] == 4
    assert now[f"{name}_bucket{{le=8.0}}"] - before[f"{name}_bucket{{le=8.0}}"] == 1
    assert now[f"{name}_bucket{{le=16.0}}"] - before[f"{name}_bucket{{le=16.0}}"] == 4


def test_a_sum_that_is_full_starts_again_instead_of_failing(metrics: Metrics) -> None:
    metrics.entries_moved(1, charged_micros=2**64 - 1)
    metrics.entries_moved(1, charged_micros=3)
    assert Watch(metrics).now()["limiter_charged_micros_total"] == 2
