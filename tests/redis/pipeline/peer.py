"""A pipeline for one test, and the other end of its connection, played by the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import hiredis
import pytest

from limiter.errors import RedisUnavailable
from limiter.redis.pipeline import Pipeline

DEADLINE_MS = 250

# How much later than it should something may happen on a busy machine.
SLACK_MS = 1_000

# A test that waits longer for what must happen has failed.
WAIT_MS_MAX = 20_000

_HANDSHAKE = (b"AUTH", b"CLIENT", b"SELECT")


def ok_to_handshake(command: list[bytes]) -> bytes:
    return b"+OK\r\n" if command[0] in _HANDSHAKE else b""


class Peer:
    """A server that writes what the test says, on the connection that was made last.

    `answer` says what to write at once for a command: nothing, unless it is of the handshake.
    `commands` are those of all connections that are not of a handshake.
    """

    def __init__(self) -> None:
        self.answer: Callable[[list[bytes]], bytes] = ok_to_handshake
        self.connections = 0
        self.ended = 0
        self.handshakes: list[list[bytes]] = []
        self.commands: list[list[bytes]] = []
        self._writers: list[asyncio.StreamWriter] = []
        self._news = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        parser = hiredis.Reader()
        try:
            while data := await reader.read(65_536):
                parser.feed(data)
                while command := parser.gets():
                    kept = self.handshakes if command[0] in _HANDSHAKE else self.commands
                    kept.append(command)
                    answer = self.answer(command)
                    if not writer.is_closing():
                        writer.write(answer)
                self._news.set()
        except ConnectionError:
            pass
        finally:
            self.ended += 1
            self._news.set()
            writer.close()

    def write(self, data: bytes, *, connection: int = -1) -> None:
        self._writers[connection].write(data)

    def hang_up(self) -> None:
        self._writers[-1].close()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits for a condition on what has been received."""
        async with asyncio.timeout(WAIT_MS_MAX / 1000):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def received(self, count: int) -> None:
        await self.until(lambda: len(self.commands) >= count)

    def names(self) -> list[bytes]:
        """What was asked for, apart from handshakes, as `b"GET key"`."""
        return [b" ".join(command) for command in self.commands]


@asynccontextmanager
async def peer_at(folder: Path) -> AsyncIterator[tuple[Peer, str]]:
    peer, path = Peer(), folder / "peer.sock"
    async with await asyncio.start_unix_server(peer, path):
        yield peer, f"unix://{path}"


@asynccontextmanager
async def pipeline_of(
    url: str, *, deadline_ms: int = DEADLINE_MS, connect_ms: int = DEADLINE_MS
) -> AsyncIterator[Pipeline]:
    """A pipeline that must leave no task behind."""
    pipeline = Pipeline(url, deadline_ms=deadline_ms, connect_ms=connect_ms)
    try:
        yield pipeline
    finally:
        await pipeline.close()
        # All of its calls were answered by close(), so only tasks of its own can be left.
        assert not any(_runs_on(pipeline, task) for task in asyncio.all_tasks())


def _runs_on(pipeline: Pipeline, task: asyncio.Task[Any]) -> bool:
    frame = getattr(task.get_coro(), "cr_frame", None)
    return frame is not None and frame.f_locals.get("self") is pipeline


@asynccontextmanager
async def pipeline_to_peer(
    folder: Path, *, deadline_ms: int = DEADLINE_MS, connect_ms: int = DEADLINE_MS
) -> AsyncIterator[tuple[Pipeline, Peer]]:
    async with (
        peer_at(folder) as (peer, url),
        pipeline_of(url, deadline_ms=deadline_ms, connect_ms=connect_ms) as pipeline,
    ):
        yield pipeline, peer


def begin(call: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.create_task(call)


async def refusal(call: Awaitable[object]) -> str:
    """What a call says that must find Redis unavailable."""
    with pytest.raises(RedisUnavailable) as caught:
        async with asyncio.timeout(WAIT_MS_MAX / 1000):
            await call
    return str(caught.value)


async def elapsed_ms(call: Awaitable[object]) -> float:
    """How long a call takes that must find Redis unavailable."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await refusal(call)
    return (loop.time() - began) * 1000


async def eventually(call: Callable[[], Awaitable[object]], within_ms: int) -> float:
    """Repeats a call until Redis is available; after how many ms it was."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while True:
        try:
            await call()
        except RedisUnavailable as error:
            if (loop.time() - began) * 1000 > within_ms:
                pytest.fail(f"not available within {within_ms} ms: {error}")
            await asyncio.sleep(0.005)
        else:
            return (loop.time() - began) * 1000
