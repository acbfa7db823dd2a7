"""Real servers that freeze, pause, die and come back, under load."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from limiter.errors import RedisUnavailable
from limiter.redis.embedded import EmbeddedServer
from limiter.redis.pipeline import RECONNECT_PAUSE_MS, Pipeline
from tests.redis.pipeline.peer import (
    DEADLINE_MS,
    SLACK_MS,
    begin,
    elapsed_ms,
    eventually,
    pipeline_of,
)
from tests.redis.support import kill_and_await_restart, unix_url, wait_until
from tests.support.servers import ServerProcess

# A server that can be reached again is used again after a failed attempt to connect and a pause.
RECOVERY_MS_MAX = DEADLINE_MS + RECONNECT_PAUSE_MS + SLACK_MS


def url_of(server: ServerProcess, kind: str) -> str:
    return unix_url(server) if kind == "unix" else server.url


def connections(server: ServerProcess) -> int:
    return sum(client["name"] == "limiter" for client in server.client.client_list())


async def echoes(pipeline: Pipeline, count: int) -> None:
    texts = [f"text {number}" for number in range(count)]
    replies = await asyncio.gather(*(pipeline.call("ECHO", text) for text in texts))
    assert replies == [text.encode() for text in texts]


@pytest.mark.parametrize("kind", ["unix", "tcp"])
async def test_a_frozen_server_costs_each_caller_one_deadline(
    own_server: ServerProcess, kind: str
) -> None:
    async with pipeline_of(url_of(own_server, kind)) as pipeline:
        await echoes(pipeline, 10)
        os.kill(own_server.pid, signal.SIGSTOP)
        try:
            for _ in range(4):
                # The first of these meet the silent connection, the others connect in vain.
                calls = [elapsed_ms(pipeline.call("INCR", "number")) for _ in range(200)]
                assert max(await asyncio.gather(*calls)) <= DEADLINE_MS + SLACK_MS
        finally:
            os.kill(own_server.pid, signal.SIGCONT)
        await eventually(lambda: pipeline.call("PING"), RECOVERY_MS_MAX)
        await echoes(pipeline, 1_000)
        # The 200 that had been written may have run, once; those that never left have not.
        assert int(own_server.client.get("number") or 0) in range(201)
        await asyncio.to_thread(
            wait_until, lambda: connections(own_server) == 1, "the silent connection is closed"
        )


async def test_a_server_that_freezes_for_less_than_a_deadline_costs_nothing(
    own_server: ServerProcess,
) -> None:
    async with pipeline_of(unix_url(own_server), deadline_ms=5_000) as pipeline:
        await echoes(pipeline, 10)
        os.kill(own_server.pid, signal.SIGSTOP)
        try:
            waiting = begin(echoes(pipeline, 500))
            await asyncio.sleep(0.1)
        finally:
            os.kill(own_server.pid, signal.SIGCONT)
        await waiting
        assert connections(own_server) == 1


async def test_a_server_that_stops_reading_costs_each_caller_one_deadline(
    own_server: ServerProcess,
) -> None:
    """More than the buffers of the system take: what is left waits in this process."""
    async with pipeline_of(unix_url(own_server)) as pipeline:
        await echoes(pipeline, 10)
        os.kill(own_server.pid, signal.SIGSTOP)
        try:
            text = "x" * 20_000
            calls = [elapsed_ms(pipeline.call("ECHO", text)) for _ in range(1_000)]
            assert max(await asyncio.gather(*calls)) <= DEADLINE_MS + SLACK_MS
        finally:
            os.kill(own_server.pid, signal.SIGCONT)
        await eventually(lambda: pipeline.call("PING"), RECOVERY_MS_MAX)


async def test_a_paused_server_costs_each_caller_one_deadline(own_server: ServerProcess) -> None:
    async with pipeline_of(unix_url(own_server)) as pipeline:
        await echoes(pipeline, 10)
        own_server.client.execute_command("CLIENT", "PAUSE", 3 * DEADLINE_MS, "ALL")
        calls = [elapsed_ms(pipeline.call("ECHO", number)) for number in range(200)]
        assert max(await asyncio.gather(*calls)) <= DEADLINE_MS + SLACK_MS
        await eventually(lambda: pipeline.call("PING"), 3 * DEADLINE_MS + RECOVERY_MS_MAX)
        await echoes(pipeline, 200)


async def test_a_call_that_takes_long_keeps_others_waiting_but_nothing_is_mixed_up(
    own_server: ServerProcess,
) -> None:
    spin = "for i = 1, ARGV[1] do redis.call('PING') end return 'spun'"
    async with pipeline_of(unix_url(own_server), deadline_ms=20_000) as pipeline:
        spun, *rest = await asyncio.gather(
            pipeline.call("EVAL", spin, 0, 300_000),
            *(pipeline.call("ECHO", number) for number in range(100)),
        )
        assert spun == b"spun"
        assert rest == [b"%d" % number for number in range(100)]


async def test_a_killed_server_fails_its_callers_at_once(binary: Path, tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path, binary)
    url = server.start()
    try:
        async with pipeline_of(url, deadline_ms=30_000, connect_ms=1_000) as pipeline:
            await echoes(pipeline, 10)
            calls = [
                begin(elapsed_ms(pipeline.call("BLPOP", f"list {number}", 0)))
                for number in range(100)
            ]
            await asyncio.sleep(0)
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            assert max(await asyncio.gather(*calls)) <= SLACK_MS
    finally:
        await asyncio.to_thread(server.stop)


async def test_kills_under_load_lose_time_and_count_nothing_twice(
    binary: Path, tmp_path: Path
) -> None:
    server = EmbeddedServer(tmp_path, binary)
    url = server.start()
    try:
        async with pipeline_of(url) as pipeline:
            outcomes: Counter[str] = Counter()
            is_over = asyncio.Event()

            async def caller(name: int) -> None:
                turn = 0
                while not is_over.is_set():
                    turn += 1
                    try:
                        reply = await pipeline.call("HINCRBY", "counts", f"{name}-{turn}", 1)
                    except RedisUnavailable:
                        outcomes["unavailable"] += 1
                        await asyncio.sleep(0.005)
                    else:
                        # An error reply is what a server says that is still loading.
                        outcomes["counted" if reply == 1 else "error"] += 1
                        assert reply == 1 or str(reply).startswith("LOADING")

            def has_counted(enough: int) -> bool:
                return outcomes["counted"] >= enough

            callers = [begin(caller(name)) for name in range(20)]
            for _ in range(3):
                enough = outcomes["counted"] + 500
                await asyncio.to_thread(wait_until, partial(has_counted, enough), "it works again")
                await asyncio.to_thread(kill_and_await_restart, server)
            enough = outcomes["counted"] + 500
            await asyncio.to_thread(wait_until, partial(has_counted, enough), "it works again")
            is_over.set()
            await asyncio.gather(*callers)
            assert outcomes["unavailable"] > 0
            counts = await pipeline.call("HVALS", "counts")
            assert set(counts) == {b"1"}
            assert len(counts) >= 500
    finally:
        await asyncio.to_thread(server.stop)
