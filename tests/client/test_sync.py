"""The sync client: the same ways in and out of a call, on a real service, and from threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from limiter.client import CallDenied, Client
from limiter.errors import InvalidRequest, WorkspaceNotFound
from limiter.models import CheckRequest, Denied, Recorded, RecordRequest, ReleaseRequest
from tests.client.scene import PATIENT, limit_hourly, spent_and_held
from tests.support.service import Service


@pytest.fixture
def state(service: Service, workspace_id: str) -> Callable[[], tuple[int, int]]:
    """Asks what is spent and held."""
    return lambda: spent_and_held(service, workspace_id)


State = Callable[[], tuple[int, int]]


def test_what_is_admitted_is_held_and_then_recorded(
    client: Client, workspace_id: str, state: State
) -> None:
    with client.call(workspace_id, "c1", 300) as call:
        assert state() == (0, 300)
        call.cost(120)
    assert state() == (120, 0)
    assert isinstance(call.settled, Recorded)
    assert client.usage(workspace_id).periods["daily"].spent_micros == 120
    assert client.chat_usage(workspace_id, "c1").own_spent_micros == 120


def test_a_denial_has_its_violations(client: Client, service: Service, workspace_id: str) -> None:
    limit_hourly(service, workspace_id, 100)
    with pytest.raises(CallDenied) as caught, client.call(workspace_id, None, 101):
        pytest.fail("the body of a denied call ran")
    assert [violation.period for violation in caught.value.violations] == ["hourly"]
    assert caught.value.reason == "estimate_exceeds_limit"
    assert caught.value.retry_after_ms is None
    assert isinstance(
        client.check(CheckRequest(workspace_id=workspace_id, estimate_micros=101)), Denied
    )


@pytest.mark.parametrize("error_type", [ValueError, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("said_micros", [None, 40])
def test_a_body_that_raises_is_recorded_if_it_said_something_and_released_if_not(
    client: Client,
    workspace_id: str,
    state: State,
    error_type: type[BaseException],
    said_micros: int | None,
) -> None:
    def work() -> None:
        with client.call(workspace_id, "c1", 300) as call:
            if said_micros is not None:
                call.cost(said_micros)
            raise error_type

    with pytest.raises(error_type):
        work()
    assert state() == (said_micros or 0, 0)


def test_charge_estimate_charges_what_was_held(
    client: Client, workspace_id: str, state: State
) -> None:
    with (
        pytest.raises(ValueError, match="broken"),
        client.call(workspace_id, None, 300, on_error="charge_estimate"),
    ):
        raise ValueError("broken")
    assert state() == (300, 0)


def test_an_interrupted_check_gives_back_what_it_holds(
    service: Service, workspace_id: str, state: State
) -> None:
    """Ctrl-C while the answer is read: the service has decided already."""
    interrupts = True

    def interrupt(response: httpx2.Response) -> None:
        nonlocal interrupts
        if interrupts:
            interrupts = False
            assert state() == (0, 300)
            raise KeyboardInterrupt

    with httpx2.Client(event_hooks={"response": [interrupt]}) as http:
        client = Client(service.url, http=http, **PATIENT)
        with (
            pytest.raises(KeyboardInterrupt),
            client.call(workspace_id, None, 300, on_error="charge_estimate"),
        ):
            pytest.fail("the body of an interrupted call ran")
        client.close()
        assert not http.is_closed
    assert state() == (0, 0)


def test_threads_share_a_client_and_never_get_more_than_the_limit(
    client: Client, service: Service, workspace_id: str, state: State
) -> None:
    limit_hourly(service, workspace_id, 1_000)

    def work(number: int) -> bool:
        try:
            with client.call(workspace_id, f"c{number}", 100) as call:
                call.cost(100)
        except CallDenied:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        allowed = list(threads.map(work, range(40)))
    assert sum(allowed) == 10
    assert state() == (1_000, 0)


def test_plain_requests_are_given_an_id_and_answered_as_by_the_limiter(
    client: Client, workspace_id: str, state: State
) -> None:
    answer = client.check(CheckRequest(workspace_id=workspace_id, estimate_micros=30))
    assert answer.allowed
    assert answer.reservation is not None
    released = client.release(
        ReleaseRequest(workspace_id=workspace_id, reservation_id=answer.reservation.id)
    )
    assert released.released
    recorded = client.record(RecordRequest(workspace_id=workspace_id, cost_micros=5))
    assert recorded.event_id
    assert state() == (5, 0)
    with pytest.raises(WorkspaceNotFound):
        client.usage(f"{workspace_id}-not")
    with pytest.raises(InvalidRequest) as caught:
        client.check(CheckRequest(workspace_id=workspace_id, estimate_micros=-1))
    assert caught.value.field == "estimate_micros"


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://x", "http://", "http://x?y", ""])
def test_an_address_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="not the address"):
        Client(url)


def test_a_deadline_of_nothing_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="above 0"):
        Client("http://localhost", check_deadline_ms=0)
