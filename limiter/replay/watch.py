"""What answers may say: every limit is the planned one, holds fit under it, denials have a cause.

It judges single answers as they come, and remembers how far each limit was exceeded. It must not
call the service, and must not count spend.
"""

from __future__ import annotations

from collections.abc import Mapping

from limiter.models import Admitted, ChatUsage, Denied, PeriodUsage, Recorded, Violation
from limiter.periods import LIFETIME
from limiter.replay.plan import Plan, PlannedRequest

_SAMPLES_MAX = 20
_SAMPLE_LENGTH_MAX = 300

# A period of a workspace, or (with a chat) the lifetime of a chat and all below it.
LimitKey = tuple[int, int | None, str]


class Findings:
    """What should not have been. Counts all, keeps the first `_SAMPLES_MAX` in words."""

    def __init__(self) -> None:
        self.count = 0
        self.samples: list[str] = []

    def add(self, sentence: str) -> None:
        self.count += 1
        if len(self.samples) < _SAMPLES_MAX:
            self.samples.append(sentence[:_SAMPLE_LENGTH_MAX])


class Watch:
    """Looks at every answer. `excess_micros`: the most by which spent + held was above a limit."""

    def __init__(self, plan: Plan, findings: Findings) -> None:
        self._plan = plan
        self._findings = findings
        self._chat_positions = [
            {chat.chat_id: position for position, chat in enumerate(workspace.chats)}
            for workspace in plan.workspaces
        ]
        self.excess_micros: dict[LimitKey, int] = {}

    def admitted(self, request: PlannedRequest, answer: Admitted) -> None:
        """An admission holds the whole estimate, within every limit that it shows."""
        held_micros = 0 if answer.reservation is None else answer.reservation.held_micros
        if held_micros != request.estimate_micros and not answer.degraded:
            self._findings.add(
                f"request {request.number}: an estimate of {request.estimate_micros} micros "
                f"was admitted with {held_micros} held"
            )
        self._counters(request, answer)

    def recorded(self, request: PlannedRequest, answer: Recorded) -> None:
        """A record charges exactly what the usage costs."""
        if answer.charged_micros != request.cost_micros:
            self._findings.add(
                f"request {request.number}: a cost of {request.cost_micros} micros "
                f"was charged as {answer.charged_micros}"
            )
        self._counters(request, answer)

    def denied(self, request: PlannedRequest, answer: Denied) -> None:
        """A denial names limits of the plan, each of which leaves no room for this call."""
        if answer.estimate_micros != request.estimate_micros or not answer.violations:
            self._findings.add(f"request {request.number}: the denial is of another call")
        for violation in answer.violations:
            limit_micros = self._planned_limit(request, violation)
            used_micros = violation.spent_micros + violation.held_micros
            full = used_micros >= violation.limit_micros
            fits = used_micros + request.estimate_micros <= violation.limit_micros
            if violation.limit_micros != limit_micros or (fits and not full):
                self._findings.add(f"request {request.number}: denied without a cause: {violation}")

    def periods(self, workspace: int, periods: Mapping[str, PeriodUsage]) -> None:
        """The windows of a workspace, as some answer shows them."""
        for name, limit_micros in self._plan.workspaces[workspace].limits.items():
            if name not in periods:
                self._findings.add(f"workspace {workspace}: an answer lacks the period {name}")
                continue
            usage = periods[name]
            self._limit((workspace, None, name), limit_micros, usage)

    def chat(self, workspace: int, chat: int, usage: ChatUsage) -> None:
        """A chat and all below it, as some answer shows them."""
        planned_workspace = self._plan.workspaces[workspace]
        planned = planned_workspace.chats[chat]
        root_id = planned_workspace.chats[planned.root].chat_id
        place = (planned.chat_id, planned_workspace.parent_id(planned), root_id)
        if (usage.chat_id, usage.parent_chat_id, usage.root_chat_id) != place:
            self._findings.add(f"workspace {workspace}: chat {planned.chat_id} is shown as {usage}")
        self._limit((workspace, chat, LIFETIME), planned.limit_micros, usage)

    def _counters(self, request: PlannedRequest, answer: Admitted | Recorded) -> None:
        # An answer that was given without Redis shows no counters.
        if isinstance(answer, Recorded) and answer.queued:
            return
        if isinstance(answer, Admitted) and answer.degraded:
            return
        self.periods(request.workspace, answer.periods)
        if answer.chat is None:
            self._findings.add(f"request {request.number}: the answer lacks its chat")
        else:
            self.chat(request.workspace, request.chat, answer.chat)

    def _limit(
        self, key: LimitKey, limit_micros: int | None, usage: PeriodUsage | ChatUsage
    ) -> None:
        if usage.limit_micros != limit_micros:
            self._findings.add(f"limit {key} is {usage.limit_micros}, not {limit_micros}")
        if limit_micros is not None:
            excess_micros = usage.spent_micros + usage.held_micros - limit_micros
            self.excess_micros[key] = max(excess_micros, self.excess_micros.get(key, excess_micros))

    def _planned_limit(self, request: PlannedRequest, violation: Violation) -> int | None:
        """The limit that the plan has there; None where it has none for this request."""
        workspace = self._plan.workspaces[request.workspace]
        if violation.scope == "account_period":
            return workspace.limits.get(violation.period)
        chat = self._chat_positions[request.workspace].get(violation.chat_id or "")
        if chat is None or chat not in workspace.chats[request.chat].path:
            return None
        return workspace.chats[chat].limit_micros
