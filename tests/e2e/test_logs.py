"""The log of a whole service: every line of every process, in the format that was asked for."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from limiter.settings import Settings
from tests.support.redis_process import RedisProcess
from tests.support.service import Service, running_service
from tests.support.waiting import eventually

WORKSPACE_KEY = "lim:{0}:acme:workspace"
TEXT_LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z "
    r"(DEBUG|INFO|WARNING|ERROR|CRITICAL) +\[\d+\] [a-z_.]+: .*"
)


def live_through(service: Service, server: RedisProcess, *, told: str = "Redis is away") -> str:
    """A failed call, a keeper that is killed, an outage, an end.

    `told`: what the log has of the outage. Returns the id of the failed call that brought none.
    """
    assert service.post("/check", {"workspace_id": "acme"}).status == 200
    # A foreign write to one of our keys.
    server.client.set(WORKSPACE_KEY, "foreign")
    failed = service.post("/check", {"workspace_id": "acme"}, **{"X-Request-ID": "r-7"})
    made = service.post("/check", {"workspace_id": "acme"}, **{"X-Request-ID": "a b"})
    assert (failed.status, failed.headers["x-request-id"]) == (500, "r-7")
    server.client.delete(WORKSPACE_KEY)
    keeper = next(pid for pid in family(service.pid) if "limiter.keeper" in command_of(pid))
    os.kill(keeper, signal.SIGKILL)
    eventually(lambda: service.log, lambda log: "is started again" in log)
    server.kill()
    assert service.post("/check", {"workspace_id": "acme"}).status == 200
    assert told in eventually(lambda: service.log, lambda log: told in log)
    service.stop()
    return made.headers["x-request-id"]


def family(pid: int) -> list[int]:
    found = [pid]
    for path in Path("/proc").glob(f"{pid}/task/*/children"):
        for child in path.read_text().split():
            found += family(int(child))
    return found


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


@pytest.mark.parametrize("workers", [1, 2])
def test_every_line_of_every_process_is_an_object(
    tmp_path: Path, redis_server: RedisProcess, workers: int
) -> None:
    with running_service(
        tmp_path, redis_url=redis_server.url, workers=workers, log_format="json"
    ) as service:
        made = live_through(service, redis_server)
        supervisor = service.pid
        lines: list[dict[str, Any]] = [json.loads(line) for line in service.log.splitlines()]
    for line in lines:
        assert set(line) - {"request_id", "exception"} == {
            *["time", "level", "logger", "message", "pid"]
        }
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert {"limiter.keeperprocess", "limiter.runtime", "uvicorn.error"} <= {
        line["logger"] for line in lines
    }
    # With one worker, that is the supervisor itself. The second keeper has words of its own.
    pids = {line["pid"] for line in lines}
    assert supervisor in pids
    assert len(pids) >= (2 if workers == 1 else 4)
    failures = [line for line in lines if line["message"] == "script_error"]
    assert [line.get("request_id") for line in failures] == ["r-7", made]
    for line in failures:
        assert line["level"] == "error"
        assert line["exception"].startswith("Traceback")
        assert "ScriptError" in line["exception"]
    # What happens to all is told in nobody's name.
    away = [line for line in lines if "Redis is away" in line["message"]]
    assert away
    assert not [line for line in away if "request_id" in line]


def test_text_is_the_default_and_has_the_same(tmp_path: Path, redis_server: RedisProcess) -> None:
    assert Settings().log_format == "text"
    with running_service(tmp_path, redis_url=redis_server.url) as service:
        made = live_through(service, redis_server)
        lines = service.log.splitlines()
    heads = [line for line in lines if not line.startswith("  | ")]
    assert [line for line in heads if TEXT_LINE.fullmatch(line) is None] == []
    for request_id in ("r-7", made):
        assert [line for line in heads if line.endswith(f"script_error [request {request_id}]")]
    assert "  | Traceback (most recent call last):" in lines


def test_the_level_is_that_of_all_processes(tmp_path: Path, redis_server: RedisProcess) -> None:
    with running_service(
        tmp_path, redis_url=redis_server.url, log_format="json", log_level="error"
    ) as service:
        live_through(service, redis_server, told="is started again")
        lines = [json.loads(line) for line in service.log.splitlines()]
    assert lines
    assert {line["level"] for line in lines} <= {"error", "critical"}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_request_that_goes_well_leaves_no_line(tmp_path: Path, workers: int) -> None:
    with running_service(tmp_path, workers=workers, log_level="debug") as service:
        # The connection is closed before the next is answered, with all that it may have logged.
        for _ in range(2):
            assert service.post("/check", {"workspace_id": "acme"}).status == 200
            assert service.get("/healthz").status == 200
        service.stop()
        assert "started" in service.log.lower()
        assert "/check" not in service.log
        assert "/healthz" not in service.log
