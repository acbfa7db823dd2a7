"""Durable storage is away, locked or full, or an entry is poisoned: hot workspaces go on.

Nothing leaves the stream before it is committed, the age of the snapshot shows, and what waited is
caught up with by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from limiter import Limiter
from limiter.durable import Storage
from limiter.errors import StoreUnavailable
from limiter.models import Admitted, CheckRequest, Denied, ReleaseRequest
from tests.durable.worker import worker as store_worker
from tests.faults.scene import (
    STREAM,
    assert_counted_once,
    check,
    drained,
    eventually,
    ledger,
    limit,
    limiter_on,
    record,
)
from tests.support.postgres import PostgresCluster, postgres_cluster
from tests.support.redis_process import RedisProcess
from tests.support.service import Service, running_service, session_pids
from tests.support.waiting import eventually as eventually_now

ANSWER_MS_MAX = 2_000


@pytest.fixture
def cluster() -> Iterator[PostgresCluster]:
    """A PostgreSQL that this test may stop."""
    with postgres_cluster() as cluster:
        yield cluster


async def go_on_without_the_store(redis_server: RedisProcess, limiter: Limiter) -> dict[str, int]:
    """Checks, records and releases of a hot workspace, and what they charged."""
    charges = {}
    before = int(redis_server.client.execute_command("XLEN", STREAM))
    for number in range(10):
        answer = await limiter.check(check(50, reservation_id=f"r{number}", chat_id="c"))
        assert isinstance(answer, Admitted)
        assert answer.degraded is False
        if number % 2:
            request = ReleaseRequest(workspace_id="acme", reservation_id=f"r{number}")
            assert (await limiter.release(request)).released is True
        else:
            recorded = await limiter.record(record(None, 40, reservation_id=f"r{number}"))
            assert recorded.queued is False
            charges[f"r{number}"] = 40
    # Not one of these entries may go before it is committed.
    assert int(redis_server.client.execute_command("XLEN", STREAM)) >= before + 20
    return charges


async def test_a_stopped_postgresql_is_waited_out(
    redis_server: RedisProcess, cluster: PostgresCluster
) -> None:
    client, url = redis_server.client, cluster.create_database()
    async with limiter_on(redis_server.url, url) as limiter:
        await limit(limiter, 1_000)
        await limiter.record(record("e0", 1, chat_id="c"))
        await drained(client)
        await asyncio.to_thread(cluster.stop)
        charges = {"e0": 1, **await go_on_without_the_store(redis_server, limiter)}
        readiness = await limiter.readiness()
        assert (readiness.ready, readiness.redis, readiness.store) == (False, True, False)
        length = int(client.execute_command("XLEN", STREAM))

        async def age_ms() -> int:
            return (await limiter.readiness()).snapshot_age_ms or 0

        assert await eventually(age_ms, lambda age: age > 500) > 500
        assert int(client.execute_command("XLEN", STREAM)) == length
        # Its limit holds all the same: 201 are spent of 1,000.
        assert isinstance(await limiter.check(check(900)), Denied)
        # What is cold cannot be judged, and is answered by policy.
        cold = await limiter.check(CheckRequest(workspace_id="globex", estimate_micros=1))
        assert isinstance(cold, Admitted)
        assert cold.degraded is True
        await asyncio.to_thread(cluster.start)
        await assert_counted_once(limiter, client, url, charges)
        assert await eventually(age_ms, lambda age: age < 500) < 500
        assert (await limiter.readiness()).ready is True


async def test_a_frozen_postgresql_holds_up_nobody_who_does_not_need_it(
    redis_server: RedisProcess, cluster: PostgresCluster
) -> None:
    client, url = redis_server.client, cluster.create_database()
    async with limiter_on(redis_server.url, url) as limiter:
        await limit(limiter, 1_000)
        await limiter.record(record("e0", 1, chat_id="c"))
        await drained(client)
        assert cluster.pid is not None
        frozen = [cluster.pid, *children(cluster.pid)]
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            charges = {"e0": 1, **await go_on_without_the_store(redis_server, limiter)}
            started = time.monotonic()
            async with asyncio.timeout(10):
                readiness = await limiter.readiness()
            assert (time.monotonic() - started) * 1000 < ANSWER_MS_MAX
            assert (readiness.ready, readiness.redis, readiness.store) == (False, True, False)
        finally:
            for pid in frozen:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        await assert_counted_once(limiter, client, url, charges)
        assert (await limiter.readiness()).ready is True


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8")
    return [int(word) for word in text.split()]


async def test_a_locked_sqlite_is_waited_out(redis_server: RedisProcess, tmp_path: Path) -> None:
    client, path = redis_server.client, tmp_path / "limiter.db"
    url = f"sqlite:///{path}"
    async with limiter_on(redis_server.url, url) as limiter:
        await limit(limiter, 1_000)
        await limiter.record(record("e0", 1, chat_id="c"))
        await drained(client)
        with store_worker("lock", str(path)) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert (await asyncio.to_thread(process.stdout.readline)).strip() == "locked"
            charges = {"e0": 1, **await go_on_without_the_store(redis_server, limiter)}

            async def age_ms() -> int:
                return (await limiter.readiness()).snapshot_age_ms or 0

            assert await eventually(age_ms, lambda age: age > 500) > 500
            assert len(await ledger_as_it_is(url)) == 1
            process.stdin.close()
            await asyncio.to_thread(process.wait, 10)
        await assert_counted_once(limiter, client, url, charges)
        assert await eventually(age_ms, lambda age: age < 500) < 500


async def ledger_as_it_is(url: str) -> list[str]:
    """Without a start, which would have to write."""
    storage = Storage(url)
    try:
        return [row.event_id async for row in storage.ledger_rows("acme")]
    finally:
        await storage.close()


async def test_a_sync_record_is_not_acknowledged_while_the_store_is_away(
    redis_server: RedisProcess, cluster: PostgresCluster
) -> None:
    client, url = redis_server.client, cluster.create_database()
    async with limiter_on(redis_server.url, url, durability="sync") as limiter:
        assert (await limiter.record(record("e0", 1))).duplicate is False
        assert [row.event_id for row in await ledger(url)] == ["e0"]
        await asyncio.to_thread(cluster.stop)
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await limiter.record(record("e1", 10))
        await asyncio.to_thread(cluster.start)

        async def acknowledged() -> bool:
            return (await limiter.record(record("e1", 10))).duplicate

        assert await eventually(acknowledged, bool) is True
        assert sorted(row.event_id for row in await ledger(url)) == ["e0", "e1"]
        await assert_counted_once(limiter, client, url, {"e0": 1, "e1": 10})


# --------------------------------------------------------------------- the disk is full


@contextlib.contextmanager
def full_disk(service: Service, bytes_max: int) -> Iterator[None]:
    """No file of the service can grow beyond so much, as on a disk with no room left."""
    before = {
        pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in session_pids(service.pid)
    }
    for pid, (_, hard) in before.items():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (bytes_max, hard))
    try:
        yield
    finally:
        for pid, limits in before.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def service(tmp_path: Path, redis_server: RedisProcess, sqlite_url: str) -> Iterator[Service]:
    with running_service(
        tmp_path,
        redis_url=redis_server.url,
        database_url=sqlite_url,
        snapshot_interval_ms=50,
    ) as service:
        yield service


async def test_a_full_disk_is_reported_and_recovered_from(
    service: Service, redis_server: RedisProcess, tmp_path: Path, sqlite_url: str
) -> None:
    client = redis_server.client
    service.post("/record", {"workspace_id": "acme", "event_id": "e0", "cost_micros": 1})
    await drained(client)
    charges = {"e0": 1}
    # Room for the log, and none for the next pages of the write-ahead log.
    size = (tmp_path / "limiter.db-wal").stat().st_size
    assert size > len(service.log.encode()) + 20_000
    with full_disk(service, size):
        for number in range(1, 20):
            body = {"workspace_id": "acme", "event_id": f"e{number}", "cost_micros": 10}
            answer = service.post("/record", body)
            assert (answer.status, answer.body["queued"]) == (200, False)
            charges[f"e{number}"] = 10
            assert service.post("/check", {"workspace_id": "acme"}).body["degraded"] is False
        log = eventually_now(lambda: service.log, lambda log: "durable storage cannot" in log)
        assert "durable storage cannot answer: SQLITE_" in log
        assert "Traceback" not in log

        def age_ms() -> int:
            age: int = service.get("/readyz").body["snapshot_age_ms"]
            return age

        assert eventually_now(age_ms, lambda age: age > 500) > 500
        assert int(client.execute_command("XLEN", STREAM)) >= 19
        # A change of limits needs the disk, and says so.
        refused = service.patch("/config/workspaces/acme", {"budget_limits": {"hourly": 1}})
        assert (refused.status, refused.body["code"]) == (503, "store_unavailable")
    assert eventually_now(age_ms, lambda age: age < 500) < 500
    async with limiter_on(redis_server.url, sqlite_url) as limiter:
        await assert_counted_once(limiter, client, sqlite_url, charges)


# --------------------------------------------------------------------- poisoned entries


Fields = dict[str, str]

RELEASE: Fields = {
    "type": "release", "workspace": "victim", "seq": "9", "at": "1", "reservation": "r", "chat": ""
}  # fmt: skip
RECORD: Fields = {
    "type": "record", "workspace": "acme", "seq": "3", "at": "1", "event": "p1", "charged": "7",
    "fingerprint": "f", "chat": "", "reservation": "", "state": "-", "source": "", "total": "",
    "sequence": "", "priced": "1", "data": "",
}  # fmt: skip
POISON: dict[str, Fields | dict[bytes, bytes]] = {
    "a type of nobody's": {"type": "gift", "workspace": "acme", "seq": "1", "at": "1"},
    "no field of ours": {"hello": "world"},
    "an id that is none": {**RELEASE, "workspace": "a:{0}b"},
    "an amount that is none": {**RECORD, "charged": "nan"},
    "a number beyond": {**RECORD, "seq": "9007199254740992"},
    "bytes that are no text": {b"type": b"\xff\xfe", b"workspace": b"\x00"},
}


def append(client: redis.Redis, fields: Fields | dict[bytes, bytes]) -> None:
    flat = [part for pair in fields.items() for part in pair]
    client.execute_command("XADD", STREAM, "*", *flat)


async def test_poisoned_entries_are_put_aside_and_the_rest_goes_on(
    redis_server: RedisProcess, store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = redis_server.client
    async with limiter_on(redis_server.url, store_url, snapshot_interval_ms=200) as limiter:
        charges = {}
        for number, fields in enumerate(POISON.values()):
            await limiter.record(record(f"e{number}", 10, chat_id="c"))
            charges[f"e{number}"] = 10
            append(client, fields)
        await limiter.record(record("last", 1))
        charges["last"] = 1
        await assert_counted_once(limiter, client, store_url, charges)
        assert (await limiter.chat_usage("acme", "c")).spent_micros == 10 * len(POISON)
    async with Storage(store_url) as storage:
        letters = await storage.dead_letters()
    assert len(letters) == len({letter.stream_id for letter in letters}) == len(POISON)
    assert len([line for line in caplog.messages if "is poisoned" in line]) == len(POISON)


async def test_a_foreign_key_in_place_of_a_workspace_stops_nobody_else(
    redis_server: RedisProcess, sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The calls of that workspace fail; the passes of all others go on."""
    client = redis_server.client
    async with limiter_on(redis_server.url, sqlite_url) as limiter:
        victim = CheckRequest(workspace_id="victim", estimate_micros=1)
        assert isinstance(await limiter.check(victim), Admitted)
        await drained(client)
        client.execute_command("DEL", "lim:{0}:victim:workspace")
        client.execute_command("SET", "lim:{0}:victim:workspace", "foreign")
        append(client, RELEASE)
        await limiter.record(record("e1", 10))
        await assert_counted_once(limiter, client, sqlite_url, {"e1": 10})
        await limiter.record(record("e2", 10))
        await assert_counted_once(limiter, client, sqlite_url, {"e1": 10, "e2": 10})
    assert any("victim" in line for line in caplog.messages)
