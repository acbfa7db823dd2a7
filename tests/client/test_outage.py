"""Answers that are lost, and a service that cannot be reached, on a line that really breaks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Literal

import pytest

from limiter.client import AsyncClient, Client, NoAnswer
from limiter.errors import Unavailable
from limiter.models import CheckRequest, Recorded, RecordRequest, Released
from tests.client.scene import HASTY, PATIENT, spent_and_held
from tests.faults.proxy import Proxy
from tests.support.service import Service, free_port
from tests.support.waiting import eventually

ROUTES = ("/check", "/record", "/release")
Kind = Literal["async", "sync"]
KINDS: tuple[Kind, ...] = ("async", "sync")

# What happens inside of a call's block, whichever client made the call.
Body = Callable[[Any], None]


class Broken(Exception):
    """What a body raises."""


def address(port: int) -> str:
    return f"http://127.0.0.1:{port}"


async def run_call(
    kind: Kind, url: str, body: Body, workspace_id: str, micros: int, **options: Any
) -> Any:
    """Makes one call with `body`, and returns it when it has ended."""
    on_error = options.pop("on_error", "release")
    if kind == "async":
        async with AsyncClient(url, **options) as limiter:
            call = limiter.call(workspace_id, "c1", micros, on_error=on_error)
            async with call:
                body(call)
            return call
    with Client(url, **options) as client:
        sync_call = client.call(workspace_id, "c1", micros, on_error=on_error)
        with sync_call:
            body(sync_call)
        return sync_call


def cost_120(call: Any) -> None:
    call.cost(120)


def say_nothing(_: object) -> None:
    """As if the answer had come from a cache."""


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_that_is_lost_is_asked_for_again_and_has_one_effect(
    kind: Kind, route: str, proxy: Proxy, service: Service, workspace_id: str
) -> None:
    proxy.lose_reply_to(f"POST {route}".encode())
    releases = route == "/release"
    call = await run_call(
        kind,
        address(proxy.port),
        say_nothing if releases else cost_120,
        workspace_id,
        300,
        **PATIENT,
    )
    assert proxy.lost == 1
    assert spent_and_held(service, workspace_id) == ((0, 0) if releases else (120, 0))
    assert not call.degraded
    assert call.admitted.duplicate == (route == "/check")
    assert call.settled.duplicate == (route != "/check")
    assert isinstance(call.settled, Released if releases else Recorded)


@pytest.mark.parametrize("kind", KINDS)
async def test_requests_without_an_id_are_given_one_before_they_are_sent(
    kind: Kind, proxy: Proxy, service: Service, workspace_id: str
) -> None:
    check = CheckRequest(workspace_id=workspace_id, estimate_micros=300)
    record = RecordRequest(workspace_id=workspace_id, cost_micros=40)
    proxy.lose_reply_to(b"POST /check")
    proxy.lose_reply_to(b"POST /record")
    if kind == "async":
        async with AsyncClient(address(proxy.port), **PATIENT) as limiter:
            admitted, recorded = await limiter.check(check), await limiter.record(record)
    else:
        with Client(address(proxy.port), **PATIENT) as client:
            admitted, recorded = client.check(check), client.record(record)
    assert proxy.lost == 2
    assert admitted.allowed
    assert admitted.duplicate
    assert recorded.duplicate
    assert spent_and_held(service, workspace_id) == (40, 300)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("trouble", ["cut", "stall"])
async def test_where_policy_is_to_deny_an_outage_stops_the_call_in_bounded_time(
    kind: Kind, trouble: str, proxy: Proxy, workspace_id: str
) -> None:
    proxy.cut() if trouble == "cut" else proxy.stall()

    def body(_: object) -> None:
        pytest.fail("the body ran without a check")

    started_s = time.monotonic()
    with pytest.raises(NoAnswer, match="POST /check found no answer within 300 ms") as caught:
        await run_call(
            kind, address(proxy.port), body, workspace_id, 300, outage_policy="deny", **HASTY
        )
    assert time.monotonic() - started_s < 3
    assert isinstance(caught.value, Unavailable)


@pytest.mark.parametrize("kind", KINDS)
async def test_where_policy_is_to_allow_the_call_runs_and_says_what_nobody_confirmed(
    kind: Kind,
    service: Service,
    workspace_id: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "limiter.client"):
        call = await run_call(kind, address(free_port()), cost_120, workspace_id, 300, **HASTY)
    assert call.degraded
    assert call.settled is None
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
    assert "without a check" in caplog.text
    assert call.reservation_id in caplog.text
    # It can still be told, as often as one likes.
    with Client(service.url, **PATIENT) as client:
        answers = [client.record(call.unconfirmed) for _ in range(2)]
    assert [answer.duplicate for answer in answers] == [False, True]
    assert spent_and_held(service, workspace_id) == (120, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["recorded", "released", "charged"])
async def test_a_hold_whose_check_found_no_answer_is_settled_once_the_line_is_back(
    kind: Kind, end: str, proxy: Proxy, service: Service, workspace_id: str
) -> None:
    proxy.stall()

    def body(call: Any) -> None:
        assert call.degraded
        # What was under way arrives now, both attempts of it, and nobody reads the answers.
        proxy.mend()
        held = eventually(lambda: spent_and_held(service, workspace_id), lambda now: now[1] > 0)
        assert held == (0, 300)
        if end == "recorded":
            call.cost(120)

    call = await run_call(
        kind,
        address(proxy.port),
        body,
        workspace_id,
        300,
        on_error="charge_estimate" if end == "charged" else "release",
        check_deadline_ms=HASTY["check_deadline_ms"],
        settle_deadline_ms=PATIENT["settle_deadline_ms"],
    )
    assert isinstance(call.settled, Released if end == "released" else Recorded)
    spent = {"recorded": 120, "released": 0, "charged": 300}[end]
    assert spent_and_held(service, workspace_id) == (spent, 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_release_of_what_was_never_held_is_no_error(
    kind: Kind, proxy: Proxy, service: Service, workspace_id: str
) -> None:
    service.post("/check", {"workspace_id": workspace_id})
    proxy.cut()
    call = await run_call(
        kind,
        address(proxy.port),
        lambda _: proxy.mend(),
        workspace_id,
        300,
        check_deadline_ms=HASTY["check_deadline_ms"],
        settle_deadline_ms=PATIENT["settle_deadline_ms"],
    )
    assert (call.settled, call.unconfirmed) == (None, None)
    assert spent_and_held(service, workspace_id) == (0, 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_record_that_nobody_confirms_is_an_error_only_where_policy_is_to_deny(
    kind: Kind, proxy: Proxy, service: Service, workspace_id: str
) -> None:
    def body(call: Any) -> None:
        call.cost(120)
        proxy.cut()

    options = {
        "check_deadline_ms": PATIENT["check_deadline_ms"],
        "settle_deadline_ms": HASTY["settle_deadline_ms"],
    }
    call = await run_call(kind, address(proxy.port), body, workspace_id, 300, **options)
    assert not call.degraded
    assert isinstance(call.unconfirmed, RecordRequest)
    proxy.mend()
    with pytest.raises(NoAnswer, match="POST /record"):
        await run_call(
            kind, address(proxy.port), body, workspace_id, 300, outage_policy="deny", **options
        )
    assert spent_and_held(service, workspace_id) == (0, 600)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("outage_policy", ["allow", "deny"])
async def test_the_exception_of_the_body_is_never_replaced(
    kind: Kind, outage_policy: str, proxy: Proxy, workspace_id: str
) -> None:
    def body(_: object) -> None:
        proxy.cut()
        raise Broken

    with pytest.raises(Broken) as caught:
        await run_call(
            kind,
            address(proxy.port),
            body,
            workspace_id,
            300,
            outage_policy=outage_policy,
            check_deadline_ms=PATIENT["check_deadline_ms"],
            settle_deadline_ms=HASTY["settle_deadline_ms"],
        )
    assert "is not confirmed: POST /release" in caught.value.__notes__[0]
