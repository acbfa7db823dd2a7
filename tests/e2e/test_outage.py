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


def test_a_limit_that_is_set_while_redis_is_gone_holds_once_it_is_back(
    service: Service, redis_server: RedisProcess
) -> None:
    path, check = "/config/workspaces/acme", {"workspace_id": "acme", "estimate_micros": 100}
    assert service.post("/check", check).status == 200
    redis_server.kill()
    answer = service.patch(path, {"budget_limits": {"hourly": 10}})
    assert (answer.status, answer.body["code"]) == (503, "not_in_force_yet")
    assert service.get(path).body["budget_limits"]["hourly"] == 10
    redis_server.start()
    assert (
        eventually(lambda: service.post("/check", check), lambda a: a.status == 402).status == 402
    )


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


# --------------------------------------------------------------------------- at the start


@pytest.fixture
def absent(tmp_path: Path) -> Iterator[RedisProcess]:
    """A Redis that has not been started."""
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisProcess(folder)
    yield server
    server.kill()
    server.client.close()


@pytest.fixture
def early(tmp_path: Path, absent: RedisProcess) -> Iterator[Service]:
    """A service that was started before its Redis."""
    service = Service(
        tmp_path,
        redis_url=absent.url,
        redis_deadline_ms=DEADLINE_MS,
        snapshot_interval_ms=50,
        breaker_reset_ms=100,
    )
    try:
        service.start("/healthz")
        yield service
    finally:
        service.kill()


def test_a_service_may_be_started_before_its_redis(early: Service, absent: RedisProcess) -> None:
    assert early.get("/readyz").status == 503
    service, record = early, {"workspace_id": "acme", "chat_id": "c", "cost_micros": 10}
    service.patch("/config/workspaces/acme", {"budget_limits": {"hourly": 30}})
    for number in range(3):
        checked = service.post("/check", {"workspace_id": "acme", "estimate_micros": 99})
        assert (checked.status, checked.body["degraded"]) == (200, True)
        recorded = service.post("/record", {**record, "event_id": f"e{number}"})
        assert (recorded.status, recorded.body["queued"]) == (202, True)
    assert "started without Redis" in service.log
    assert "Traceback" not in service.log
    absent.start()
    assert eventually(lambda: is_ready(service), bool)
    assert eventually(lambda: spent(service), lambda micros: micros == 30) == 30
    # From now on it decides, by what was recorded meanwhile.
    assert service.post("/check", {"workspace_id": "acme", "estimate_micros": 1}).status == 402
    assert eventually(lambda: absent.client.xlen("lim:{0}:stream"), lambda n: n == 0) == 0
    assert spent(service) == 30
    assert service.stop() == 0


def test_a_service_whose_redis_never_comes_ends_when_it_is_told_to(early: Service) -> None:
    early.post("/record", {"workspace_id": "acme", "cost_micros": 10})
    assert early.stop() == 0
    assert "Traceback" not in early.log


def test_a_redis_that_comes_later_and_evicts_is_not_counted_on_until_it_is_mended(
    early: Service, absent: RedisProcess
) -> None:
    absent.start("--maxmemory-policy", "allkeys-lru")
    log = eventually(lambda: early.log, lambda text: "not safe to count on" in text)
    assert "maxmemory-policy is allkeys-lru" in log
    checked = early.post("/check", {"workspace_id": "acme", "estimate_micros": 9})
    assert (checked.status, checked.body["degraded"]) == (200, True)
    recorded = early.post("/record", {"workspace_id": "acme", "cost_micros": 10})
    assert (recorded.status, recorded.body["queued"]) == (202, True)
    assert early.get("/readyz").status == 503
    assert absent.client.dbsize() == 0
    absent.client.config_set("maxmemory-policy", "noeviction")
    assert eventually(lambda: is_ready(early), bool)
    assert eventually(lambda: spent(early), lambda micros: micros == 10) == 10


def test_a_redis_that_becomes_unsafe_is_reported_and_still_counted_on(
    service: Service, redis_server: RedisProcess
) -> None:
    redis_server.client.config_set("maxmemory-policy", "volatile-lru")
    log = eventually(lambda: service.log, lambda text: "not safe to count on" in text)
    assert "maxmemory-policy is volatile-lru" in log
    assert service.post("/record", {"workspace_id": "acme", "cost_micros": 995}).status == 200
    denied = service.post("/check", {"workspace_id": "acme", "estimate_micros": 9})
    assert (denied.status, denied.body["spent_micros"]) == (402, 995)
    # What it could drop does not stay there for longer than before.
    assert eventually(lambda: redis_server.client.xlen("lim:{0}:stream"), lambda n: n == 0) == 0


def test_a_redis_that_refuses_the_password_is_no_outage(
    tmp_path: Path, redis_server: RedisProcess
) -> None:
    redis_server.client.config_set("requirepass", "right")
    service = Service(tmp_path, redis_url=f"{redis_server.url}?password=wrong")
    with pytest.raises(AssertionError, match="invalid username-password") as refusal:
        service.start()
    assert "Redis refuses the user or the password" in str(refusal.value)
    assert "Traceback" not in str(refusal.value)


def test_an_embedded_server_that_does_not_come_up_is_refused_at_the_start(tmp_path: Path) -> None:
    service = Service(tmp_path, redis_binary="/bin/false")
    with pytest.raises(AssertionError, match="limiter: ") as refusal:
        service.start("/healthz")
    assert "Traceback" not in str(refusal.value)


def test_an_evicting_redis_is_refused_at_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "redis"
    folder.mkdir()
    with running_redis(folder, "--maxmemory-policy", "allkeys-lru") as server:
        service = Service(tmp_path, redis_url=server.url)
        with pytest.raises(AssertionError, match="allkeys-lru") as refusal:
            service.start()
        assert "noeviction" in str(refusal.value)
        assert "Traceback" not in str(refusal.value)
