"""examples/runaway_agent.py tells what is true: its amounts are those of the service."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.runaway_agent import CALL_MICROS, LIMIT_MICROS, WORKSPACE
from tests.repo.tree import ROOT
from tests.support.service import Service, free_port, running_service

EXAMPLE = ROOT / "examples" / "runaway_agent.py"
TIMEOUT_S = 120


def run(url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, EXAMPLE, "--url", url],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("example")
    with running_service(folder, redis_deadline_ms=10_000) as service:
        yield service


def line(pattern: str, printed: str) -> re.Match[str]:
    found = re.search(pattern, printed)
    assert found is not None, printed
    return found


def test_it_is_stopped_at_a_dollar_and_would_have_spent_eighteen(service: Service) -> None:
    done = run(service.url)
    assert done.returncode == 0, done.stderr
    assert "  900 calls, $18.00. Nobody stopped it.\n" in done.stdout
    assert "  50 calls, $1.00. Then it was told:\n" in done.stdout
    assert LIMIT_MICROS == 50 * CALL_MICROS

    told = line(r"a call of \$0\.02 is denied: chat (run-\w+) limit \$1\.00, ", done.stdout)
    counted = line(
        r"has counted \$1\.00 for (run-\w+) and its (\d+) sub-agents, and holds \$0\.00",
        done.stdout,
    )
    assert told[1] == counted[1]
    chat = service.get(f"/usage/workspaces/{WORKSPACE}/chats/{counted[1]}").body
    assert (chat["spent_micros"], chat["held_micros"]) == (LIMIT_MICROS, 0)
    assert (chat["limit_micros"], chat["own_spent_micros"]) == (LIMIT_MICROS, 0)
    assert len(chat["children"]) == int(counted[2])
    below = [
        service.get(f"/usage/workspaces/{WORKSPACE}/chats/{child}").body["spent_micros"]
        for child in chat["children"]
    ]
    assert sum(below) == LIMIT_MICROS
    workspace = service.get(f"/usage/workspaces/{WORKSPACE}").body
    assert {period["spent_micros"] for period in workspace["periods"].values()} == {LIMIT_MICROS}


def test_it_may_be_run_again(service: Service) -> None:
    before = service.get(f"/usage/workspaces/{WORKSPACE}").body["periods"]["hourly"]["spent_micros"]
    done = run(service.url)
    assert "  50 calls, $1.00. Then it was told:\n" in done.stdout, done.stderr
    after = service.get(f"/usage/workspaces/{WORKSPACE}").body["periods"]["hourly"]["spent_micros"]
    assert after - before == LIMIT_MICROS


def test_the_commands_that_it_names_show_the_same(service: Service) -> None:
    printed = run(service.url).stdout
    command = line(r"limiter redis-cli (HMGET '[^']+' .+)", printed)[1]
    shown = subprocess.run(
        ["bash", "-c", f'"{Path(sys.executable).with_name("limiter")}" redis-cli {command}'],
        cwd=service.folder,
        env={"PATH": "/usr/bin:/bin", "LIMITER_DATA_DIR": str(service.folder / "data")},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert shown.stdout.split() == [str(LIMIT_MICROS), str(LIMIT_MICROS), "0"]


def test_without_a_service_it_says_what_to_do() -> None:
    done = run(f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert "Try `make run`." in done.stderr
