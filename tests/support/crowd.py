"""Many requests at once over loopback: every one has its own connection, and all leave together."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

CONNECTIONS_AT_ONCE_MAX = 200


class Crowd:
    """A number of open keep-alive connections to one service."""

    def __init__(self, port: int, size: int) -> None:
        self._port = port
        self._size = size
        self._streams: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def __aenter__(self) -> Crowd:
        gate = asyncio.Semaphore(CONNECTIONS_AT_ONCE_MAX)

        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            async with gate:
                return await asyncio.open_connection("127.0.0.1", self._port)

        self._streams = await asyncio.gather(*[connect() for _ in range(self._size)])
        return self

    async def __aexit__(self, *exit_info: object) -> None:
        for _, writer in self._streams:
            writer.close()
        for _, writer in self._streams:
            await writer.wait_closed()

    async def post(
        self, path: str, bodies: Sequence[object]
    ) -> list[tuple[int, dict[str, object]]]:
        """Sends one body on each connection, all before any reply is read; (status, body) each."""
        assert len(bodies) <= self._size
        used = self._streams[: len(bodies)]
        for (_, writer), body in zip(used, bodies, strict=True):
            data = json.dumps(body).encode()
            head = (
                f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                f"content-length: {len(data)}\r\n\r\n"
            )
            writer.write(head.encode() + data)
        return await asyncio.gather(*[_read(reader) for reader, _ in used])


async def _read(reader: asyncio.StreamReader) -> tuple[int, dict[str, object]]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    body = await reader.readexactly(int(headers["content-length"]))
    return int(head[0].split(" ")[1]), json.loads(body)
