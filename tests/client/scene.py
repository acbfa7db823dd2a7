"""What tests of the clients share: a workspace to call for, and what has come of the calls."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TypedDict

from limiter import Limiter, WorkspacePatch
from limiter.client import AsyncClient, AsyncLimiter
from limiter.errors import WorkspaceNotFound
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
from tests.support.service import Service


class Deadlines(TypedDict):
    check_deadline_ms: int
    settle_deadline_ms: int


# On a machine that is busy with other things a call may take long; only a hang is a failure.
PATIENT: Deadlines = {"check_deadline_ms": 20_000, "settle_deadline_ms": 20_000}
WAIT_MS_MAX = 20_000
HASTY: Deadlines = {"check_deadline_ms": 300, "settle_deadline_ms": 300}


@dataclass(frozen=True, slots=True)
class Scene:
    """A client of a service, or of a Limiter in this process."""

    client: AsyncClient
    workspace_id: str
    service: Service | None = None
    limiter: Limiter | None = None

    async def limit(self, hourly: int) -> None:
        if self.limiter is not None:
            patch = WorkspacePatch(budget_limits={"hourly": hourly})
            await self.limiter.configure(self.workspace_id, patch)
        else:
            assert self.service is not None
            limit_hourly(self.service, self.workspace_id, hourly)

    async def spent_and_held(self) -> tuple[int, int]:
        try:
            usage = await self.client.usage(self.workspace_id)
        except WorkspaceNotFound:
            return 0, 0
        return usage.periods["hourly"].spent_micros, usage.held_micros


def limit_hourly(service: Service, workspace_id: str, hourly: int) -> None:
    path = f"/config/workspaces/{workspace_id}"
    assert service.patch(path, {"budget_limits": {"hourly": hourly}}).status == 200


def spent_and_held(service: Service, workspace_id: str) -> tuple[int, int]:
    """Asked on a way of its own, that the client's trouble does not touch."""
    answer = service.get(f"/usage/workspaces/{workspace_id}")
    if answer.status == 404:
        return 0, 0
    return answer.body["periods"]["hourly"]["spent_micros"], answer.body["held_micros"]


async def happened(event: asyncio.Event) -> None:
    """Waits for what another task does, within bounds."""
    async with asyncio.timeout(WAIT_MS_MAX / 1000):
        await event.wait()


class Gated:
    """A limiter that passes calls on, and keeps their answers back until it is opened.

    `reached` is set once a call has taken effect. `calls` are their names, in order.
    """

    def __init__(self, limiter: AsyncLimiter, *kept_back: str) -> None:
        self._limiter = limiter
        self._kept_back = kept_back
        self._opened = asyncio.Event()
        self.reached = asyncio.Event()
        self.calls: list[str] = []

    def open(self) -> None:
        self._opened.set()

    async def check(self, request: CheckRequest) -> Admitted | Denied | Refused:
        answer = await self._limiter.check(request)
        await self._gate("check")
        return answer

    async def record(self, request: RecordRequest) -> Recorded:
        answer = await self._limiter.record(request)
        await self._gate("record")
        return answer

    async def release(self, request: ReleaseRequest) -> Released:
        answer = await self._limiter.release(request)
        await self._gate("release")
        return answer

    async def usage(self, workspace_id: str) -> WorkspaceUsage:
        return await self._limiter.usage(workspace_id)

    async def chat_usage(self, workspace_id: str, chat_id: str) -> ChatTreeUsage:
        return await self._limiter.chat_usage(workspace_id, chat_id)

    async def _gate(self, name: str) -> None:
        self.calls.append(name)
        if name in self._kept_back:
            self.reached.set()
            await self._opened.wait()
