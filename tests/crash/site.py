"""A service with its Redis and its ledger, to be killed in parts and started again.

Owns processes and files. It must not know what is sent to the service.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Literal

import redis

from limiter.durable import Storage
from tests.support.redis_process import RedisProcess
from tests.support.service import Service, session_pids

# `worker`, `keeper`: one process of a service, which starts another in its place. A worker is
# one of its own only where there are several.
Victim = Literal["service", "redis", "both", "worker", "keeper"]

# What their command lines have.
_PROCESSES = {"worker": b"spawn_main", "keeper": b"limiter.keeper"}

_PORTS = range(20_000, 32_000)
_SETTLE_MS_MAX = 30_000
_POLL_MS = 20


class Site:
    """One service over a Redis of its own (`embedded`: the service's) and a database.

    `database_url`: of an empty one; without it, SQLite in `folder`. `running` is set while the
    service takes connections: clients wait for it. Where a Redis is to be `wiped`, it loses its
    data with whatever is killed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        embedded: bool,
        random_source: random.Random,
        database_url: str | None = None,
        **settings: object,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._random = random_source
        self._data_dir = folder / "data"
        self.redis: RedisProcess | None = None
        if not embedded:
            (folder / "redis").mkdir()
            self.redis = RedisProcess(folder / "redis")
            settings["redis_url"] = self.redis.url
        if database_url is not None:
            settings["database_url"] = database_url
        port = _free_port()
        self.service = Service(folder, **{**settings, "port": port})
        self.service.port = port
        self.service.url = f"http://127.0.0.1:{port}"
        self.running = asyncio.Event()
        self.storage = Storage(database_url or f"sqlite:///{self._data_dir / 'limiter.db'}")

    async def __aenter__(self) -> Site:
        try:
            if self.redis is not None:
                self.redis.start()
            await self._start_service()
            await self.storage.start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.running.clear()
        await self.storage.close()
        self.service.kill()
        if self.redis is not None:
            self.redis.kill()
            self.redis.client.close()

    async def crash(self, victim: Victim, *, wipe: bool, pause_ms_max: int) -> tuple[float, float]:
        """kill -9, a pause, and everything up again. Returns once the service is ready.

        Returns when the kill was begun and when all was dead and wiped, by the monotonic clock.
        """
        begun_s = time.monotonic()
        if victim in ("redis", "worker", "keeper"):
            if wipe and (victim != "redis" or self.redis is None):
                # Nobody can take away what is on disk: the server goes on, or is back at once.
                self._wipe_where_it_runs()
            if victim == "redis":
                self._kill_redis(wipe=wipe)
            else:
                self._kill_process(_PROCESSES[victim])
            dead_s = time.monotonic()
            await self._pause(pause_ms_max)
            if victim == "redis":
                await self._start_redis()
            await self.ready()
            return begun_s, dead_s
        if victim == "both" and self._random.random() < 0.5:
            # Redis first, and the service a moment later, with what it could still do meanwhile.
            self._kill_redis(wipe=wipe)
            await self._pause(50)
            self._kill_service()
        else:
            self._kill_service()
            if victim == "both":
                await self._pause(50)
                self._kill_redis(wipe=wipe)
        if wipe and (victim == "service" or self.redis is None):
            self._wipe_behind_the_service()
        dead_s = time.monotonic()
        await self._pause(pause_ms_max)
        if victim == "both":
            await self._start_redis()
        await self._start_service()
        return begun_s, dead_s

    async def ready(self) -> None:
        """Waits until the service says that Redis and the store answer it."""
        for _ in range(_SETTLE_MS_MAX // _POLL_MS):
            answer = await asyncio.to_thread(self.service.get, "/readyz")
            if answer.status == 200:
                return
            await asyncio.sleep(_POLL_MS / 1000)
        raise AssertionError(f"the service is not ready again: {self.service.log[-2_000:]}")

    async def settled(self) -> bool:
        """Waits until nothing is on its way to the ledger, or from there to Redis."""
        for _ in range(_SETTLE_MS_MAX // _POLL_MS):
            with contextlib.closing(self._client()) as client:
                waiting = sum(client.xlen(key) for key in client.scan_iter("lim:*:stream"))
            if waiting == 0 and not await self.storage.unapplied():
                return True
            await asyncio.sleep(_POLL_MS / 1000)
        return False

    # ------------------------------------------------------------------ the parts

    def _kill_service(self) -> None:
        # In one turn of the loop: nobody connects to a port that nobody listens on.
        self.running.clear()
        self.service.kill()

    def _kill_process(self, part_of_command: bytes) -> None:
        """Any one of those. None may be there: the last kill was a moment ago."""
        pids = [
            pid for pid in session_pids(self.service.pid) if part_of_command in _command_line(pid)
        ]
        if pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._random.choice(sorted(pids)), signal.SIGKILL)

    async def _start_service(self) -> None:
        await asyncio.to_thread(self.service.start)
        self.running.set()

    def _kill_redis(self, *, wipe: bool) -> None:
        if self.redis is None:
            # The service's own server: its pid is in the lock file of the service's data.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
                os.kill(int(self._embedded_pid_path().read_text()), signal.SIGKILL)
            return
        self.redis.kill()
        if wipe:
            self.redis.wipe()

    async def _start_redis(self) -> None:
        if self.redis is not None:
            await asyncio.to_thread(self.redis.start)

    def _wipe_behind_the_service(self) -> None:
        if self.redis is None:
            shutil.rmtree(self._data_dir / "redis" / "appendonlydir", ignore_errors=True)
        else:
            self._wipe_where_it_runs()

    def _wipe_where_it_runs(self) -> None:
        with contextlib.closing(self._client()) as client:
            client.flushall()

    def _client(self) -> redis.Redis:
        if self.redis is not None:
            return redis.Redis(unix_socket_path=str(self.redis.socket_path))
        state = json.loads(next(self._data_dir.rglob("server.json")).read_text())
        return redis.Redis(unix_socket_path=state["socket"])

    def _embedded_pid_path(self) -> Path:
        return next(self._data_dir.rglob("server.lock"))

    async def _pause(self, pause_ms_max: int) -> None:
        await asyncio.sleep(self._random.randrange(pause_ms_max + 1) / 1000)


def _command_line(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _free_port() -> int:
    """One that the system gives to no outgoing connection, so that it is free again after a kill.

    A client that tries again and again to reach a service that is down may otherwise be given its
    very port, and be connected to itself.
    """
    for port in random.sample(_PORTS, 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")
