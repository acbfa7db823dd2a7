"""Load from outside: by wrk as fast as it goes, and check + record pairs at a steady pace.

It must not judge what it counts.
"""

from __future__ import annotations

import asyncio
import re
import resource
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import msgspec
import uvloop

from bench.pace import steady_pace
from bench.report import Missing

SCRIPT = Path(__file__).parent / "wrk" / "calls.lua"
# What wrk/calls.lua lets a record lag behind its check, in checks that have no record at the end.
LAG = 1024
STOP_S_MAX = 30

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


class Load(msgspec.Struct, frozen=True):
    """What wrk counted. `failures`: answers that were no 2xx, and none at all.

    `processor_us`: what wrk itself had of a core.
    """

    requests: int
    duration_us: int
    failures: int
    p50_us: int
    p99_us: int
    processor_us: float = 0

    @property
    def per_s(self) -> float:
        return self.requests / self.duration_us * 1e6

    @property
    def pairs_per_s(self) -> float:
        return (self.requests - LAG) / 2 / self.duration_us * 1e6


def wrk(url: str, *arguments: str, connections: int, seconds: int) -> Load:
    """Runs wrk with calls.lua in one thread. Raises Missing without wrk."""
    program = shutil.which("wrk")
    if program is None:
        raise Missing("wrk, a load generator (a package of that name in most systems)")
    before_us = _children_us()
    finished = subprocess.run(
        [
            *(program, "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(SCRIPT)),
            *(url, "--", *arguments),
        ],
        capture_output=True,
        check=True,
        timeout=seconds + STOP_S_MAX,
    )
    load = msgspec.json.decode(finished.stdout.splitlines()[-1], type=Load)
    if load.failures:
        raise RuntimeError(f"{load.failures} of {load.requests} calls failed")
    return msgspec.structs.replace(load, processor_us=_children_us() - before_us)


def _children_us() -> float:
    """The processor time of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) * 1e6


class Connection(asyncio.Protocol):
    """One kept-alive HTTP connection, one request at a time."""

    def __init__(self) -> None:
        self._received = b""
        self._answer: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A transport of uvloop is none of asyncio's classes.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head + b"\r\n")
        if not blank or length is None or len(body) < int(length[1]) or self._answer is None:
            return
        answer, self._answer, received, self._received = self._answer, None, self._received, b""
        if received.startswith(b"HTTP/1.1 200 "):
            answer.set_result(None)
        else:
            answer.set_exception(RuntimeError(received.decode()))

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None:
            self._answer.set_exception(error or RuntimeError("the connection was closed"))

    async def post(self, path: str, body: bytes) -> None:
        """Returns when the answer is there. Raises RuntimeError unless it is a 200."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(
            b"POST %b HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b" % (path.encode(), len(body), body)
        )
        await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def paced_pairs(
    port: int,
    check: Callable[[int], bytes],
    record: Callable[[int], bytes],
    *,
    pairs_per_s: int,
    seconds: int,
    connections: int,
) -> list[float]:
    """How long each check and each record took, in ms.

    A check counts from when it was due, so that a stall counts for all whom it kept waiting.
    """

    async def run() -> list[float]:
        loop = asyncio.get_running_loop()
        pool = [
            (await loop.create_connection(Connection, "127.0.0.1", port))[1]
            for _ in range(connections)
        ]
        records_ms: list[float] = []

        async def first(number: int) -> None:
            await pool[number % connections].post("/check", check(number))

        async def then(number: int) -> None:
            begin = time.perf_counter()
            await pool[number % connections].post("/record", record(number))
            records_ms.append((time.perf_counter() - begin) * 1_000)

        checks_ms = await steady_pace(
            first,
            then,
            per_second=pairs_per_s,
            count=pairs_per_s * seconds,
            callers=connections,
        )
        for connection in pool:
            connection.close()
        return checks_ms + records_ms

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())
