"""The tests' own servers: they end with the run that started them; none is skipped in silence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.parts import REQUIRE_VARIABLE, need
from tests.support.servers import BACKENDS, Server, server_process

ROOT = Path(__file__).resolve().parents[2]
WAIT_S_MAX = 10

START_AND_HANG = """
import sys
from tests.support.servers import BACKENDS, server_process

with server_process(BACKENDS["valkey"].binary()) as server:
    print(server.pid, flush=True)
    sys.stdin.read()
"""


def is_running(pid: int) -> bool:
    answer = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, check=False)
    return answer.stdout.strip() not in (b"", b"Z")


def wait_until_ended(pid: int) -> None:
    deadline = time.monotonic() + WAIT_S_MAX
    while is_running(pid):
        assert time.monotonic() < deadline, f"process {pid} still runs"
        time.sleep(0.01)


def test_a_server_ends_with_its_block() -> None:
    binary = need("embedded", BACKENDS["valkey"].binary(), "the Valkey binary")
    with server_process(binary) as process:
        assert is_running(process.pid)
    wait_until_ended(process.pid)


def test_a_server_ends_with_a_run_that_is_killed() -> None:
    need("embedded", BACKENDS["valkey"].binary(), "the Valkey binary")
    run = subprocess.Popen(
        [sys.executable, "-c", START_AND_HANG],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), *sys.path]))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert run.stdin is not None
    assert run.stdout is not None
    with run.stdin, run.stdout:
        pid = int(run.stdout.readline())
        assert is_running(pid)
        run.send_signal(signal.SIGKILL)
        run.wait(WAIT_S_MAX)
    wait_until_ended(pid)


@pytest.mark.servers("valkey-cluster")
def test_the_cluster_is_one(server: Server) -> None:
    info = server.client.execute_command("CLUSTER", "INFO")
    assert b"cluster_slots_ok:16384" in info
    assert server.client.execute_command("CLUSTER", "KEYSLOT", "lim:{0}:a:workspace") == (
        server.client.execute_command("CLUSTER", "KEYSLOT", "test:{0}:clock")
    )


@pytest.mark.parametrize(
    ("required", "outcome"),
    [
        ("", pytest.skip.Exception),
        ("a,b", pytest.skip.Exception),
        ("a, part", pytest.fail.Exception),
    ],
)
def test_a_missing_part_fails_only_the_run_that_requires_it(
    monkeypatch: pytest.MonkeyPatch, required: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv(REQUIRE_VARIABLE, required)
    assert need("part", 5, "a thing") == 5
    with pytest.raises(outcome, match="a thing is missing"):
        need("part", None, "a thing")
