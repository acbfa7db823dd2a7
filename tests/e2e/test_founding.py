"""The behaviours of the two designs that this one unites, each over HTTP on a real service."""

from __future__ import annotations

import pytest

from limiter.periods import PERIOD_NAMES
from tests.support.service import Response, Service

# --------------------------------------------------------------------- workspace budgets


def configure(service: Service, workspace_id: str, **limits: int | None) -> Response:
    return service.patch(f"/config/workspaces/{workspace_id}", {"budget_limits": limits})


def spend(service: Service, workspace_id: str, micros: int, **fields: object) -> Response:
    body = {"workspace_id": workspace_id, "cost_micros": micros, **fields}
    answer = service.post("/record", body)
    assert answer.status == 200, answer
    return answer


def check(service: Service, workspace_id: str, **fields: object) -> Response:
    return service.post("/check", {"workspace_id": workspace_id, **fields})


@pytest.mark.parametrize("period", PERIOD_NAMES)
def test_any_single_period_over_its_limit_denies(
    service: Service, workspace_id: str, period: str
) -> None:
    configure(service, workspace_id, **{period: 1_000})
    spend(service, workspace_id, 1_000)
    denied = check(service, workspace_id)
    assert denied.status == 402
    assert denied.body["scope"] == "account_period"
    assert denied.body["exceeded_periods"] == [period]


def test_all_exceeded_periods_are_listed(service: Service, workspace_id: str) -> None:
    configure(service, workspace_id, hourly=100, daily=10_000, weekly=200, monthly=300)
    spend(service, workspace_id, 300)
    denied = check(service, workspace_id)
    assert denied.body["exceeded_periods"] == ["hourly", "weekly", "monthly"]
    assert [violation["limit_micros"] for violation in denied.body["violations"]] == [100, 200, 300]


def test_spend_equal_to_the_limit_denies_and_one_below_does_not(
    service: Service, workspace_id: str
) -> None:
    configure(service, workspace_id, hourly=1_000)
    spend(service, workspace_id, 999)
    assert check(service, workspace_id).status == 200
    spend(service, workspace_id, 1)
    assert check(service, workspace_id).status == 402


def test_zero_blocks_everything_and_null_nothing(service: Service, workspace_id: str) -> None:
    configure(service, workspace_id, hourly=0)
    blocked = check(service, workspace_id)
    assert (blocked.status, blocked.body["reason"]) == (402, "blocked")
    configure(service, workspace_id, hourly=None)
    spend(service, workspace_id, 10**12)
    assert check(service, workspace_id, estimate_micros=10**12).status == 200


def test_patch_changes_one_period_and_keeps_the_others_and_the_spend(
    service: Service, workspace_id: str
) -> None:
    configure(service, workspace_id, hourly=1, daily=2, weekly=3, monthly=4)
    spend(service, workspace_id, 7)
    answer = configure(service, workspace_id, daily=20)
    assert answer.body["budget_limits"] == {"hourly": 1, "daily": 20, "weekly": 3, "monthly": 4}
    assert service.get(f"/config/workspaces/{workspace_id}").body == answer.body
    usage = service.get(f"/usage/workspaces/{workspace_id}").body
    assert {period["spent_micros"] for period in usage["periods"].values()} == {7}


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        ({"hourly": -1}, "budget_limits"),
        ({"hourly": 1.5}, "budget_limits"),
        ({"hourly": "5"}, "budget_limits"),
        ({"fortnightly": 5}, "budget_limits"),
    ],
)
def test_negative_and_unknown_limits_are_refused_and_change_nothing(
    service: Service, workspace_id: str, limits: dict[str, object], field: str
) -> None:
    before = configure(service, workspace_id, hourly=10).body
    path = f"/config/workspaces/{workspace_id}"
    refused = service.patch(path, {"budget_limits": limits})
    assert refused.status == 400
    assert refused.body["field"].startswith(field)
    assert service.get(path).body == before


def test_legacy_limit_in_cents_is_the_monthly_one_both_ways(
    service: Service, workspace_id: str
) -> None:
    path = f"/config/workspaces/{workspace_id}"
    configure(service, workspace_id, hourly=5, daily=6, weekly=7)
    written = service.patch(path, {"budget_limit": 1_250}).body
    assert written["budget_limit"] == 1_250
    assert written["budget_limits"] == {
        "hourly": 5, "daily": 6, "weekly": 7, "monthly": 12_500_000
    }  # fmt: skip
    assert configure(service, workspace_id, monthly=70_000).body["budget_limit"] == 7
    removed = service.patch(path, {"budget_limit": None}).body
    assert (removed["budget_limit"], removed["budget_limits"]["monthly"]) == (None, None)


def test_reports_of_a_running_total_are_charged_by_their_increments(
    service: Service, workspace_id: str
) -> None:
    def report(total: int) -> int:
        body = {"workspace_id": workspace_id, "cumulative_micros": total, "source": "agent"}
        charged: int = service.post("/record", body).body["charged_micros"]
        return charged

    assert [report(total) for total in (100, 100, 250, 0)] == [100, 0, 150, 0]


