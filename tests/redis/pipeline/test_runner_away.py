"""Servers that cannot answer now: a call says so in time, and has changed nothing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
import redis

from limiter.errors import RedisUnavailable
from limiter.redis.runner import ScriptRunner
from tests.redis.pipeline.peer import (
    DEADLINE_MS,
    SLACK_MS,
    begin,
    elapsed_ms,
    eventually,
    pipeline_of,
    refusal,
)
from tests.redis.support import unix_url, wait_until
from tests.support.answers import Said
from tests.support.clock import DrivenClock, driven_scripts
from tests.support.driver import Argument, Driver, parse
from tests.support.servers import ServerProcess, connect, server_process

LONG_MS = 20_000
HOUR_MS = 3_600_000
SCRIPTS = driven_scripts()

Fault = Callable[[ServerProcess], AbstractContextManager[None]]


# --------------------------------------------------------------------- the faults


@contextmanager
def configured(server: ServerProcess, name: str, value: str | int) -> Iterator[None]:
    before = server.client.config_get(name)[name]
    server.client.config_set(name, value)
    try:
        yield
    finally:
        server.client.config_set(name, str(before))


def full_memory(server: ServerProcess) -> AbstractContextManager[None]:
    return configured(server, "maxmemory", 1)


def missing_replica(server: ServerProcess) -> AbstractContextManager[None]:
    return configured(server, "min-replicas-to-write", 1)


@contextmanager
def failing_save(server: ServerProcess) -> Iterator[None]:
    """The dump cannot take the place of a folder that is not empty."""
    folder = Path(str(server.client.config_get("dir")["dir"]))
    (folder / "dump.rdb" / "file").mkdir(parents=True)
    with configured(server, "save", "3600 1"):
        server.client.bgsave()
        wait_until(lambda: save_status(server) == "err", "the save fails")
        yield


def save_status(server: ServerProcess) -> object:
    return server.client.info("persistence")["rdb_last_bgsave_status"]


@contextmanager
def replica(server: ServerProcess) -> Iterator[None]:
    """Of a server that is not there."""
    server.client.replicaof("127.0.0.1", "1")
    try:
        yield
    finally:
        server.client.replicaof("NO", "ONE")


FAULTS: dict[str, Fault] = {
    "OOM": full_memory,
    "READONLY": replica,
    "MISCONF": failing_save,
    "NOREPLICAS": missing_replica,
}


# --------------------------------------------------------------------- the calls


class Unsent(Exception):
    def __init__(self, command: tuple[Any, ...]) -> None:
        self.command = command


class Listener(Driver):
    """Builds calls and sends none."""

    def call(self, name: str, *args: Argument, key: str | None = None) -> NoReturn:
        raise Unsent((name, *self.command(name, *args, key=key)))


CONFIG: Mapping[str, Argument] = {"limit.hourly": 1_000_000, "limit.monthly": 9_000_000}

# One call or more of each script that a request leads to, apart from reading.
WRITES: dict[str, Callable[[Driver], object]] = {
    "check": lambda acme: acme.check(500, "r1", chat="leaf"),
    "check of a new chat": lambda acme: acme.check(500, "r2", chat="new", parent="leaf", new=True),
    "record": lambda acme: acme.record(900, "e8", chat="leaf"),
    "record of a new chat": lambda acme: acme.record(900, "e9", chat="newer", new=True),
    "record of a hold": lambda acme: acme.record(900, "e10", "held-1"),
    "release": lambda acme: acme.release("held-2"),
    "configure": lambda acme: acme.configure(2, {"limit.hourly": 500_000, "limit.daily": 5}),
    "load a chat": lambda acme: acme.load_chat("other", limit=700, spent=10, own=10, revision=1),
    "load a workspace": lambda acme: Listener(acme.client, SCRIPTS, workspace_id="globex").load(
        CONFIG
    ),
}

# With full memory, servers refuse what adds, but let a script go on that began by removing. These
# add first, unless there is something overdue.
ADD_FIRST = ("check", "check of a new chat", "record", "record of a new chat")


class World:
    """A workspace with a chat tree, spend in several buckets, and holds.

    After `age_ms`, what there is to evict is what a script does first.
    """

    def __init__(
        self, server: ServerProcess, *, age_ms: int = 0, has_overdue_hold: bool = True
    ) -> None:
        self.client = server.client
        self.client.flushall()
        self.clock = DrivenClock(self.client)
        self.acme = Driver(self.client, SCRIPTS)
        self.acme.load(CONFIG)
        self.acme.record(5_000, "e1", chat="root", new=True)
        self.clock.advance(HOUR_MS // 2)
        self.acme.record(7_000, "e2", chat="leaf", parent="root", new=True)
        if has_overdue_hold:
            self.acme.check(1_000, "overdue", hold_ms=1_000, chat="leaf")
        for reservation_id in ("held-1", "held-2"):
            self.acme.check(2_000, reservation_id, hold_ms=100 * HOUR_MS, chat="leaf")
        self.clock.advance(2_000 + age_ms)
        assert self.client.zcard("lim:{0}:acme:holds") == 2 + has_overdue_hold

    async def run(self, runner: ScriptRunner, write: str) -> list[Any]:
        listener = Listener(self.client, SCRIPTS)
        listener.epoch = self.acme.epoch
        with pytest.raises(Unsent) as unsent:
            WRITES[write](listener)
        name, _, _, count, *rest = unsent.value.command
        return await runner.run(name, tuple(rest[:count]), *rest[count:])

    def keyspace(self) -> dict[bytes, tuple[object, object]]:
        """Every key, to the byte, and when it ends, to the millisecond."""
        keys = sorted(self.client.scan_iter())
        return {
            key: (self.client.dump(key), self.client.execute_command("PEXPIRETIME", key))
            for key in keys
        }

    def sums(self) -> tuple[object, ...]:
        """What the scripts say of it, and what they wrote for durable storage."""
        entries = [fields for _, fields in self.acme.entries()]
        return self.acme.usage(), self.acme.usage("leaf"), entries


def is_done(reply: list[Any]) -> bool:
    answer = parse(reply)
    return not isinstance(answer, Said) or answer.status in ("configured", "loaded")


# --------------------------------------------------------------------- refused writes


@pytest.mark.parametrize("code", FAULTS)
async def test_a_write_that_the_server_refuses_changes_nothing(
    own_server: ServerProcess, code: str
) -> None:
    async with pipeline_of(unix_url(own_server), deadline_ms=LONG_MS) as pipeline:
        runner = ScriptRunner(pipeline, SCRIPTS)
        world = World(own_server, has_overdue_hold=code != "OOM")
        before = world.keyspace()
        writes = ADD_FIRST if code == "OOM" else tuple(WRITES)
        with FAULTS[code](own_server):
            for write in writes:
                for _ in ("by EVAL", "by EVALSHA"):
                    message = await refusal(world.run(runner, write))
                    assert message == f"Redis cannot answer: {code}", write
                assert world.keyspace() == before, write
        for write in writes:
            assert is_done(await world.run(runner, write)), write
        assert world.keyspace() != before


@pytest.mark.parametrize("write", WRITES)
async def test_with_full_memory_a_script_is_refused_or_finishes(
    own_server: ServerProcess, write: str
) -> None:
    """Here there are overdue holds and old buckets, which most scripts remove first."""
    age_ms = 30 * HOUR_MS
    async with pipeline_of(unix_url(own_server), deadline_ms=LONG_MS) as pipeline:
        runner = ScriptRunner(pipeline, SCRIPTS)
        world = World(own_server, age_ms=age_ms)
        assert is_done(await world.run(runner, write))
        finished = world.sums()
        world = World(own_server, age_ms=age_ms)
        before = world.keyspace()
        with full_memory(own_server):
            try:
                reply = await world.run(runner, write)
            except RedisUnavailable:
                assert world.keyspace() == before
            else:
                assert is_done(reply)
        await world.run(runner, write)
        assert world.sums() == finished


# --------------------------------------------------------------------- servers that are not ready


async def status(runner: ScriptRunner) -> bytes:
    driver = Driver(redis.Redis(), SCRIPTS)
    _, _, _, *rest = driver.usage_command()
    reply = await runner.run("usage", tuple(rest[:2]), *rest[2:])
    return bytes(reply[0])


async def test_a_server_that_is_loading_is_unavailable_until_it_has_loaded(binary: Path) -> None:
    with server_process(binary, "--enable-debug-command", "yes") as server:
        for number in range(100):
            # Not compressible, so that the load is in more than one piece.
            server.client.set(f"key {number}", random.randbytes(2_000))
        server.client.config_set("loading-process-events-interval-bytes", 1_024)
        server.client.config_set("key-load-delay", 5_000)
        async with pipeline_of(unix_url(server), deadline_ms=LONG_MS) as pipeline:
            runner = ScriptRunner(pipeline, SCRIPTS)
            assert await status(runner) == b"cold"
            reload = asyncio.to_thread(server.client.execute_command, "DEBUG", "RELOAD")
            reloading = asyncio.create_task(reload)
            messages, pings = set(), set()
            while not reloading.done():
                try:
                    await status(runner)
                except RedisUnavailable as error:
                    messages.add(str(error))
                    pings.add(await runner.ping())
                await asyncio.sleep(0.005)
            assert messages == {"Redis cannot answer: LOADING"}
            assert False in pings
            assert await status(runner) == b"cold"
            assert await runner.ping() is True


async def test_a_server_whose_master_is_away_is_unavailable(own_server: ServerProcess) -> None:
    async with pipeline_of(unix_url(own_server), deadline_ms=LONG_MS) as pipeline:
        runner = ScriptRunner(pipeline, SCRIPTS)
        with configured(own_server, "replica-serve-stale-data", "no"), replica(own_server):
            assert await refusal(status(runner)) == "Redis cannot answer: MASTERDOWN"
        assert await status(runner) == b"cold"


async def test_a_server_busy_with_anothers_script_is_unavailable(
    own_server: ServerProcess,
) -> None:
    async with pipeline_of(unix_url(own_server)) as pipeline:
        runner = ScriptRunner(pipeline, SCRIPTS)
        assert await status(runner) == b"cold"
        own_server.client.config_set("lua-time-limit", 1)
        with connect(own_server.socket_path) as other:
            spinning = asyncio.create_task(asyncio.to_thread(spin, other))
            assert await eventual_refusal(runner) == "Redis cannot answer: BUSY"
            assert await runner.ping() is False
            # It answers at once: nobody waits for a deadline.
            assert await elapsed_ms(status(runner)) < SLACK_MS
            own_server.client.script_kill()
            await spinning
        await eventually(lambda: status(runner), DEADLINE_MS + SLACK_MS)


def spin(client: redis.Redis) -> None:
    with pytest.raises(redis.ResponseError, match="killed"):
        client.eval("while true do end", 0)


async def eventual_refusal(runner: ScriptRunner) -> str:
    """The first refusal: until the server takes a script for slow, it leaves calls waiting."""
    async with asyncio.timeout(LONG_MS / 1000):
        while True:
            try:
                await status(runner)
            except RedisUnavailable as error:
                if "in time" not in str(error):
                    return str(error)


async def test_a_slow_server_answers_late_and_is_not_asked_twice(
    own_server: ServerProcess,
) -> None:
    """The caller gives up, the call takes effect: that is what idempotency ids are for."""
    async with pipeline_of(unix_url(own_server)) as pipeline:
        runner = ScriptRunner(pipeline, SCRIPTS)
        world = World(own_server)
        assert await runner.ping() is True
        own_server.client.execute_command("CLIENT", "PAUSE", 3 * DEADLINE_MS, "WRITE")
        calls = [begin(elapsed_ms(world.run(runner, "record"))) for _ in range(20)]
        assert max(await asyncio.gather(*calls)) <= DEADLINE_MS + SLACK_MS
        own_server.client.execute_command("CLIENT", "UNPAUSE")
        await eventually(lambda: world.run(runner, "record"), DEADLINE_MS + SLACK_MS)
        records = [fields for _, fields in world.acme.entries() if fields["type"] == "record"]
        assert [fields["event"] for fields in records] == ["e1", "e2", "e8"]
