"""What every counter must be: summed by the replay itself, from its own prices.

It must not read anything that the service says about spend; the audit compares the two.
"""

from __future__ import annotations

from limiter.replay.plan import Plan, PlannedRequest


class Scope:
    """The sums of one workspace, or of one chat and all below it.

    `unheld_micros` is the part of `spent_micros` that no hold stood for: the call's estimate was
    withheld, or the hold was not placed in an outage, or expired. A limit can be exceeded by so
    much, and by no micro more.
    """

    __slots__ = ("spent_micros", "unheld_micros")

    def __init__(self) -> None:
        self.spent_micros = 0
        self.unheld_micros = 0


class Tally:
    """The sums of a whole plan; positions are the plan's."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.workspaces = [Scope() for _ in plan.workspaces]
        self.chats = [[Scope() for _ in workspace.chats] for workspace in plan.workspaces]
        self.own_spent_micros = [[0] * len(workspace.chats) for workspace in plan.workspaces]

    def charge(self, request: PlannedRequest, *, held: bool) -> None:
        """Counts an acknowledged record once. `held`: a hold of the estimate stood for it."""
        chats = self.chats[request.workspace]
        path = self._plan.workspaces[request.workspace].chats[request.chat].path
        for scope in (self.workspaces[request.workspace], *(chats[chat] for chat in path)):
            scope.spent_micros += request.cost_micros
            if not held:
                scope.unheld_micros += request.cost_micros
        self.own_spent_micros[request.workspace][request.chat] += request.cost_micros

    @property
    def spent_micros(self) -> int:
        """Over all workspaces."""
        return sum(scope.spent_micros for scope in self.workspaces)
