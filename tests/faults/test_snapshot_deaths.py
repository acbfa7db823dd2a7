"""Processes die in the middle of a snapshot pass, or several pass at once: the same result."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from limiter import Limiter
from tests.faults.scene import (
    STREAM,
    assert_counted_once,
    check,
    ledger,
    limiter_on,
    record,
)
from tests.faults.worker import BATCH, worker
from tests.support.redis_process import RedisProcess
from tests.support.service import Service, running_service
from tests.support.waiting import eventually

WAIT_S = 30
RECORDS = 4 * BATCH
# After its first pass, a limiter makes no other.
NEVER_MS = 3_600_000


async def charge(limiter: Limiter) -> dict[str, int]:
    """Records in a tree, some of them of holds; what each was charged."""
    charges = {}
    await limiter.record(record("e-root", 1, chat_id="root"))
    charges["e-root"] = 1
    for number in range(RECORDS):
        fields = {"chat_id": "leaf", "parent_chat_id": "root"} if number % 2 else {}
        if number % 10 == 0:
            await limiter.check(check(50, reservation_id=f"r{number}"))
            fields = {"reservation_id": f"r{number}"}
        await limiter.record(record(f"e{number}", number + 1, **fields))
        charges[f"e{number}"] = number + 1
    return charges


@pytest.mark.parametrize("moment", ["read", "committed"])
async def test_a_pass_that_is_killed_is_repeated_and_changes_nothing(
    redis_server: RedisProcess, store_url: str, moment: str
) -> None:
    client = redis_server.client
    async with limiter_on(redis_server.url, store_url, snapshot_interval_ms=NEVER_MS) as limiter:
        charges = await charge(limiter)
        with worker(redis_server.url, store_url, moment) as process:
            assert await asyncio.to_thread(process.wait, WAIT_S) == -signal.SIGKILL
        # What the dead one had read is still there, whether it was committed or not.
        rows = await ledger(store_url)
        left = int(client.execute_command("XLEN", STREAM))
        assert 0 < len(rows) < len(charges)
        assert left >= len(charges) - len(rows)
        if moment == "committed":
            committed = {row.event_id for row in rows}
            entries: Any = client.execute_command("XRANGE", STREAM, "-", "+")
            waiting = {fields.get(b"event", b"").decode() for _, fields in entries}
            assert committed & waiting
    # The next process reads it again.
    async with limiter_on(redis_server.url, store_url) as limiter:
        await assert_counted_once(limiter, client, store_url, charges)
        root = await limiter.chat_usage("acme", "root")
        in_chats = sum(
            micros
            for event_id, micros in charges.items()
            if event_id == "e-root" or (micros - 1) % 2
        )
        assert (root.spent_micros, root.held_micros) == (in_chats, 0)


async def test_processes_that_pass_at_once_and_one_that_is_killed_come_to_the_same(
    redis_server: RedisProcess, store_url: str
) -> None:
    client = redis_server.client
    async with limiter_on(redis_server.url, store_url, snapshot_interval_ms=NEVER_MS) as limiter:
        with (
            worker(redis_server.url, store_url, "never") as one,
            worker(redis_server.url, store_url, "never") as other,
        ):
            for process in (one, other):
                assert process.stdout is not None
                assert await asyncio.to_thread(process.stdout.readline)
            charging = asyncio.create_task(charge(limiter))
            assert one.stdout is not None
            while (await asyncio.to_thread(one.stdout.readline)).strip() == "0":
                pass
            one.kill()
            charges = await charging
            await assert_counted_once(limiter, client, store_url, charges)
            assert other.poll() is None


@pytest.fixture
def services(
    tmp_path: Path, redis_server: RedisProcess, store_url: str
) -> Iterator[tuple[Service, Service]]:
    """Two services on the same Redis and the same store."""
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    settings = {
        "redis_url": redis_server.url,
        "database_url": store_url,
        "snapshot_interval_ms": 20,
        "redis_deadline_ms": 5_000,
    }
    with (
        running_service(tmp_path / "one", **settings) as one,
        running_service(tmp_path / "other", **settings) as other,
    ):
        yield one, other


async def test_a_service_that_is_killed_leaves_its_part_to_the_other(
    services: tuple[Service, Service], redis_server: RedisProcess, store_url: str
) -> None:
    one, other = services
    charges = {}
    for number in range(100):
        body = {"workspace_id": "acme", "event_id": f"e{number}", "cost_micros": number + 1}
        answer = (one, other)[number % 2 if number < 60 else 1].post("/record", body)
        assert answer.status == 200
        charges[f"e{number}"] = number + 1
        if number == 60:
            one.kill()
    client = redis_server.client
    await asyncio.to_thread(
        eventually, lambda: int(client.execute_command("XLEN", STREAM)), lambda left: left == 0
    )
    async with limiter_on(redis_server.url, store_url) as limiter:
        await assert_counted_once(limiter, client, store_url, charges)
