"""Replays of the real trace against a real service, also one that is killed meanwhile."""

import asyncio
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from rich.console import Console

from limiter.redis.binaries import bundled_binary
from limiter.replay.command import ReplayOptions, replay
from tests.replay.processes import ServiceProcess, service_process
from tests.replay.traces import real_trace
from tests.support.parts import need

REQUESTS = 400
KILL_AFTER_CALLS = 250
CONCURRENCY = 8


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ServiceProcess]:
    need("embedded", bundled_binary(), "the embedded server's binary")
    with service_process(tmp_path) as process:
        yield process


class CountingTransport(httpx2.AsyncHTTPTransport):
    """The network; tells when so many calls have been made."""

    def __init__(self, calls: int) -> None:
        super().__init__(limits=httpx2.Limits(max_connections=CONCURRENCY, keepalive_expiry=2.0))
        self._left = calls
        self.reached = asyncio.Event()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self._left -= 1
        if self._left == 0:
            self.reached.set()
        return await super().handle_async_request(request)


def options(service: ServiceProcess, folder: Path, **changes: Any) -> ReplayOptions:
    return ReplayOptions(
        trace=real_trace(),
        url=service.url,
        workspaces=3,
        chats=9,
        concurrency=CONCURRENCY,
        requests_max=REQUESTS,
        json_path=folder / "report.json",
        **changes,
    )


def report_in(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "report.json").read_bytes())
    return report


async def test_every_counter_of_a_real_service_equals_the_tally(
    service: ServiceProcess, tmp_path: Path
) -> None:
    output = io.StringIO()
    status = await replay(options(service, tmp_path), Console(file=output, width=160))
    assert status == 0, output.getvalue()
    report = report_in(tmp_path)
    assert report["settled"] == REQUESTS
    assert report["denied_by"]["hourly"] > 0
    assert report["denied_by"]["daily"] > 0
    assert report["denied_by"]["chat_lifetime"] > 0
    assert report["spent_micros"] == report["counters_micros"] > 0
    assert report["overshoot_micros"] == report["degraded"] == report["late"] == 0
    assert report["not_compared"] == []


async def test_withheld_estimates_overshoot_by_no_more_than_their_charges(
    service: ServiceProcess, tmp_path: Path
) -> None:
    output = io.StringIO()
    changed = options(service, tmp_path, withhold_estimates=0.5)
    status = await replay(changed, Console(file=output, width=160))
    assert status == 0, output.getvalue()
    report = report_in(tmp_path)
    assert 0 < report["overshoot_micros"] <= report["unheld_micros"]


async def test_a_service_that_is_killed_meanwhile_counts_everything_once(
    service: ServiceProcess, tmp_path: Path
) -> None:
    output = io.StringIO()
    transport = CountingTransport(KILL_AFTER_CALLS)

    async def kill_and_start_again() -> None:
        await transport.reached.wait()
        await asyncio.to_thread(service.kill)
        await asyncio.to_thread(service.start)

    async with asyncio.timeout(180), asyncio.TaskGroup() as group:
        group.create_task(kill_and_start_again())
        status = await replay(
            options(service, tmp_path), Console(file=output, width=160), transport=transport
        )
    assert status == 0, output.getvalue()
    report = report_in(tmp_path)
    assert report["settled"] == REQUESTS
    assert report["repeats"] > 0
    assert report["spent_micros"] == report["counters_micros"] > 0


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """`limiter replay`, as it is typed."""
    program = Path(sys.executable).with_name("limiter")
    return subprocess.run(
        [program, "replay", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_command_prints_tables_and_writes_the_same(
    service: ServiceProcess, tmp_path: Path
) -> None:
    path = tmp_path / "report.json"
    done = command(
        real_trace(), "--url", service.url, "--workspaces", 2, "--requests", 100, "--json", path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every counter equals the tally" in done.stdout
    assert "requests: 100 of 100" in done.stderr
    assert f"{report_in(tmp_path)['spent_micros']:,} µ$" in done.stdout


def test_the_command_says_which_file_is_missing(tmp_path: Path) -> None:
    done = command(tmp_path / "nowhere.csv")
    assert done.returncode == 2
    assert "nowhere.csv: there is no such file" in done.stderr
    assert done.stdout == ""
