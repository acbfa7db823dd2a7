"""Never over: thousands of checks at once, through two worker processes, to the exact count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.crowd import Crowd
from tests.support.service import Service, running_service

CROWD = 2_000
ROUNDS = 20
ESTIMATE_MICROS = 10_000
FITTING = 100


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    # A crowd on a shared machine is slow, and a degraded answer would hide what is tested.
    folder: Path = tmp_path_factory.mktemp("crowd")
    with running_service(folder, workers=2, redis_deadline_ms=30_000) as service:
        yield service


async def test_a_crowd_on_a_workspace_gets_exactly_what_fits(service: Service) -> None:
    async with Crowd(service.port, CROWD) as crowd:
        for number in range(ROUNDS):
            workspace_id = f"crowd-{number}"
            limits = {"hourly": FITTING * ESTIMATE_MICROS}
            service.patch(f"/config/workspaces/{workspace_id}", {"budget_limits": limits})
            body = {"workspace_id": workspace_id, "estimate_micros": ESTIMATE_MICROS}
            answers = await crowd.post("/check", [body] * CROWD)

            assert Counter(status for status, _ in answers) == {200: FITTING, 402: CROWD - FITTING}
            admitted = [body for status, body in answers if status == 200]
            assert all(answer["degraded"] is False for answer in admitted)
            usage = service.get(f"/usage/workspaces/{workspace_id}").body
            assert usage["held_micros"] == FITTING * ESTIMATE_MICROS
            assert usage["live_holds"] == FITTING


async def test_a_crowd_of_sub_agents_gets_exactly_what_their_root_has_left(
    service: Service,
) -> None:
    """The last dollar of a tree: its children are checked at once, each under its own name."""
    async with Crowd(service.port, CROWD) as crowd:
        for number in range(ROUNDS):
            ids = {"workspace_id": f"tree-{number}"}
            path = f"/config/workspaces/tree-{number}"
            service.patch(path, {"budget_limits": {}})
            # $10.00 for the whole tree, of which $9.00 are gone.
            service.put(f"{path}/chats/root", {"spend_limit_micros": 10_000_000})
            service.post("/record", {**ids, "chat_id": "root", "cost_micros": 9_000_000})
            children = [f"child-{child}" for child in range(10)]
            for child in children:
                service.put(f"{path}/chats/{child}", {"parent_chat_id": "root"})
            bodies = [
                {**ids, "chat_id": children[index % 10], "estimate_micros": ESTIMATE_MICROS}
                for index in range(CROWD)
            ]
            answers = await crowd.post("/check", bodies)

            assert Counter(status for status, _ in answers) == {200: FITTING, 409: CROWD - FITTING}
            tree = service.get(f"/usage/workspaces/tree-{number}/chats/root").body
            assert tree["spent_micros"] + tree["held_micros"] == tree["limit_micros"] == 10_000_000
