"""Redis goes away: answers come in bounded time and by policy, and no record is lost or doubled."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.redis_process import RedisProcess, running_redis
from tests.support.service import Service, running_service
from tests.support.waiting import eventually

DEADLINE_MS = 200


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisProcess]:
    folder = tmp_path / "redis"
    folder.mkdir()
    with running_redis(folder) as server:
        yield server


@pytest.fixture
def service(tmp_path: Path, redis_server: RedisProcess) -> Iterator[Service]:
    with running_service(
        tmp_path,
        redis_url=redis_server.url,
        redis_deadline_ms=DEADLINE_MS,
        snapshot_interval_ms=50,
        breaker_reset_ms=100,
    ) as service:
        service.patch("/config/workspaces/acme", {"budget_limits": {"hourly": 1_000}})
        yield service


def spent(service: Service) -> int:
    micros: int = service.get("/usage/workspaces/acme").body["periods"]["hourly"]["spent_micros"]
    return micros


def is_ready(service: Service) -> bool:
    return service.get("/readyz").status == 200


def test_checks_pass_degraded_when_redis_is_gone(
    service: Service, redis_server: RedisProcess
) -> None:
    redis_server.kill()
    for _ in range(20):
        answer = service.post("/check", {"workspace_id": "acme", "estimate_micros": 9_999})
        assert answer.status == 200
        assert answer.body["degraded"] is True
        assert answer.body["reservation"] is None
    assert service.get("/healthz").status == 200
    assert service.get("/readyz").status == 503


def test_a_frozen_redis_delays_a_few_callers_by_the_deadline_and_the_rest_not_at_all(
    service: Service, redis_server: RedisProcess
) -> None:
    redis_server.signal(signal.SIGSTOP)
    latencies_ms = []
    for _ in range(30):
        started = time.monotonic()
        answer = service.post("/check", {"workspace_id": "acme"})
        latencies_ms.append((time.monotonic() - started) * 1000)
        assert answer.body["degraded"] is True
    # Without a deadline on each call this would take seconds; without a breaker, each of them
    # would wait for it.
    assert max(latencies_ms) < 10 * DEADLINE_MS
    assert sorted(latencies_ms)[len(latencies_ms) // 2] < DEADLINE_MS
    redis_server.signal(signal.SIGCONT)
    answer = eventually(
        lambda: service.post("/check", {"workspace_id": "acme"}), lambda a: not a.body["degraded"]
    )
    assert answer.body["degraded"] is False


def test_a_workspace_may_have_a_policy_of_its_own(
    service: Service, redis_server: RedisProcess
) -> None:
    service.patch("/config/workspaces/strict", {"outage_policy": "deny"})
    redis_server.kill()
    refused = service.post("/check", {"workspace_id": "strict"})
    assert refused.status == 503
    assert (refused.body["allowed"], refused.body["degraded"]) == (False, True)
    assert service.post("/check", {"workspace_id": "acme"}).status == 200


def test_records_are_queued_in_the_ledger_and_counted_once_when_redis_is_back(
    service: Service, redis_server: RedisProcess
) -> None:
    service.post("/record", {"workspace_id": "acme", "event_id": "e0", "cost_micros": 1})
    redis_server.kill()
    for number in range(1, 11):
        record = {
            "workspace_id": "acme",
            "chat_id": "c",
            "cost_micros": 10,
            "event_id": f"e{number}",
        }
        first, again = service.post("/record", record), service.post("/record", record)
        assert (first.status, first.body["queued"], first.body["duplicate"]) == (202, True, False)
        assert (again.status, again.body["queued"], again.body["duplicate"]) == (202, True, True)
    redis_server.start()
    assert eventually(lambda: is_ready(service), bool)
    assert eventually(lambda: spent(service), lambda micros: micros >= 101) == 101
    assert service.get("/usage/workspaces/acme/chats/c").body["spent_micros"] == 100
    # Their entries come back to the ledger, and a retry of a client that never got its answer.
    retried = service.post(
        "/record", {"workspace_id": "acme", "chat_id": "c", "cost_micros": 10, "event_id": "e3"}
    )
    assert retried.body["duplicate"] is True
    assert eventually(lambda: redis_server.client.xlen("lim:{0}:stream"), lambda n: n == 0) == 0
    assert spent(service) == 101


def test_a_wiped_redis_is_loaded_again_and_spend_is_never_zero(
    service: Service, redis_server: RedisProcess
) -> None:
    service.post("/record", {"workspace_id": "acme", "chat_id": "c", "cost_micros": 990})
    held = {"workspace_id": "acme", "chat_id": "c", "estimate_micros": 10, "reservation_id": "r"}
    assert service.post("/check", held).status == 200
    assert eventually(lambda: redis_server.client.xlen("lim:{0}:stream"), lambda n: n == 0) == 0
    redis_server.kill()
    redis_server.wipe()
    redis_server.start()
    assert eventually(lambda: is_ready(service), bool)
    denied = eventually(
        lambda: service.post("/check", {"workspace_id": "acme", "estimate_micros": 1}),
        lambda answer: answer.status != 200,
    )
    assert denied.status == 402
    assert (denied.body["spent_micros"], denied.body["held_micros"]) == (990, 10)
    chat = service.get("/usage/workspaces/acme/chats/c").body
    assert (chat["spent_micros"], chat["held_micros"]) == (990, 10)


def test_an_evicting_redis_is_refused_at_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "redis"
    folder.mkdir()
    with running_redis(folder, "--maxmemory-policy", "allkeys-lru") as server:
        service = Service(tmp_path, redis_url=server.url)
        with pytest.raises(AssertionError, match="allkeys-lru") as refusal:
            service.start()
        assert "noeviction" in str(refusal.value)
        assert "Traceback" not in str(refusal.value)
