"""The result of a replay as one structure, which is also what is written as JSON.

It must not judge anything but `ok`, which follows from what the others found.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from limiter.money import div_ceil
from limiter.periods import PERIOD_NAMES
from limiter.replay.audit import Audit, Difference
from limiter.replay.plan import Plan
from limiter.replay.run import CHAT_LIFETIME, Run

_MICROSECONDS = 1_000_000


class Latency(msgspec.Struct, frozen=True):
    """Of the answered attempts of one kind of call, in microseconds; null: there were none."""

    p50_us: int | None
    p99_us: int | None


class WorkspaceRow(msgspec.Struct, frozen=True):
    """One workspace. `spent_micros` is the tally's; `counter_micros` the service's (null: unread).

    The counter is that of the longest window.
    """

    workspace_id: str
    limits: dict[str, int]
    requests: int
    admitted: int
    denied: int
    spent_micros: int
    counter_micros: int | None
    held_micros: int | None


class TreeRow(msgspec.Struct, frozen=True):
    """One chat tree. `limits`: of any chat in it, by chat id."""

    workspace_id: str
    root_chat_id: str
    chats: int
    limits: dict[str, int]
    spent_micros: int
    counter_micros: int | None
    held_micros: int | None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a replay has to say. Amounts are micros.

    `requests` are those of the trace: `settled` ones have an end, `unsettled` ones were sent and
    have none. `calls` are answered HTTP requests; a pair is a check with its record.
    `unexplained_overshoot_micros` leaves out what was charged without a hold.
    """

    ok: bool
    run_id: str
    model: str
    requests: int
    settled: int
    unsettled: int
    admitted: int
    recorded: int
    denied: int
    denied_by: dict[str, int]
    unexpected: int
    estimates_withheld: int
    degraded: int
    queued: int
    late: int
    repeats: int
    duplicates: int
    spent_micros: int
    counters_micros: int | None
    unheld_micros: int
    overshoot_micros: int
    unexplained_overshoot_micros: int
    elapsed_us: int
    calls_per_second: float
    pairs_per_second: float
    lag_us_max: int
    check_latency: Latency
    record_latency: Latency
    workspaces: list[WorkspaceRow]
    trees: list[TreeRow]
    differences: list[Difference]
    findings: int
    finding_samples: list[str]
    not_compared: list[str]
    gave_up: str | None


def make_report(run_id: str, plan: Plan, run: Run, audit: Audit, *, repeats: int) -> Report:
    """Puts together what the parts of a replay found."""
    sent = sum(workspace.requests for workspace in run.workspaces)
    calls = len(run.check_latencies_us) + len(run.record_latencies_us)
    seconds = max(run.elapsed_us, 1) / _MICROSECONDS
    unexplained_micros = audit.unexplained_overshoot_micros
    workspaces = _workspace_rows(plan, run, audit)
    counters = [row.counter_micros for row in workspaces]
    return Report(
        ok=(
            run.gave_up is None
            and run.settled == len(plan.requests)
            and audit.complete
            and not audit.differences
            and not run.findings.count
            and not unexplained_micros
        ),
        run_id=run_id,
        model=plan.model,
        requests=len(plan.requests),
        settled=run.settled,
        unsettled=sent - run.settled,
        admitted=run.admitted,
        recorded=run.recorded,
        denied=run.denied.total(),
        denied_by=dict.fromkeys((*PERIOD_NAMES, CHAT_LIFETIME), 0) | run.denied,
        unexpected=run.unexpected,
        estimates_withheld=plan.withheld,
        degraded=run.degraded,
        queued=run.queued,
        late=run.late,
        repeats=repeats,
        duplicates=run.duplicates,
        spent_micros=run.tally.spent_micros,
        counters_micros=None if None in counters else sum(c for c in counters if c is not None),
        unheld_micros=sum(scope.unheld_micros for scope in run.tally.workspaces),
        overshoot_micros=audit.overshoot_micros,
        unexplained_overshoot_micros=unexplained_micros,
        elapsed_us=run.elapsed_us,
        calls_per_second=round(calls / seconds, 1),
        pairs_per_second=round(run.recorded / seconds, 1),
        lag_us_max=run.lag_us_max,
        check_latency=_latency(run.check_latencies_us),
        record_latency=_latency(run.record_latencies_us),
        workspaces=workspaces,
        trees=_tree_rows(plan, run, audit),
        differences=audit.differences,
        findings=run.findings.count,
        finding_samples=run.findings.samples,
        not_compared=audit.skipped,
        gave_up=run.gave_up,
    )


def _workspace_rows(plan: Plan, run: Run, audit: Audit) -> list[WorkspaceRow]:
    rows = []
    for number, workspace in enumerate(plan.workspaces):
        outcome = run.workspaces[number]
        usage = audit.workspaces[number]
        longest = None if usage is None else usage.periods.get(PERIOD_NAMES[-1])
        rows.append(
            WorkspaceRow(
                workspace_id=run.workspace_id(number),
                limits={
                    name: limit for name, limit in workspace.limits.items() if limit is not None
                },
                requests=outcome.requests,
                admitted=outcome.admitted,
                denied=outcome.denied,
                spent_micros=run.tally.workspaces[number].spent_micros,
                counter_micros=None if longest is None else longest.spent_micros,
                held_micros=None if usage is None else usage.held_micros,
            )
        )
    return rows


def _tree_rows(plan: Plan, run: Run, audit: Audit) -> list[TreeRow]:
    rows = []
    for number, workspace in enumerate(plan.workspaces):
        for root, chat in enumerate(workspace.chats):
            if chat.parent is not None:
                continue
            tree = [member for member in workspace.chats if member.root == root]
            usage = audit.chats[number][root] if audit.complete else None
            # A root that no check created has no counters: nothing was spent below it.
            missing = 0 if audit.complete else None
            rows.append(
                TreeRow(
                    workspace_id=run.workspace_id(number),
                    root_chat_id=chat.chat_id,
                    chats=len(tree),
                    limits={
                        member.chat_id: member.limit_micros
                        for member in tree
                        if member.limit_micros is not None
                    },
                    spent_micros=run.tally.chats[number][root].spent_micros,
                    counter_micros=missing if usage is None else usage.spent_micros,
                    held_micros=missing if usage is None else usage.held_micros,
                )
            )
    return rows


def _latency(latencies_us: Sequence[int]) -> Latency:
    ordered = sorted(latencies_us)
    if not ordered:
        return Latency(None, None)
    # The nearest rank: a latency that was measured, not one between two.
    p50, p99 = (ordered[div_ceil(len(ordered) * percent, 100) - 1] for percent in (50, 99))
    return Latency(p50, p99)
