"""What a call through an integration comes to: asked, held, recorded, raised.

A face is one way to make a call: an SDK or a framework with its integration, sync or async.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx2

from limiter.client import AsyncClient, Client
from tests.client.scene import PATIENT, WAIT_MS_MAX, limit_hourly, spent_and_held
from tests.integrations.packages.model import PIECES, PIECES_BEFORE_THE_STOP, ModelServer
from tests.support.service import Service
from tests.support.waiting import POLL_MS

PROMPT = "What is two and two?"
OUTPUT_TOKENS_MAX = 100
PLENTY_MICROS = 10_000_000
TOO_LITTLE_MICROS = 1


class Face(Protocol):
    """One way to call a model. `text` is what the model is asked."""

    def answer(self, text: str) -> Coroutine[Any, Any, str]: ...

    def stream(self, text: str) -> AsyncGenerator[str, None]: ...


@dataclass
class Scene:
    """A workspace of a real service, a model, and what has passed between them."""

    service: Service
    model: ModelServer
    workspace_id: str
    stack: contextlib.AsyncExitStack
    checks: int = 0
    held_micros: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model.requests.clear()
        self.model.on_request = self._look

    def _look(self) -> None:
        self.held_micros.append(spent_and_held(self.service, self.workspace_id)[1])

    def limit(self, hourly_micros: int) -> None:
        limit_hourly(self.service, self.workspace_id, hourly_micros)

    def client(self) -> Client:
        """A sync client whose checks are counted."""
        http = httpx2.Client(event_hooks={"request": [self._count]})
        self.stack.enter_context(http)
        return Client(self.service.url, http=http, **PATIENT)

    def async_client(self) -> AsyncClient:
        """An async client whose checks are counted."""

        async def count(request: httpx2.Request) -> None:
            self._count(request)

        http = httpx2.AsyncClient(event_hooks={"request": [count]})
        self.stack.push_async_exit(http)
        return AsyncClient(self.service.url, http=http, **PATIENT)

    def _count(self, request: httpx2.Request) -> None:
        self.checks += request.url.path == "/check"

    async def settled(self) -> int:
        """What is spent once nothing is held any more. LiteLLM tells some ends a little later."""
        await until(lambda: spent_and_held(self.service, self.workspace_id)[1] == 0)
        return spent_and_held(self.service, self.workspace_id)[0]


async def until(holds: Callable[[], bool]) -> None:
    """Waits for what another thread or task does, within bounds."""
    async with asyncio.timeout(WAIT_MS_MAX / 1000):
        while True:
            if holds():
                return
            await asyncio.sleep(POLL_MS / 1000)


async def cancelled_in(stream: AsyncGenerator[str, None]) -> None:
    """Reads all that a stream gives before it stops, in a task, and cancels that."""
    read = ""
    has_stopped = asyncio.Event()

    async def work() -> None:
        nonlocal read
        async for piece in stream:
            read += piece
            if read == "".join(PIECES[:PIECES_BEFORE_THE_STOP]):
                has_stopped.set()

    task = asyncio.create_task(work())
    async with asyncio.timeout(WAIT_MS_MAX / 1000):
        await has_stopped.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()
