"""The plan: the same from the same seed, upper bounds, trees three deep, limits of both kinds."""

import dataclasses
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest

from limiter.errors import ModelUnpriced
from limiter.models import EstimateUsage, RecordUsage
from limiter.periods import PERIOD_NAMES
from limiter.pricing import Prices
from limiter.replay.plan import Plan, Spread, make_plan
from limiter.replay.trace import Arrival

MODEL = "gpt-4o"
AT = datetime(2026, 1, 1, tzinfo=UTC)
PRICES = Prices("deny")
ARRIVALS = [
    Arrival(number * 1_000, 100 + number * 37 % 3_000, number * 13 % 90) for number in range(2_000)
]
DEFAULT = Spread(workspaces=8, chats=12, seed=1, withheld_fraction=0.0, limit_percent=60)


def planned(**changes: Any) -> Plan:
    return make_plan(ARRIVALS, dataclasses.replace(DEFAULT, **changes), PRICES, MODEL, AT)


def test_the_same_seed_gives_the_same_plan_and_another_another() -> None:
    assert planned() == planned()
    assert planned(seed=2).requests != planned().requests


def test_withholding_changes_estimates_and_nothing_else() -> None:
    withheld = planned(withheld_fraction=0.25)
    places = [(r.workspace, r.chat, r.cost_micros) for r in withheld.requests]
    assert places == [(r.workspace, r.chat, r.cost_micros) for r in planned().requests]
    assert withheld.workspaces == planned().workspaces
    assert 400 < withheld.withheld < 600
    assert planned(withheld_fraction=1.0).withheld == len(ARRIVALS)
    assert planned().withheld == 0
    for request in withheld.requests:
        assert (request.max_output_tokens is None) == (request.estimate_micros == 0)


def test_estimates_are_upper_bounds_and_amounts_are_the_list_prices() -> None:
    for request, arrival in zip(planned().requests, ARRIVALS, strict=True):
        assert request.max_output_tokens is not None
        assert arrival.output_tokens <= request.max_output_tokens <= 8 * arrival.output_tokens + 4
        assert request.cost_micros <= request.estimate_micros
        usage = RecordUsage(
            model=MODEL, input_tokens=arrival.input_tokens, output_tokens=arrival.output_tokens
        )
        assert request.cost_micros == PRICES.cost(usage, AT).micros
        bound = EstimateUsage(
            model=MODEL,
            input_tokens=arrival.input_tokens,
            max_output_tokens=request.max_output_tokens,
        )
        assert request.estimate_micros == PRICES.estimate(bound, AT).micros


def test_every_workspace_and_every_chat_gets_requests_in_the_trace_s_order() -> None:
    plan = planned()
    places = Counter((request.workspace, request.chat) for request in plan.requests)
    assert len(places) == 8 * 12
    assert [request.number for request in plan.requests] == list(range(len(ARRIVALS)))
    assert [request.offset_us for request in plan.requests] == [a.offset_us for a in ARRIVALS]


def test_trees_are_three_deep_and_parents_come_before_their_children() -> None:
    for workspace in planned(chats=14).workspaces:
        ids = [chat.chat_id for chat in workspace.chats]
        assert ids[:7] == ["t0", "t0.1", "t0.2", "t0.1.1", "t0.1.2", "t0.2.1", "t1"]
        assert len(set(ids)) == len(ids)
        assert max(len(chat.path) for chat in workspace.chats) == 3
        for position, chat in enumerate(workspace.chats):
            assert chat.path[0] == position
            parent_id = workspace.parent_id(chat)
            assert parent_id == (chat.chat_id.rpartition(".")[0] or None)
            if chat.parent is not None:
                assert chat.parent < position
                assert workspace.chats[chat.parent].has_children
                assert workspace.chats[chat.parent].path == chat.path[1:]


def test_each_period_and_both_kinds_of_nodes_limit_a_part_of_their_share() -> None:
    plan = planned()
    limited_periods, limited_chats = [], []
    for number, workspace in enumerate(plan.workspaces):
        mine = [request for request in plan.requests if request.workspace == number]
        for name, limit in workspace.limits.items():
            if limit is not None:
                limited_periods.append(name)
                assert limit == sum(request.cost_micros for request in mine) * 60 // 100
        for position, chat in enumerate(workspace.chats):
            if chat.limit_micros is not None:
                limited_chats.append(chat.chat_id)
                below = [r for r in mine if position in workspace.chats[r.chat].path]
                assert chat.limit_micros == sum(r.cost_micros for r in below) * 60 // 100
    assert limited_periods == list(PERIOD_NAMES)
    assert limited_chats == ["t0", "t0.1", "t0", "t0.1"]


@pytest.mark.parametrize("workspaces", [1, 2, 3])
def test_few_workspaces_have_limits_of_both_kinds(workspaces: int) -> None:
    plan = planned(workspaces=workspaces, chats=1)
    assert any(limit for w in plan.workspaces for limit in w.limits.values())
    assert any(chat.limit_micros for w in plan.workspaces for chat in w.chats)


def test_a_workspace_without_requests_has_limits_that_block_nothing_outright() -> None:
    plan = make_plan(ARRIVALS[:1], DEFAULT, PRICES, MODEL, AT)
    limits = [limit for w in plan.workspaces for limit in w.limits.values()]
    assert min(limit for limit in limits if limit is not None) >= 1


def test_a_model_without_a_price_has_no_plan() -> None:
    with pytest.raises(ModelUnpriced):
        make_plan(ARRIVALS, DEFAULT, PRICES, "no-such-model", AT)
