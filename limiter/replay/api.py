"""The service as a replay sees it: HTTP, with bounded repeats, and a bounded number at once.

A call that found no answer is sent again as it was, with the ids that it had, so it takes effect
once. It must not know what an answer means.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Self, TypeVar

import httpx2
import msgspec

Item = TypeVar("Item")

_ANSWER_S_MAX = 10.0
_PAUSE_S_MIN = 0.05
_PAUSE_S_MAX = 1.0
# Servers close idle connections after some seconds; a request must not meet one that is closing.
_IDLE_S_MAX = 2.0

_encode = msgspec.json.Encoder().encode
_JSON_HEADERS = {"content-type": "application/json"}


class GaveUp(Exception):
    """A call found no answer within the patience. Whether it took effect is unknown."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. `latency_us`: of the attempt that was answered, without those before it."""

    status: int
    body: bytes
    latency_us: int


class Api:
    """Calls to one service, with repeats. `repeats` counts them. Enter it to use it."""

    def __init__(
        self,
        url: str,
        *,
        connections: int,
        patience_s: float,
        key: str | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        """`patience_s`: how long a call that finds no answer is repeated. `key`: an API key.
        `transport` stands in for the network. What is measured is the service, so no proxy is used.

        Raises httpx2.InvalidURL.
        """
        verify = httpx2.create_ssl_context()
        # A client for each connection: a client's pool looks at all of its connections in every
        # call, which at 32 of them takes more time than all the rest.
        self._idle = [
            httpx2.AsyncClient(
                base_url=url,
                headers=None if key is None else {"authorization": f"Bearer {key}"},
                timeout=_ANSWER_S_MAX,
                limits=httpx2.Limits(max_connections=1, keepalive_expiry=_IDLE_S_MAX),
                trust_env=False,
                verify=verify,
                transport=transport,
            )
            for _ in range(connections)
        ]
        self._patience_s = patience_s
        self.repeats = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._idle:
            await client.aclose()

    async def once(self, method: str, path: str, content: bytes | None = None) -> Reply:
        """One attempt. At most `connections` at once. Raises httpx2.RequestError."""
        client = self._idle.pop()
        started_ns = time.perf_counter_ns()
        try:
            response = await client.request(
                method, path, content=content, headers=_JSON_HEADERS if content else None
            )
        finally:
            self._idle.append(client)
        latency_us = (time.perf_counter_ns() - started_ns) // 1_000
        return Reply(response.status_code, response.content, latency_us)

    async def call(self, method: str, path: str, body: msgspec.Struct | None = None) -> Reply:
        """The answer. Errors of the connection and statuses from 500 on are none: then it repeats.

        Raises GaveUp after `patience_s`.
        """
        content = None if body is None else _encode(body)
        pause_s = _PAUSE_S_MIN
        gives_up_at = None
        while True:
            try:
                reply = await self.once(method, path, content)
            except httpx2.RequestError as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                if reply.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                    return reply
                problem = f"status {reply.status}"
            # The pauses have a lower bound, so the deadline bounds the number of repeats as well.
            now = time.monotonic()
            if gives_up_at is None:
                gives_up_at = now + self._patience_s
            if now + pause_s > gives_up_at:
                raise GaveUp(f"{method} {path}: {problem}")
            self.repeats += 1
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_S_MAX)


async def each(
    items: Iterable[Item], task: Callable[[Item], Awaitable[None]], *, concurrency: int
) -> None:
    """Does a task for every item, in their order, at most `concurrency` at once.

    The first exception ends all of them, and is raised.
    """
    remaining = iter(items)

    async def work() -> None:
        for item in remaining:
            await task(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
