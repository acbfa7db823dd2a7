"""`limiter serve` as an operator meets it: start, restart, Ctrl-C, outages."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.redis_process import RedisProcess
from tests.support.service import Service, running_service, session_pids

DEADLINE_MS = 15_000
STREAM = "lim:{0}:stream"


def eventually_gone(pids: set[int]) -> set[int]:
    """Those of the processes that are still there after a bounded wait."""
    deadline = time.monotonic() + DEADLINE_MS / 1000
    left = pids
    while left and time.monotonic() < deadline:
        left = {pid for pid in left if Path(f"/proc/{pid}").exists()}
        time.sleep(0.02)
    return left


def descendants(pid: int) -> set[int]:
    """Every process that goes back to `pid`, in sessions of their own too."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found, grew = {pid}, True
    while grew:
        more = {child for child, parent in parents.items() if parent in found} - found
        grew, found = bool(more), found | more
    return found


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_service_leaves_no_process_behind(
    tmp_path: Path, workers: int, signal_number: int
) -> None:
    with running_service(tmp_path, workers=workers) as service:
        pids = descendants(service.pid)
        assert len(pids) >= 3 + workers  # supervisor, keeper, embedded server, workers
        service.stop(signal_number)
        assert eventually_gone(pids | session_pids(service.pid)) == set()


def keeper_of(service: Service) -> int:
    """The process that moves what calls leave in Redis."""
    found = [
        pid
        for pid in descendants(service.pid)
        if b"limiter.keeper" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert len(found) == 1
    return found[0]


def eventually_empty(server: RedisProcess) -> bool:
    """Whether all that is in the stream becomes durable within a bounded wait."""
    deadline = time.monotonic() + DEADLINE_MS / 1000
    while server.client.xlen(STREAM) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not server.client.xlen(STREAM)


def test_a_keeper_that_is_killed_is_started_again(
    tmp_path: Path, redis_server: RedisProcess
) -> None:
    with running_service(tmp_path, redis_url=redis_server.url) as service:
        killed = keeper_of(service)
        os.kill(killed, signal.SIGKILL)
        assert service.post("/record", {"workspace_id": "acme", "cost_micros": 5}).status == 200
        assert eventually_empty(redis_server)
        assert keeper_of(service) != killed


def test_what_is_in_redis_becomes_durable_before_the_service_ends(
    tmp_path: Path, redis_server: RedisProcess
) -> None:
    """A process manager's SIGTERM reaches the process that it started, and no other."""
    interval = {"snapshot_interval_ms": 3_600_000}
    with running_service(tmp_path, redis_url=redis_server.url, **interval) as service:
        assert service.post("/record", {"workspace_id": "acme", "cost_micros": 5}).status == 200
        assert redis_server.client.xlen(STREAM) > 0
        pids = descendants(service.pid)
        os.kill(service.pid, signal.SIGTERM)
        assert eventually_gone(pids - {service.pid}) == set()
        assert redis_server.client.xlen(STREAM) == 0


def test_a_service_that_answers_has_made_a_pass(tmp_path: Path, redis_server: RedisProcess) -> None:
    interval = {"snapshot_interval_ms": 3_600_000}
    with running_service(tmp_path, redis_url=redis_server.url, **interval) as service:
        assert service.post("/record", {"workspace_id": "acme", "cost_micros": 5}).status == 200
        service.kill()
        assert redis_server.client.xlen(STREAM) > 0
        service.start()
        assert redis_server.client.xlen(STREAM) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_service_leaves_no_process_behind(tmp_path: Path, workers: int) -> None:
    with running_service(tmp_path, workers=workers) as service:
        pids = descendants(service.pid)
        os.kill(service.pid, signal.SIGKILL)
        assert eventually_gone(pids - {service.pid}) == set()  # itself is waited for below


def test_counters_survive_a_restart(tmp_path: Path) -> None:
    with running_service(tmp_path) as service:
        service.patch("/config/workspaces/acme", {"budget_limits": {"hourly": 100}})
        service.post("/record", {"workspace_id": "acme", "chat_id": "c", "cost_micros": 60})
        service.post("/check", {"workspace_id": "acme", "chat_id": "c", "estimate_micros": 30})
        before = service.get("/usage/workspaces/acme").body
        chat_before = service.get("/usage/workspaces/acme/chats/c").body
        service.stop()
        service.start()
        after = service.get("/usage/workspaces/acme").body
        assert {**after, "at": None} == {**before, "at": None}
        assert service.get("/usage/workspaces/acme/chats/c").body == chat_before
        denied = service.post("/check", {"workspace_id": "acme", "estimate_micros": 20})
        assert denied.status == 402


def test_a_second_service_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with running_service(tmp_path) as service:
        second = Service(tmp_path, data_dir=tmp_path / "data")
        with pytest.raises(AssertionError, match=r"another|already"):
            second.start()
        second.kill()
        assert service.get("/healthz").status == 200
