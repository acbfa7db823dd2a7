"""A proxy on loopback between the service and Redis, that loses, delays and cuts on demand.

It passes bytes and knows nothing of the protocol. It runs on a thread of its own, so that it serves
other processes and the loop of a test alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

CHUNK_BYTES = 65_536
CONTROL_S_MAX = 10


class Proxy:
    """Listens on a free port. `upstream`: the socket or the port of the server behind it."""

    def __init__(self, upstream: Path | int) -> None:
        self._upstream = upstream
        self._delay_ms = 0
        self._markers: set[bytes] = set()
        self._is_cut = False
        self._links: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._passing = asyncio.Event()
        self._passing.set()
        self._listener: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.lost = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    # ------------------------------------------------------------------ what tests do to it

    def lose_reply_to(self, marker: bytes) -> None:
        """What next says `marker` reaches the server, and its reply nobody: the line breaks."""
        self._do(self._lose(marker))

    def delay(self, delay_ms: int) -> None:
        """Everything goes so much later to the server."""
        self._do(self._set_delay(delay_ms))

    def stall(self) -> None:
        """Connections stay, and nothing passes."""
        self._do(self._set_passing(False))

    def cut(self) -> None:
        """Every connection breaks, and none is made."""
        self._do(self._set_cut(True))

    def mend(self) -> None:
        self._do(self._set_passing(True))
        self._do(self._set_cut(False))

    def turn_to(self, upstream: Path | int) -> None:
        """Leads to another server from here on, as an address does after a failover."""
        self._do(self._turn(upstream))

    # ------------------------------------------------------------------ on its own thread

    def _do(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(CONTROL_S_MAX)

    async def _lose(self, marker: bytes) -> None:
        self._markers.add(marker)

    async def _set_delay(self, delay_ms: int) -> None:
        self._delay_ms = delay_ms

    async def _set_passing(self, is_passing: bool) -> None:
        if is_passing:
            self._passing.set()
        else:
            self._passing.clear()

    async def _set_cut(self, is_cut: bool) -> None:
        self._is_cut = is_cut
        if is_cut:
            for writer in self._links:
                writer.transport.abort()

    async def _turn(self, upstream: Path | int) -> None:
        self._upstream = upstream
        for writer in self._links:
            writer.transport.abort()

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._link, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        try:
            if isinstance(self._upstream, Path):
                there = await asyncio.open_unix_connection(self._upstream)
            else:
                there = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            writer.transport.abort()
            return
        self._links |= {writer, there[1]}
        loses = asyncio.Event()
        pumps = [
            asyncio.create_task(self._pump_up(reader, there[1], loses)),
            asyncio.create_task(self._pump_down(there[0], writer, loses)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            for end in (writer, there[1]):
                self._links.discard(end)
                end.close()

    async def _pump_up(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, loses: asyncio.Event
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(CHUNK_BYTES):
                await self._passing.wait()
                if self._delay_ms:
                    await asyncio.sleep(self._delay_ms / 1000)
                for marker in [marker for marker in self._markers if marker in data]:
                    self._markers.discard(marker)
                    loses.set()
                writer.write(data)
                await writer.drain()

    async def _pump_down(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, loses: asyncio.Event
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(CHUNK_BYTES):
                await self._passing.wait()
                if loses.is_set():
                    self.lost += 1
                    return
                writer.write(data)
                await writer.drain()

    def start(self) -> None:
        self._thread.start()
        self._do(self._listen())

    def close(self) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CONTROL_S_MAX)
        self._loop.close()

    async def _end(self) -> None:
        """Connections end by themselves once they are broken: a cancelled one would be reported."""
        if self._listener is not None:
            self._listener.close()
        self._passing.set()
        self._is_cut = True
        for writer in self._links:
            writer.transport.abort()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        if tasks:
            await asyncio.wait(tasks, timeout=CONTROL_S_MAX / 2)


@contextlib.contextmanager
def running_proxy(upstream: Path | int) -> Iterator[Proxy]:
    proxy = Proxy(upstream)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.close()
