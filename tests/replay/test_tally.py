"""The tally's sums, and what the watch lets pass of single answers."""

import dataclasses

import msgspec
import pytest

from limiter.models import Denied, Violation
from limiter.replay.plan import Plan, PlannedChat, PlannedRequest, PlannedWorkspace
from limiter.replay.tally import Tally
from limiter.replay.watch import Findings, Watch

ROOT = PlannedChat("t0", (0,), 900, has_children=True)
SUB = PlannedChat("t0.1", (1, 0), None, has_children=True)
LEAF = PlannedChat("t0.1.1", (2, 1, 0), None, has_children=False)
OTHER = PlannedChat("t1", (3,), 50, has_children=False)
WORKSPACE = PlannedWorkspace({"hourly": 1_000, "daily": None}, (ROOT, SUB, LEAF, OTHER))
PLAN = Plan("gpt-4o", (WORKSPACE, WORKSPACE), ())


def request(chat: int, cost_micros: int, workspace: int = 0) -> PlannedRequest:
    return PlannedRequest(
        number=0,
        offset_us=0,
        workspace=workspace,
        chat=chat,
        input_tokens=1,
        output_tokens=1,
        max_output_tokens=1,
        estimate_micros=100,
        cost_micros=cost_micros,
    )


def test_a_charge_counts_for_the_chat_its_ancestors_and_the_workspace() -> None:
    tally = Tally(PLAN)
    tally.charge(request(chat=0, cost_micros=1), held=True)
    tally.charge(request(chat=1, cost_micros=10), held=True)
    tally.charge(request(chat=2, cost_micros=100), held=True)
    tally.charge(request(chat=3, cost_micros=1_000), held=True)
    tally.charge(request(chat=2, cost_micros=20_000, workspace=1), held=True)
    assert [scope.spent_micros for scope in tally.chats[0]] == [111, 110, 100, 1_000]
    assert tally.own_spent_micros == [[1, 10, 100, 1_000], [0, 0, 20_000, 0]]
    assert [scope.spent_micros for scope in tally.workspaces] == [1_111, 20_000]
    assert [scope.spent_micros for scope in tally.chats[1]] == [20_000, 20_000, 20_000, 0]
    assert tally.spent_micros == 21_111


def test_what_no_hold_stood_for_is_summed_apart_as_well() -> None:
    tally = Tally(PLAN)
    tally.charge(request(chat=1, cost_micros=10), held=False)
    tally.charge(request(chat=0, cost_micros=5), held=True)
    assert [scope.unheld_micros for scope in tally.chats[0]] == [10, 10, 0, 0]
    assert tally.workspaces[0].unheld_micros == 10
    assert tally.workspaces[0].spent_micros == 15


HOURLY = Violation(
    scope="account_period",
    chat_id=None,
    period="hourly",
    reason="limit_exceeded",
    limit_micros=1_000,
    spent_micros=800,
    held_micros=101,
    remaining_micros=99,
    retry_after_ms=None,
    transient=False,
)
TREE = msgspec.structs.replace(
    HOURLY, scope="chat_lifetime", chat_id="t0", period="lifetime", limit_micros=900
)


def denial(*violations: Violation, estimate_micros: int = 100) -> Denied:
    return Denied(
        reason="limit_exceeded",
        scope="account_period",
        exceeded_periods=["hourly"],
        estimate_micros=estimate_micros,
        limit_micros=1_000,
        spent_micros=800,
        held_micros=101,
        retry_after_ms=None,
        resets_at=None,
        violations=list(violations),
    )


def findings_of(chat: int, answer: Denied) -> int:
    findings = Findings()
    Watch(PLAN, findings).denied(request(chat, 1), answer)
    return findings.count


@pytest.mark.parametrize("violations", [(HOURLY,), (TREE,), (TREE, HOURLY)])
def test_a_denial_with_a_cause_passes(violations: tuple[Violation, ...]) -> None:
    assert findings_of(2, denial(*violations)) == 0


def test_a_limit_that_is_reached_denies_also_a_call_that_costs_nothing() -> None:
    reached = msgspec.structs.replace(HOURLY, held_micros=200)
    free = dataclasses.replace(request(0, 0), estimate_micros=0)
    findings = Findings()
    Watch(PLAN, findings).denied(free, denial(reached, estimate_micros=0))
    assert findings.count == 0


@pytest.mark.parametrize(
    "answer",
    [
        denial(),
        denial(HOURLY, estimate_micros=101),
        denial(msgspec.structs.replace(HOURLY, held_micros=100)),
        denial(msgspec.structs.replace(HOURLY, limit_micros=999)),
        denial(msgspec.structs.replace(HOURLY, period="daily")),
        denial(msgspec.structs.replace(HOURLY, period="yearly")),
        denial(msgspec.structs.replace(TREE, chat_id="t1", limit_micros=50)),
        denial(msgspec.structs.replace(TREE, chat_id="t9")),
        denial(msgspec.structs.replace(TREE, chat_id="t0.1")),
        denial(TREE, msgspec.structs.replace(HOURLY, held_micros=100)),
    ],
)
def test_a_denial_without_a_cause_is_found(answer: Denied) -> None:
    assert findings_of(2, answer) == 1


def test_findings_are_all_counted_and_some_kept() -> None:
    findings = Findings()
    for number in range(1_000):
        findings.add(f"{number} " + 1_000 * "x")
    assert findings.count == 1_000
    assert len(findings.samples) < 100
    assert max(map(len, findings.samples)) < 1_000
