"""A Redis of a test's own, with its data on disk, to be killed and started again."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.parts import need

START_MS_MAX = 20_000
POLL_MS = 5


class RedisProcess:
    """One redis-server on a unix socket, with an append-only file in `folder`."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._binary = need("redis", shutil.which("redis-server"), "redis-server")
        self._folder = folder
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self.socket_path = folder / "redis.sock"
        self.url = f"unix://{self.socket_path}"
        self.client = redis.Redis(
            unix_socket_path=str(self.socket_path), retry=Retry(NoBackoff(), 0), protocol=2
        )

    def start(self, *more: str) -> None:
        """Starts it and waits until it answers. `more`: arguments of this start only."""
        self._process = subprocess.Popen(
            [
                *(self._binary, "--port", "0", "--unixsocket", str(self.socket_path)),
                *("--dir", str(self._folder), "--save", "", "--appendonly", "yes"),
                # Under `everysec` a write waits while a sync is under way, and a kill loses it.
                *("--appendfsync", "no"),
                *self._arguments,
                *more,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START_MS_MAX / 1000
        while time.monotonic() < deadline:
            with contextlib.suppress(redis.RedisError):
                self.client.ping()
                return
            time.sleep(POLL_MS / 1000)
        raise AssertionError("redis-server does not answer")

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9; harmless if it has ended."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait(START_MS_MAX / 1000)
            self._process = None

    def wipe(self) -> None:
        """Takes away what it had on disk, while it is down."""
        assert self._process is None
        shutil.rmtree(self._folder / "appendonlydir", ignore_errors=True)


@contextlib.contextmanager
def running_redis(folder: Path, *arguments: str) -> Iterator[RedisProcess]:
    server = RedisProcess(folder, *arguments)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        server.client.close()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisProcess]:
    """A server that a test has for itself."""
    folder = tmp_path / "redis"
    folder.mkdir()
    with running_redis(folder) as server:
        yield server
