"""Servers that cannot answer now: the call says so, and nothing has changed on the server."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from limiter.errors import RedisUnavailable
from limiter.redis.runner import ScriptRunner
from tests.redis.pipeline.peer import eventually, pipeline_of, refusal
from tests.redis.support import unix_url, wait_until
from tests.support.answers import Usage
from tests.support.clock import DrivenClock, driven_scripts
from tests.support.driver import Driver, parse
from tests.support.servers import ServerProcess, connect, server_process

LONG_MS = 20_000
HOUR_MS = 3_600_000
SCRIPTS = driven_scripts()

Fault = Callable[[ServerProcess], AbstractContextManager[None]]


# --------------------------------------------------------------------- the faults


@contextmanager
def configured(server: ServerProcess, **values: str | int) -> Iterator[None]:
    names = {name: name.replace("_", "-") for name in values}
    before = {name: server.client.config_get(names[name])[names[name]] for name in values}
    for name, value in values.items():
        server.client.config_set(names[name], value)
    try:
        yield
    finally:
        for name, value in before.items():
            server.client.config_set(names[name], str(value))


def out_of_memory(server: ServerProcess) -> AbstractContextManager[None]:
    return configured(server, maxmemory=1)


def too_few_replicas(server: ServerProcess) -> AbstractContextManager[None]:
    return configured(server, min_replicas_to_write=1)


@contextmanager
def replica(server: ServerProcess) -> Iterator[None]:
    """Of a server that is not there."""
    server.client.replicaof("127.0.0.1", "1")
    try:
        yield
    finally:
        server.client.replicaof("NO", "ONE")


@contextmanager
def failing_save(server: ServerProcess) -> Iterator[None]:
    """The dump cannot take the place of a folder that is not empty."""
    folder = Path(str(server.client.config_get("dir")["dir"]))
    (folder / "dump.rdb" / "file").mkdir(parents=True, exist_ok=True)
    with configured(server, save="3600 1"):
        server.client.bgsave()
        wait_until(lambda: save_status(server) == "err", "the save fails")
        yield


def save_status(server: ServerProcess) -> object:
    return server.client.info("persistence")["rdb_last_bgsave_status"]


FAULTS: dict[str, Fault] = {
    "OOM": out_of_memory,
    "READONLY": replica,
    "MISCONF": failing_save,
    "NOREPLICAS": too_few_replicas,
}


# --------------------------------------------------------------------- the calls


class World:
    """A workspace with a chat tree, spend in several buckets, and holds, one of them expired."""

    def __init__(self, server: ServerProcess) -> None:
        self.client = server.client
        self.client.flushall()
        self.driver = Driver(self.client, SCRIPTS)
        self.clock = DrivenClock(self.client)
        self.driver.load({"limit.hourly": 1_000_000, "limit.monthly": 9_000_000})
        self.driver.record(5_000, "e1", chat="root", new=True)
        self.clock.advance(HOUR_MS // 2)
        self.driver.record(7_000, "e2", chat="leaf", parent="root", new=True)
        self.driver.check(1_000, "expired", hold_ms=1_000, chat="leaf")
        self.driver.check(2_000, "held", chat="leaf", hold_ms=10 * HOUR_MS)
        self.clock.advance(2_000)

    def command(self, name: str) -> tuple[str, tuple[str, ...], list[Any]]:
        """A call of each script that writes: its name, keys and arguments."""
        memory_ms = self.driver.memory_ms
        chat_key = self.driver.names.chat("acme", "other")
        stored = (
            '{"config": {"limit.hourly": "5"}, "revision": "1", "seq": "0", "spent_at": "0",'
            ' "clock": "0", "unpriced": "0", "windows": {}, "holds": [], "events": []}'
        )
        keys = (self.driver.workspace_key, self.driver.stream_key)
        calls: dict[str, tuple[str, tuple[str, ...], list[Any]]] = {
            "check": ("check", keys, [memory_ms, 500, "r1", 0, "f", HOUR_MS, "leaf", "", "", 0]),
            "check of a new chat": (
                "check",
                keys,
                [memory_ms, 500, "r1", 0, "f", HOUR_MS, "new", "leaf", 10_000, 1],
            ),
            "record": (
                "record",
                keys,
                [memory_ms, "e9", 0, "f", 900, "", "leaf", "", "", 0, "", "", "", "", 1, "{}"],
            ),
            "record of a hold": (
                "record",
                keys,
                [memory_ms, "e9", 0, "f", 900, "held", "", "", "", 0, "", "", "", "", 1, "{}"],
            ),
            "release": ("release", keys, [memory_ms, "held"]),
            "configure": ("configure", keys[:1], [2, "limit.hourly", 5, "limit.monthly", ""]),
            "load_chat": ("load_chat", (chat_key,), ["", "other", 1, 700, 10, 10, 0, 1]),
            "load_workspace": (
                "load_workspace",
                (self.driver.names.workspace("other"),),
                [memory_ms, stored],
            ),
        }
        return calls[name]

    def keyspace(self) -> dict[bytes, tuple[object, object]]:
        """Every key, to the byte and the millisecond of its end."""
        keys: list[bytes] = sorted(self.client.keys("*"))
        return {
            key: (self.client.dump(key), self.client.execute_command("PEXPIRETIME", key))
            for key in keys
        }

    def usage(self) -> tuple[Usage, Usage]:
        return self.driver.usage(), self.driver.usage("leaf")


WRITES = (
    "check",
    "check of a new chat",
    "record",
    "record of a hold",
    "release",
    "configure",
    "load_chat",
    "load_workspace",
)


@pytest.mark.parametrize("code", FAULTS)
async def test_a_write_that_is_refused_changes_nothing(
    own_server: ServerProcess, code: str
) -> None:
    async with pipeline_of(unix_url(own_server), deadline_ms=LONG_MS) as pipeline:
        runner = ScriptRunner(pipeline, SCRIPTS)
        for write in WRITES:
            world = World(own_server)
            name, keys, args = world.command(write)
            before = world.keyspace()
            with FAULTS[code](own_server):
                outcome = await outcome_of(runner.run(name, keys, *args))
            print(write, outcome, world.keyspace() == before)


async def outcome_of(call):
    try:
        return (await call)[0]
    except Exception as e:
        return repr(e)
