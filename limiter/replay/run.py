"""Sends a plan's requests as pairs of check and record, when their time has come.

It counts what the answers say happened; it must not judge counters, which the audit does.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from typing import TypeVar

import msgspec

from limiter.models import (
    Admitted,
    ChatPatch,
    CheckRequest,
    Denied,
    EstimateUsage,
    Recorded,
    RecordRequest,
    RecordUsage,
    WorkspacePatch,
)
from limiter.replay.api import Api, GaveUp, Reply, each
from limiter.replay.plan import Plan, PlannedRequest
from limiter.replay.tally import Tally
from limiter.replay.trace import UnusableInput
from limiter.replay.watch import Findings, Watch

Body = TypeVar("Body", bound=msgspec.Struct)

CHAT_LIFETIME = "chat_lifetime"
_DENIED_STATUS = {
    "account_period": HTTPStatus.PAYMENT_REQUIRED,
    CHAT_LIFETIME: HTTPStatus.CONFLICT,
}
_MICROSECONDS = 1_000_000
_SHOWN_BYTES_MAX = 200


class WorkspaceOutcome:
    """How the requests of one workspace ended."""

    __slots__ = ("admitted", "denied", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.admitted = 0
        self.denied = 0


class Run:
    """One replay under way: its ids, and everything that was counted.

    `denied` counts by the first limit that a denial names. `duplicates`: answers to a repeated
    record that had been counted before. `lag_us_max`: how far the sending fell behind the trace.
    """

    def __init__(self, api: Api, plan: Plan, run_id: str, *, speed: float) -> None:
        """`run_id` makes every id of this run its own. `speed` 0: as fast as possible."""
        self._api = api
        self._plan = plan
        self._run_id = run_id
        self._speed = speed
        self.findings = Findings()
        self.watch = Watch(plan, self.findings)
        self.tally = Tally(plan)
        self.workspaces = [WorkspaceOutcome() for _ in plan.workspaces]
        self.settled = 0
        self.unexpected = 0
        self.admitted = 0
        self.recorded = 0
        self.degraded = 0
        self.late = 0
        self.queued = 0
        self.duplicates = 0
        self.denied: Counter[str] = Counter()
        self.check_latencies_us: list[int] = []
        self.record_latencies_us: list[int] = []
        self.lag_us_max = 0
        self.elapsed_us = 0
        self.gave_up: str | None = None

    def workspace_id(self, workspace: int) -> str:
        return f"{self._run_id}-w{workspace}"

    async def configure(self, concurrency: int, progress: Callable[[], None]) -> None:
        """Makes the workspaces and limits, and the chats that others will name as their parent.

        Chats without children are left to the checks. Raises UnusableInput when it cannot be done.
        """

        async def workspace(number: int) -> None:
            planned = self._plan.workspaces[number]
            path = f"/config/workspaces/{self.workspace_id(number)}"
            # All of it is said: no default of the service may change what is expected.
            await self._configure(
                path,
                WorkspacePatch(
                    budget_limits=planned.limits,
                    default_estimate_micros=0,
                    on_hold_expiry="refund",
                ),
            )
            for chat in planned.chats:
                if chat.has_children or chat.limit_micros is not None:
                    patch = ChatPatch(
                        spend_limit_micros=chat.limit_micros,
                        parent_chat_id=planned.parent_id(chat),
                    )
                    await self._configure(f"{path}/chats/{chat.chat_id}", patch)
            progress()

        await each(range(len(self._plan.workspaces)), workspace, concurrency=concurrency)

    async def _configure(self, path: str, patch: msgspec.Struct) -> None:
        try:
            reply = await self._api.call("PUT", path, patch)
        except GaveUp as error:
            raise UnusableInput(f"the service does not answer: {error}") from None
        if reply.status != HTTPStatus.OK:
            raise UnusableInput(f"the service refuses to be configured: {_shown(path, reply)}")

    async def send(self, concurrency: int, progress: Callable[[], None]) -> None:
        """Sends every request in the trace's order. Ends early, with `gave_up`, without answers."""
        clock = asyncio.get_running_loop().time
        started = clock()
        # One waits at a time, so that none overtakes another where the clock jumps over both.
        turn = asyncio.Lock()

        async def request(planned: PlannedRequest) -> None:
            if self._speed:
                due = started + planned.offset_us / _MICROSECONDS / self._speed
                async with turn:
                    await asyncio.sleep(max(0.0, due - clock()))
                self.lag_us_max = max(self.lag_us_max, int((clock() - due) * _MICROSECONDS))
            await self._pair(planned)
            self.settled += 1
            progress()

        try:
            await each(self._plan.requests, request, concurrency=concurrency)
        except GaveUp as error:
            self.gave_up = str(error)
        self.elapsed_us = int((clock() - started) * _MICROSECONDS)

    async def _pair(self, request: PlannedRequest) -> None:
        outcome = self.workspaces[request.workspace]
        outcome.requests += 1
        reply = await self._api.call("POST", "/check", self._check_body(request))
        self.check_latencies_us.append(reply.latency_us)
        if reply.status == HTTPStatus.OK:
            admitted = self._decoded("/check", reply, Admitted)
            if admitted is not None:
                outcome.admitted += 1
                self.admitted += 1
                self.degraded += admitted.degraded
                self.watch.admitted(request, admitted)
                await self._record(request, admitted)
        elif reply.status in _DENIED_STATUS.values():
            denied = self._decoded("/check", reply, Denied)
            if denied is not None:
                outcome.denied += 1
                self._count_denial(request, reply, denied)
        else:
            self._unexpected("/check", reply)

    def _count_denial(self, request: PlannedRequest, reply: Reply, denied: Denied) -> None:
        by_chat = denied.scope == CHAT_LIFETIME
        first = denied.violations[0].period if denied.violations else "no limit"
        self.denied[CHAT_LIFETIME if by_chat else first] += 1
        if reply.status != _DENIED_STATUS[denied.scope]:
            self.findings.add(f"{denied.scope} was answered with status {reply.status}")
        self.watch.denied(request, denied)

    async def _record(self, request: PlannedRequest, admitted: Admitted) -> None:
        reply = await self._api.call("POST", "/record", self._record_body(request))
        self.record_latencies_us.append(reply.latency_us)
        if reply.status not in (HTTPStatus.OK, HTTPStatus.ACCEPTED):
            self._unexpected("/record", reply)
            return
        recorded = self._decoded("/record", reply, Recorded)
        if recorded is None:
            return
        withheld = request.max_output_tokens is None
        held = not (withheld or admitted.degraded or recorded.late or recorded.queued)
        self.tally.charge(request, held=held)
        self.recorded += 1
        self.late += recorded.late
        self.queued += recorded.queued
        self.duplicates += recorded.duplicate
        self.watch.recorded(request, recorded)

    def _check_body(self, request: PlannedRequest) -> CheckRequest:
        workspace = self._plan.workspaces[request.workspace]
        chat = workspace.chats[request.chat]
        usage = None
        if request.max_output_tokens is not None:
            usage = EstimateUsage(
                model=self._plan.model,
                input_tokens=request.input_tokens,
                max_output_tokens=request.max_output_tokens,
            )
        return CheckRequest(
            workspace_id=self.workspace_id(request.workspace),
            chat_id=chat.chat_id,
            parent_chat_id=workspace.parent_id(chat),
            usage=usage,
            reservation_id=self._reservation_id(request),
        )

    def _record_body(self, request: PlannedRequest) -> RecordRequest:
        workspace = self._plan.workspaces[request.workspace]
        chat = workspace.chats[request.chat]
        withheld = request.max_output_tokens is None
        return RecordRequest(
            workspace_id=self.workspace_id(request.workspace),
            # Said again: a check that was let pass in an outage created nothing.
            chat_id=chat.chat_id,
            parent_chat_id=workspace.parent_id(chat),
            # Also after such a check: its first attempt may have held before its reply was lost.
            reservation_id=None if withheld else self._reservation_id(request),
            event_id=f"{self._run_id}-e{request.number}",
            usage=RecordUsage(
                model=self._plan.model,
                input_tokens=request.input_tokens,
                output_tokens=request.output_tokens,
            ),
        )

    def _reservation_id(self, request: PlannedRequest) -> str:
        return f"{self._run_id}-r{request.number}"

    def _decoded(self, path: str, reply: Reply, body_type: type[Body]) -> Body | None:
        try:
            return msgspec.json.decode(reply.body, type=body_type)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._unexpected(path, reply)
            return None

    def _unexpected(self, path: str, reply: Reply) -> None:
        self.unexpected += 1
        self.findings.add(f"unexpected answer: {_shown(path, reply)}")


def _shown(path: str, reply: Reply) -> str:
    # As Python writes bytes: what a foreign service answers must not reach the terminal raw.
    return f"{path}: status {reply.status}: {reply.body[:_SHOWN_BYTES_MAX]!r}"
