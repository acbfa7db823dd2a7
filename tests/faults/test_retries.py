"""Retries, contradictions and lateness, over HTTP on a real service: one effect, a clear answer."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.crowd import Crowd
from tests.support.redis_process import running_redis
from tests.support.service import Response, Service, running_service
from tests.support.waiting import eventually

_numbers = itertools.count()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("retries")
    with running_service(folder, redis_deadline_ms=10_000) as service:
        yield service


class Caller:
    """Calls for one workspace, and what has come of them."""

    def __init__(self, service: Service, hourly: int | None) -> None:
        self.service = service
        self.workspace_id = f"retries-{next(_numbers)}"
        self.limit(hourly)

    def limit(self, hourly: int | None) -> None:
        path = f"/config/workspaces/{self.workspace_id}"
        assert self.service.patch(path, {"budget_limits": {"hourly": hourly}}).status == 200

    def post(self, route: str, **fields: object) -> Response:
        return self.service.post(route, {"workspace_id": self.workspace_id, **fields})

    def post_unheard(self, route: str, **fields: object) -> None:
        """Sends it and is gone before the answer comes."""
        body = json.dumps({"workspace_id": self.workspace_id, **fields}).encode()
        head = f"POST {route} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", self.service.port)) as connection:
            connection.sendall(head.encode() + body)
            # The first byte says that it has been done; the rest of the answer is lost.
            assert connection.recv(1) == b"H"

    @property
    def usage(self) -> Any:
        return self.service.get(f"/usage/workspaces/{self.workspace_id}").body

    @property
    def spent_and_held(self) -> tuple[int, int]:
        usage = self.usage
        return usage["periods"]["hourly"]["spent_micros"], usage["held_micros"]


@pytest.fixture
def caller(service: Service) -> Caller:
    return Caller(service, 1_000)


def test_answers_that_are_lost_are_given_again_with_one_effect(caller: Caller) -> None:
    ids = {"reservation_id": "r1", "estimate_micros": 100, "chat_id": "c"}
    caller.post_unheard("/check", **ids)
    again = caller.post("/check", **ids)
    assert (again.status, again.body["duplicate"]) == (200, True)
    assert again.body["reservation"]["held_micros"] == 100
    assert caller.spent_and_held == (0, 100)
    charge = {"reservation_id": "r1", "cost_micros": 90}
    caller.post_unheard("/record", **charge)
    again = caller.post("/record", **charge)
    assert (again.status, again.body["duplicate"]) == (200, True)
    assert (again.body["charged_micros"], again.body["reservation_state"]) == (90, "held")
    assert caller.spent_and_held == (90, 0)
    caller.post("/check", reservation_id="r2", estimate_micros=10)
    caller.post_unheard("/release", reservation_id="r2")
    again = caller.post("/release", reservation_id="r2")
    assert (again.status, again.body["duplicate"], again.body["released"]) == (200, True, True)
    assert caller.spent_and_held == (90, 0)


def test_an_id_with_another_payload_is_422_and_changes_nothing(caller: Caller) -> None:
    caller.post("/check", reservation_id="r1", estimate_micros=100)
    caller.post("/record", event_id="e1", cost_micros=50)
    before = caller.spent_and_held
    for route, fields in (
        ("/check", {"reservation_id": "r1", "estimate_micros": 101}),
        ("/record", {"event_id": "e1", "cost_micros": 51}),
        ("/record", {"event_id": "e1", "cost_micros": 50, "chat_id": "c"}),
    ):
        refused = caller.post(route, **fields)
        assert (refused.status, refused.body["code"]) == (422, "id_reused")
        assert caller.spent_and_held == before
    path = f"/usage/workspaces/{caller.workspace_id}/chats/c"
    assert caller.service.get(path).status == 404


def test_ends_that_come_twice_or_cross_have_one_effect_and_say_what_was(caller: Caller) -> None:
    for number in (1, 2, 3):
        caller.post("/check", reservation_id=f"r{number}", estimate_micros=100)
    first = caller.post("/record", reservation_id="r1", cost_micros=10).body
    twice = caller.post("/record", reservation_id="r1", cost_micros=10).body
    assert (first["duplicate"], twice["duplicate"]) == (False, True)
    after_record = caller.post("/release", reservation_id="r1").body
    assert (after_record["released"], after_record["state"]) == (False, "recorded")
    assert caller.spent_and_held == (10, 200)
    released = caller.post("/release", reservation_id="r2").body
    twice = caller.post("/release", reservation_id="r2").body
    assert (released["duplicate"], twice["duplicate"]) == (False, True)
    assert twice["released_micros"] == 0
    # What was spent was spent: a record after the release is charged, and says so.
    after_release = caller.post("/record", reservation_id="r2", cost_micros=7).body
    assert (after_release["charged_micros"], after_release["reservation_state"]) == (7, "released")
    assert caller.spent_and_held == (17, 100)


def test_a_record_after_its_hold_expired_is_charged_in_full_once_and_late(caller: Caller) -> None:
    caller.post("/check", reservation_id="r1", estimate_micros=100, hold_ms=1)
    assert eventually(lambda: caller.usage["live_holds"], lambda holds: holds == 0) == 0
    answers = [caller.post("/record", reservation_id="r1", cost_micros=80).body for _ in "12"]
    assert [answer["late"] for answer in answers] == [True, True]
    assert [answer["duplicate"] for answer in answers] == [False, True]
    assert [answer["charged_micros"] for answer in answers] == [80, 80]
    assert caller.spent_and_held == (80, 0)


def test_more_than_was_held_is_charged_in_full_and_the_next_check_denied(caller: Caller) -> None:
    caller.post("/check", reservation_id="r1", estimate_micros=900)
    charged = caller.post("/record", reservation_id="r1", cost_micros=1_500).body
    assert charged["charged_micros"] == 1_500
    assert charged["periods"]["hourly"]["remaining_micros"] == -500
    denied = caller.post("/check", estimate_micros=0)
    assert (denied.status, denied.body["spent_micros"]) == (402, 1_500)


def test_the_hold_of_a_client_that_died_expires_by_itself_and_once(caller: Caller) -> None:
    caller.post("/check", reservation_id="r1", estimate_micros=1_000, hold_ms=300, chat_id="c")
    assert caller.post("/check", estimate_micros=1).status == 402
    admitted = eventually(
        lambda: caller.post("/check", estimate_micros=1_000, reservation_id="r2"),
        lambda answer: answer.status == 200,
    )
    assert admitted.status == 200
    assert caller.spent_and_held == (0, 1_000)
    gone = caller.post("/release", reservation_id="r1").body
    assert (gone["released"], gone["state"], gone["released_micros"]) == (False, "expired", 0)
    assert caller.spent_and_held == (0, 1_000)
    chat = caller.service.get(f"/usage/workspaces/{caller.workspace_id}/chats/c").body
    assert (chat["spent_micros"], chat["held_micros"]) == (0, 0)


def test_a_limit_that_changes_holds_at_once_and_spend_stays(caller: Caller) -> None:
    caller.post("/record", cost_micros=500)
    expected = {400: 402, 501: 200, None: 200, 0: 402, 1_000: 200, 500: 402}
    for limit, status in expected.items():
        caller.limit(limit)
        assert caller.post("/check", estimate_micros=1).status == status
        if status == 200:
            caller.limit(0)
            assert caller.post("/check", estimate_micros=0).body["reason"] == "blocked"
        assert caller.spent_and_held[0] == 500


def test_a_check_after_a_denial_is_evaluated_afresh(caller: Caller) -> None:
    caller.post("/check", reservation_id="other", estimate_micros=950)
    asked = {"reservation_id": "r1", "estimate_micros": 100}
    assert caller.post("/check", **asked).status == 402
    assert caller.post("/check", **asked).status == 402
    caller.post("/release", reservation_id="other")
    admitted = caller.post("/check", **asked)
    assert (admitted.status, admitted.body["duplicate"]) == (200, False)
    assert caller.spent_and_held == (0, 100)


async def test_running_totals_repeated_late_restarted_and_at_once_are_exact(
    caller: Caller,
) -> None:
    def report(total: int, sequence: int) -> int:
        body = {"cumulative_micros": total, "source": "s", "sequence": sequence}
        charged: int = caller.post("/record", **body).body["charged_micros"]
        return charged

    reports = [(100, 1), (100, 1), (300, 3), (200, 2), (300, 4), (50, 5), (70, 6)]
    charged = [report(total, sequence) for total, sequence in reports]
    assert charged == [100, 0, 200, 0, 0, 50, 20]
    # At once and in any order, each twice: what is charged is what the highest total says.
    ids = {"workspace_id": caller.workspace_id, "source": "crowd"}
    bodies = [
        {**ids, "cumulative_micros": 10 * number, "sequence": number}
        for number in (*range(1, 101), *range(100, 0, -1))
    ]
    async with Crowd(caller.service.port, len(bodies)) as crowd:
        answers = await crowd.post("/record", bodies)
    assert Counter(status for status, _ in answers) == {200: len(bodies)}
    assert (await asyncio.to_thread(lambda: caller.spent_and_held))[0] == 370 + 1_000


# --------------------------------------------------------------------- a crowd


@pytest.mark.parametrize("deadline_ms", [10_000, 5])
async def test_more_callers_than_connections_wait_or_are_answered_by_policy(
    tmp_path: Path, deadline_ms: int
) -> None:
    """Also where each record has to be committed, for which processes share few connections."""
    (tmp_path / "redis").mkdir()
    size = 300
    with (
        running_redis(tmp_path / "redis") as server,
        running_service(
            tmp_path,
            redis_url=server.url,
            redis_connections=1,
            redis_deadline_ms=deadline_ms,
            # However hard it is to connect within a few milliseconds, the service has to start.
            redis_connect_ms=2_000,
            snapshot_interval_ms=100,
            durability="sync",
        ) as service,
    ):
        async with Crowd(service.port, size) as crowd:
            checks = await crowd.post("/check", [{"workspace_id": "acme"}] * size)
        assert {status for status, _ in checks} == {200}
        bodies = [
            {"workspace_id": "acme", "event_id": f"e{number}", "cost_micros": 1}
            for number in range(size)
        ]
        async with Crowd(service.port, size) as crowd:
            records = await crowd.post("/record", bodies)
        statuses = Counter(status for status, _ in records)
        assert set(statuses) <= {200, 202, 503}
        if deadline_ms > 1_000:
            assert not any(body["degraded"] for _, body in checks)
            assert statuses == {200: size}
        for number, (status, _) in enumerate(records):
            if status == 503:  # its client, which was told to, sends it again
                again = eventually(
                    lambda body=bodies[number]: service.post("/record", body),  # type: ignore[misc]
                    lambda answer: answer.status != 503,
                )
                assert again.status in (200, 202)

        def spent() -> object:
            answer = service.get("/usage/workspaces/acme")
            return answer.status == 200 and answer.body["periods"]["hourly"]["spent_micros"]

        assert eventually(spent, lambda micros: micros == size) == size
