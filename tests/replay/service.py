"""A service in miniature, with the faults that a replay has to notice or to survive.

It keeps whole sums and no windows, and it answers in one process without waiting, so it is right
unless a test makes it wrong. It stands in for the network as well: calls can fail before they
arrive, or after they took effect.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx2
import msgspec

from limiter.models import (
    Admitted,
    ChatPatch,
    ChatTreeUsage,
    ChatUsage,
    CheckRequest,
    Denied,
    PeriodUsage,
    Recorded,
    RecordRequest,
    Reservation,
    Violation,
    WorkspacePatch,
    WorkspaceUsage,
)
from limiter.periods import LIFETIME, PERIOD_NAMES
from limiter.pricing import Prices

_ROUTE = re.compile(
    r"/(?P<what>config|usage)/workspaces/(?P<workspace>[^/]+)(/chats/(?P<chat>[^/]+))?"
)
_PRICES = Prices("deny")

# Answers a call itself, or lets it go on by answering None.
Fault = Callable[[int, httpx2.Request], httpx2.Response | None]


@dataclass
class Chat:
    chat_id: str
    parent: Chat | None
    limit: int | None = None
    spent: int = 0
    own: int = 0
    held: int = 0

    @property
    def path(self) -> list[Chat]:
        return [self, *(self.parent.path if self.parent else [])]


@dataclass
class Workspace:
    limits: dict[str, int | None] = field(default_factory=lambda: dict.fromkeys(PERIOD_NAMES))
    chats: dict[str, Chat] = field(default_factory=dict)
    holds: dict[str, int] = field(default_factory=dict)
    records: dict[str, Recorded] = field(default_factory=dict)
    spent: int = 0
    held: int = 0


class MiniatureService(httpx2.AsyncBaseTransport):
    """Right by default. Each attribute makes it wrong, or unreliable, in one way.

    `before` and `after` see every call with its number; `after`, once it has taken effect.
    `shown_spent` alters what GET /usage says a workspace has spent.
    """

    def __init__(self) -> None:
        self.workspaces: dict[str, Workspace] = {}
        self.calls = 0
        self.before: Fault = lambda number, request: None
        self.after: Fault = lambda number, request: None
        self.enforces_limits = True
        self.shown_spent: Callable[[int], int] = lambda spent: spent
        self.forgets_ids = False
        self.charges_extra = 0
        self.queues_records = False
        self.queue: list[Callable[[], object]] = []
        self.degraded = False

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.calls += 1
        number = self.calls
        # Calls of one replay overlap, as they do on a network.
        await asyncio.sleep(0)
        early = self.before(number, request)
        if early is not None:
            return early
        answer = self._answer(request)
        return self.after(number, request) or answer

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        if path == "/healthz":
            return _json(200, {"alive": True})
        if path == "/check":
            return self._check(msgspec.json.decode(request.content, type=CheckRequest))
        if path == "/record":
            return self._record(msgspec.json.decode(request.content, type=RecordRequest))
        route = _ROUTE.fullmatch(path)
        if route is None:
            return _json(404, {"code": "not_found"})
        if route["what"] == "config":
            return self._configure(route["workspace"], route["chat"], request.content)
        return self._usage(route["workspace"], route["chat"])

    def _configure(self, workspace_id: str, chat_id: str | None, body: bytes) -> httpx2.Response:
        workspace = self.workspaces.setdefault(workspace_id, Workspace())
        if chat_id is None:
            limits = msgspec.json.decode(body, type=WorkspacePatch).budget_limits
            assert isinstance(limits, dict)
            workspace.limits.update(limits)
        else:
            patch = msgspec.json.decode(body, type=ChatPatch)
            assert isinstance(patch.parent_chat_id, str | None)
            assert isinstance(patch.spend_limit_micros, int | None)
            self._chat(workspace, chat_id, patch.parent_chat_id).limit = patch.spend_limit_micros
        return _json(200, {})

    @staticmethod
    def _chat(workspace: Workspace, chat_id: str, parent_id: str | None) -> Chat:
        if chat_id not in workspace.chats:
            parent = None if parent_id is None else workspace.chats[parent_id]
            workspace.chats[chat_id] = Chat(chat_id, parent)
        return workspace.chats[chat_id]

    def _check(self, request: CheckRequest) -> httpx2.Response:
        if self.degraded:
            passed = Admitted(degraded=True, reservation=None, periods={}, chat=None)
            return _json(200, passed)
        workspace = self.workspaces[request.workspace_id]
        assert request.chat_id is not None
        assert request.reservation_id is not None
        parent = request.parent_chat_id
        chat = workspace.chats.get(request.chat_id) or Chat(
            request.chat_id, workspace.chats[parent] if parent else None
        )
        now = datetime.now(UTC)
        estimate = _PRICES.estimate(request.usage, now).micros if request.usage else 0
        duplicate = request.reservation_id in workspace.holds
        if not duplicate or self.forgets_ids:
            violations = list(_violations(workspace, chat, estimate))
            if violations and self.enforces_limits:
                return _denied(violations, estimate)
            workspace.chats[request.chat_id] = chat
            if estimate:
                workspace.holds[request.reservation_id] = estimate
                for scope in _scopes(workspace, chat):
                    scope.held += estimate
        reservation = Reservation(
            id=request.reservation_id, held_micros=estimate, expires_at=now.isoformat()
        )
        return _json(
            200,
            Admitted(
                duplicate=duplicate,
                reservation=reservation if estimate else None,
                periods=_periods(workspace),
                chat=_chat_usage(chat),
            ),
        )

    def _record(self, request: RecordRequest) -> httpx2.Response:
        workspace = self.workspaces[request.workspace_id]
        assert request.event_id is not None
        assert request.usage is not None
        assert request.chat_id is not None
        known = workspace.records.get(request.event_id)
        if known is not None and not self.forgets_ids:
            return _json(200, msgspec.structs.replace(known, duplicate=True))
        cost = _PRICES.cost(request.usage, datetime.now(UTC)).micros + self.charges_extra
        chat = self._chat(workspace, request.chat_id, request.parent_chat_id)
        held = workspace.holds.pop(request.reservation_id or "", 0)

        def apply() -> None:
            for scope in _scopes(workspace, chat):
                scope.spent += cost
                scope.held -= held
            chat.own += cost

        if self.queues_records:
            self.queue.append(apply)
            periods, chat_usage = {}, None
        else:
            apply()
            periods, chat_usage = _periods(workspace), _chat_usage(chat)
        recorded = Recorded(
            queued=self.queues_records,
            event_id=request.event_id,
            charged_micros=cost,
            reservation_state="held" if held else None,
            periods=periods,
            chat=chat_usage,
        )
        workspace.records[request.event_id] = recorded
        return _json(202 if self.queues_records else 200, recorded)

    def apply_queue(self) -> None:
        """What a real service does once its Redis is back."""
        while self.queue:
            self.queue.pop()()

    def _usage(self, workspace_id: str, chat_id: str | None) -> httpx2.Response:
        workspace = self.workspaces.get(workspace_id)
        if workspace is None or (chat_id is not None and chat_id not in workspace.chats):
            return _json(404, {"code": "not_found"})
        if chat_id is None:
            shown = Workspace(
                limits=workspace.limits,
                spent=self.shown_spent(workspace.spent),
                held=workspace.held,
            )
            return _json(
                200,
                WorkspaceUsage(
                    workspace_id=workspace_id,
                    at=datetime.now(UTC).isoformat(),
                    periods=_periods(shown),
                    held_micros=shown.held,
                    live_holds=len(workspace.holds),
                    unpriced_records=0,
                ),
            )
        chat = workspace.chats[chat_id]
        return _json(
            200,
            ChatTreeUsage(
                **msgspec.structs.asdict(_chat_usage(chat)),
                ancestors=[above.chat_id for above in reversed(chat.path[1:])],
                children=[],
            ),
        )


def _scopes(workspace: Workspace, chat: Chat) -> list[Workspace | Chat]:
    return [workspace, *chat.path]


def _violations(workspace: Workspace, chat: Chat, estimate: int) -> list[Violation]:
    found = [
        _violation("chat_lifetime", node.chat_id, LIFETIME, node.limit, node, estimate)
        for node in chat.path
    ] + [
        _violation("account_period", None, name, limit, workspace, estimate)
        for name, limit in workspace.limits.items()
    ]
    return [violation for violation in found if violation is not None]


def _violation(
    scope_name: str,
    chat_id: str | None,
    period: str,
    limit: int | None,
    scope: Workspace | Chat,
    estimate: int,
) -> Violation | None:
    used = scope.spent + scope.held
    if limit is None or (used < limit and used + estimate <= limit):
        return None
    return Violation(
        scope="chat_lifetime" if scope_name == "chat_lifetime" else "account_period",
        chat_id=chat_id,
        period=period,
        reason="limit_exceeded",
        limit_micros=limit,
        spent_micros=scope.spent,
        held_micros=scope.held,
        remaining_micros=limit - used,
        retry_after_ms=None,
        transient=False,
    )


def _denied(violations: list[Violation], estimate: int) -> httpx2.Response:
    first = violations[0]
    return _json(
        402 if first.scope == "account_period" else 409,
        Denied(
            reason=first.reason,
            scope=first.scope,
            exceeded_periods=[v.period for v in violations if v.scope == "account_period"],
            estimate_micros=estimate,
            limit_micros=first.limit_micros,
            spent_micros=first.spent_micros,
            held_micros=first.held_micros,
            retry_after_ms=None,
            resets_at=None,
            violations=violations,
        ),
    )


def _periods(workspace: Workspace) -> dict[str, PeriodUsage]:
    return {
        name: PeriodUsage(
            limit_micros=limit,
            spent_micros=workspace.spent,
            held_micros=workspace.held,
            remaining_micros=None if limit is None else limit - workspace.spent - workspace.held,
        )
        for name, limit in workspace.limits.items()
    }


def _chat_usage(chat: Chat) -> ChatUsage:
    return ChatUsage(
        chat_id=chat.chat_id,
        parent_chat_id=chat.parent.chat_id if chat.parent else None,
        root_chat_id=chat.path[-1].chat_id,
        limit_micros=chat.limit,
        spent_micros=chat.spent,
        own_spent_micros=chat.own,
        held_micros=chat.held,
        remaining_micros=None if chat.limit is None else chat.limit - chat.spent - chat.held,
    )


def _json(status: int, body: object) -> httpx2.Response:
    return httpx2.Response(status, content=msgspec.json.encode(body))