def test_a_lower_total_means_a_restarted_reporter_and_counts_in_full(
    service: Service, workspace_id: str
) -> None:
    body = {"workspace_id": workspace_id, "source": "agent"}
    service.post("/record", {**body, "cumulative_micros": 1_000})
    restarted = service.post("/record", {**body, "cumulative_micros": 30})
    assert restarted.body["charged_micros"] == 30
    usage = service.get(f"/usage/workspaces/{workspace_id}").body
    assert usage["periods"]["hourly"]["spent_micros"] == 1_030


# --------------------------------------------------------------------- chat trees


def limit_chat(service: Service, workspace_id: str, chat_id: str, limit: int | None) -> Response:
    path = f"/config/workspaces/{workspace_id}/chats/{chat_id}"
    return service.patch(path, {"spend_limit_micros": limit})


def test_the_root_limit_covers_the_chat_and_all_its_descendants(
    service: Service, workspace_id: str
) -> None:
    configure(service, workspace_id)
    limit_chat(service, workspace_id, "root", 1_000)
    spend(service, workspace_id, 400, chat_id="root")
    spend(service, workspace_id, 300, chat_id="child", parent_chat_id="root")
    spend(service, workspace_id, 300, chat_id="grandchild", parent_chat_id="child")
    for chat_id in ("root", "child", "grandchild"):
        denied = check(service, workspace_id, chat_id=chat_id)
        assert denied.status == 409
        assert denied.body["scope"] == "chat_lifetime"
        assert denied.body["resets_at"] is None
        assert "retry-after" not in denied.headers
        assert denied.body["spent_micros"] == denied.body["limit_micros"] == 1_000


def test_sub_agent_spend_counts_against_the_root_and_stays_apart_from_its_own(
    service: Service, workspace_id: str
) -> None:
    spend(service, workspace_id, 5, chat_id="root")
    spend(service, workspace_id, 70, chat_id="sub", parent_chat_id="root")
    usage = service.get(f"/usage/workspaces/{workspace_id}/chats/root").body
    assert (usage["spent_micros"], usage["own_spent_micros"]) == (75, 5)
    assert usage["children"] == ["sub"]


def test_the_tree_is_checked_before_the_account(service: Service, workspace_id: str) -> None:
    configure(service, workspace_id, hourly=100)
    limit_chat(service, workspace_id, "root", 100)
    spend(service, workspace_id, 100, chat_id="root")
    denied = check(service, workspace_id, chat_id="root")
    assert denied.status == 409
    scopes = [violation["scope"] for violation in denied.body["violations"]]
    assert scopes == ["chat_lifetime", "account_period"]
    assert check(service, workspace_id).status == 402


def test_a_chat_limit_must_be_positive_and_can_be_removed(
    service: Service, workspace_id: str
) -> None:
    configure(service, workspace_id)
    for bad in (0, -1, 1.5, "1"):
        path = f"/config/workspaces/{workspace_id}/chats/c"
        assert service.put(path, {"spend_limit_micros": bad}).status == 400
    limit_chat(service, workspace_id, "c", 10)
    spend(service, workspace_id, 10, chat_id="c")
    assert check(service, workspace_id, chat_id="c").status == 409
    limit_chat(service, workspace_id, "c", None)
    assert check(service, workspace_id, chat_id="c").status == 200
    usage = service.get(f"/usage/workspaces/{workspace_id}/chats/c").body
    assert usage["spent_micros"] == 10


def test_a_limit_below_the_spend_denies_at_once_and_a_raised_one_admits(
    service: Service, workspace_id: str
) -> None:
    spend(service, workspace_id, 500, chat_id="c")
    limit_chat(service, workspace_id, "c", 400)
    assert check(service, workspace_id, chat_id="c").status == 409
    limit_chat(service, workspace_id, "c", 501)
    assert check(service, workspace_id, chat_id="c").status == 200


def test_a_deleted_chat_leaves_its_spend_in_the_tree(service: Service, workspace_id: str) -> None:
    spend(service, workspace_id, 1, chat_id="root")
    spend(service, workspace_id, 9, chat_id="sub", parent_chat_id="root")
    path = f"/config/workspaces/{workspace_id}/chats/sub"
    assert service.delete(path).status == 204
    assert service.delete(path).status == 204
    usage = service.get(f"/usage/workspaces/{workspace_id}/chats/root").body
    assert usage["spent_micros"] == 10


def test_a_parent_is_immutable_and_must_exist(service: Service, workspace_id: str) -> None:
    spend(service, workspace_id, 1, chat_id="a")
    spend(service, workspace_id, 1, chat_id="b", parent_chat_id="a")
    answers = [
        check(service, workspace_id, chat_id="b", parent_chat_id="b"),
        check(service, workspace_id, chat_id="c", parent_chat_id="nobody"),
        check(service, workspace_id, chat_id="d", parent_chat_id="d"),
    ]
    assert [(answer.status, answer.body["code"]) for answer in answers] == [
        (422, "chat_parent_immutable"),
        (422, "chat_parent_unknown"),
        (422, "chat_cycle"),
    ]
