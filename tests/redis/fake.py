"""A client of the limiter's for one test, and a server that answers as the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis

from limiter.redis.connect import make_client

DEADLINE_MS = 250


@asynccontextmanager
async def client_of(
    url: str, *, deadline_ms: int = DEADLINE_MS, max_connections: int = 4
) -> AsyncIterator[Redis]:
    client = make_client(
        url, deadline_ms=deadline_ms, connect_ms=DEADLINE_MS, max_connections=max_connections
    )
    try:
        yield client
    finally:
        await client.aclose()


class FakeServer:
    """Reads commands and answers each with what `answer` says; None closes the connection."""

    def __init__(self, answer: Callable[[list[bytes]], bytes | None]) -> None:
        self.answer = answer
        self.connections = 0
        self.commands: list[list[bytes]] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while command := await self._read_command(reader):
                self.commands.append(command)
                reply = self.answer(command)
                if reply is None:
                    return
                writer.write(reply)
                await writer.drain()
        except ConnectionResetError:
            pass
        finally:
            writer.close()

    async def _read_command(self, reader: asyncio.StreamReader) -> list[bytes]:
        head = await reader.readline()
        parts = []
        for _ in range(int(head[1:] or 0)):
            length = int((await reader.readline())[1:])
            parts.append((await reader.readexactly(length + 2))[:-2])
        return parts

    def sent(self, name: bytes) -> int:
        return sum(command[0] == name for command in self.commands)


@asynccontextmanager
async def fake_server(
    kind: str, folder: Path, answer: Callable[[list[bytes]], bytes | None]
) -> AsyncIterator[tuple[FakeServer, str]]:
    fake = FakeServer(answer)
    if kind == "unix":
        path = folder / "fake.sock"
        listener, url = await asyncio.start_unix_server(fake, path), f"unix://{path}"
    else:
        listener = await asyncio.start_server(fake, "127.0.0.1", 0)
        url = f"redis://127.0.0.1:{listener.sockets[0].getsockname()[1]}/0"
    async with listener:
        yield fake, url
