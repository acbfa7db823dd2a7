"""The table of servers that the tests run on, and the processes behind it.

Each real server is a process of the tests' own: in a folder of its own, on a unix socket and a free
loopback port, with no persistence. It ends with the test run, also when that is killed.
It must not know what is tested.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fakeredis
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from limiter.redis.binaries import bundled_binary
from tests.support.parts import need

START_MS_MAX = 20_000
POLL_MS = 5
REPLY_MS_MAX = 10_000

# Starts the server as a child, says its pid, and kills it when standard input ends, which it does
# with this test run however that ends. A shell has this everywhere; a parent-death signal has not.
GUARD = (
    '"$@" </dev/null & pid=$!; exec 2>/dev/null; echo $pid; cat >/dev/null; kill -9 $pid; wait $pid'
)


@dataclass(frozen=True, slots=True)
class Server:
    """One server of the table, as tests see it. `url` is None where no process listens."""

    name: str
    url: str | None
    socket_path: Path | None
    client: redis.Redis

    @property
    def is_real(self) -> bool:
        return self.url is not None

    def flush(self) -> None:
        self.client.execute_command("FLUSHALL")


@dataclass(frozen=True, slots=True)
class Backend:
    """One row of the table. `part` is what `TESTS_REQUIRE` calls it."""

    name: str
    part: str
    binary: Callable[[], Path | None]
    cluster: bool = False

    @contextlib.contextmanager
    def run(self) -> Iterator[Server]:
        binary = need(self.part, self.binary(), f"the server binary of {self.name}")
        with server_process(binary, cluster=self.cluster) as process:
            yield Server(self.name, process.url, process.socket_path, process.client)


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A server that runs."""

    pid: int
    port: int
    socket_path: Path
    client: redis.Redis

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


def _system_binary() -> Path | None:
    found = shutil.which("redis-server")
    return None if found is None else Path(found)


BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("valkey", "embedded", bundled_binary),
        Backend("valkey-cluster", "cluster", bundled_binary, cluster=True),
        Backend("redis", "redis", _system_binary),
    )
}
FAKE = "fakeredis"
REAL_SERVERS = tuple(BACKENDS)
ALL_SERVERS = (FAKE, *REAL_SERVERS)


class ServerTable:
    """Starts each server when it is first asked for, and ends them all."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._servers: dict[str, Server] = {}

    def __enter__(self) -> ServerTable:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __getitem__(self, name: str) -> Server:
        if name not in self._servers:
            self._servers[name] = self._start(name)
        return self._servers[name]

    def _start(self, name: str) -> Server:
        if name == FAKE:
            client = fakeredis.FakeRedis(server=fakeredis.FakeServer(version=(7,)))
            return Server(FAKE, None, None, client)
        return self._stack.enter_context(BACKENDS[name].run())


@contextlib.contextmanager
def server_process(binary: Path, *options: str, cluster: bool = False) -> Iterator[ServerProcess]:
    """A server of one's own; `options` are further arguments of the binary.

    In cluster mode this one process owns all slots.
    """
    with tempfile.TemporaryDirectory(prefix="limiter-test-") as folder:
        port, bus_port = free_ports()
        socket_path, log = Path(folder) / "server.sock", Path(folder) / "server.log"
        arguments = {
            "port": str(port),
            "bind": "127.0.0.1",
            "unixsocket": str(socket_path),
            "dir": folder,
            "logfile": str(log),
            "save": "",
            "appendonly": "no",
        }
        if cluster:
            arguments |= {"cluster-enabled": "yes", "cluster-port": str(bus_port)}
        guard = subprocess.Popen(
            [
                *["/bin/sh", "-c", GUARD, "sh", str(binary)],
                *[part for name, value in arguments.items() for part in (f"--{name}", value)],
                *options,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # A Ctrl-C in the terminal is for the test run, which then ends its servers.
            start_new_session=True,
        )
        assert guard.stdin is not None
        assert guard.stdout is not None
        with guard.stdin, guard.stdout:
            pid = int(guard.stdout.readline())
            client = connect(socket_path)
            try:
                wait_for(lambda: bool(client.execute_command("PING")), log)
                if cluster:
                    client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
                    wait_for(lambda: _cluster_is_ok(client), log)
                yield ServerProcess(pid, port, socket_path, client)
            finally:
                client.close()
                guard.stdin.close()
                guard.wait(REPLY_MS_MAX / 1000)


def connect(socket_path: Path) -> redis.Redis:
    """A client that sends each command once."""
    return redis.Redis(
        unix_socket_path=str(socket_path),
        socket_timeout=REPLY_MS_MAX / 1000,
        retry=Retry(NoBackoff(), 0),
    )


def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def _cluster_is_ok(client: redis.Redis) -> bool:
    info: Any = client.execute_command("CLUSTER", "INFO")
    return b"cluster_state:ok" in info


def wait_for(condition: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + START_MS_MAX / 1000
    while True:
        with contextlib.suppress(redis.ConnectionError):
            if condition():
                return
        if time.monotonic() > deadline:
            words = log.read_text(errors="replace")[-1000:] if log.exists() else "nothing"
            raise TimeoutError(f"no server within {START_MS_MAX} ms; it last said: {words}")
        time.sleep(POLL_MS / 1000)
