"""A `Limiter` in this process, behind the same interface as the service over HTTP.

The caller makes the Limiter and closes it. A client must not import the service, so what it needs
of a Limiter is a protocol here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Protocol, TypeVar

from limiter.client.errors import NoAnswer
from limiter.models import (
    Admitted,
    ChatTreeUsage,
    CheckRequest,
    Denied,
    Recorded,
    RecordRequest,
    Refused,
    Released,
    ReleaseRequest,
    WorkspaceUsage,
)

T = TypeVar("T")


class AsyncLimiter(Protocol):
    """What a client needs: `limiter.Limiter` has it. A denial is a value; see `limiter.errors`."""

    async def check(self, request: CheckRequest) -> Admitted | Denied | Refused: ...

    async def record(self, request: RecordRequest) -> Recorded: ...

    async def release(self, request: ReleaseRequest) -> Released: ...

    async def usage(self, workspace_id: str) -> WorkspaceUsage: ...

    async def chat_usage(self, workspace_id: str, chat_id: str) -> ChatTreeUsage: ...


class Bounded:
    """A Limiter that answers within the client's deadlines, or raises NoAnswer."""

    def __init__(
        self, limiter: AsyncLimiter, *, check_deadline_ms: int, settle_deadline_ms: int
    ) -> None:
        self._limiter = limiter
        self._check_deadline_ms = check_deadline_ms
        self._settle_deadline_ms = settle_deadline_ms

    async def check(self, request: CheckRequest) -> Admitted | Denied | Refused:
        return await _within(self._check_deadline_ms, self._limiter.check(request))

    async def record(self, request: RecordRequest) -> Recorded:
        return await _within(self._settle_deadline_ms, self._limiter.record(request))

    async def release(self, request: ReleaseRequest) -> Released:
        return await _within(self._settle_deadline_ms, self._limiter.release(request))

    async def usage(self, workspace_id: str) -> WorkspaceUsage:
        return await _within(self._check_deadline_ms, self._limiter.usage(workspace_id))

    async def chat_usage(self, workspace_id: str, chat_id: str) -> ChatTreeUsage:
        return await _within(
            self._check_deadline_ms, self._limiter.chat_usage(workspace_id, chat_id)
        )

    async def aclose(self) -> None:
        """The Limiter is its maker's to close."""


async def _within(deadline_ms: int, answer: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(deadline_ms / 1000):
            return await answer
    except TimeoutError:
        raise NoAnswer(f"the limiter has not answered within {deadline_ms} ms") from None
