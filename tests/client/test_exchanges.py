"""What each answer means, repeats and their pauses: shared by both clients, without a network."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx2
import pytest

from limiter import errors
from limiter.client import AsyncClient, CallRefused, Client, NoAnswer, UnexpectedAnswer, exchanges
from limiter.client.attempts import Attempts
from limiter.client.exchanges import NotAnswered, Reply
from limiter.errors import LimiterError, StoreUnavailable
from limiter.http.problems import denial_answer, error_answer
from limiter.models import (
    Admitted,
    CheckRequest,
    Denied,
    EstimateUsage,
    Recorded,
    RecordRequest,
    Refused,
    Violation,
)

CHECK = CheckRequest(
    workspace_id="acme",
    chat_id="c1",
    reservation_id="r1",
    usage=EstimateUsage(model="m", input_tokens=1, max_output_tokens=1),
)

RAISED: list[LimiterError] = [
    errors.InvalidRequest("estimate_micros: too small", field="estimate_micros"),
    errors.CounterOverflow("too much", field="cost_micros"),
    errors.Unauthenticated("the key is not valid"),
    errors.Forbidden("the key is bound to another workspace"),
    errors.NotFound("nothing there"),
    errors.WorkspaceNotFound("acme"),
    errors.ChatNotFound("c1"),
    errors.ReservationNotFound("r1"),
    errors.IdReused("reservation_id", "r1"),
    errors.ReservationSettled("r1", "unknown"),
    errors.ReservationChatMismatch("r1"),
    errors.ChatParentUnknown("c0"),
    errors.ChatParentImmutable("c1"),
    errors.ChatCycle("c1"),
    errors.ChatTooDeep("c1", 64),
    errors.ModelUnpriced("m"),
    errors.RedisUnavailable("Redis is away"),
    errors.StoreUnavailable("the database is away"),
    errors.NotInForceYet(),
    errors.ScriptError("check.lua:12"),
]

DENIED = Denied(
    reason="limit_exceeded",
    scope="account_period",
    exceeded_periods=["hourly"],
    estimate_micros=5,
    limit_micros=10,
    spent_micros=8,
    held_micros=0,
    retry_after_ms=1_500,
    resets_at="2026-02-07T10:12:05.400Z",
    violations=[
        Violation(
            scope="account_period",
            chat_id=None,
            period="hourly",
            reason="limit_exceeded",
            limit_micros=10,
            spent_micros=8,
            held_micros=0,
            remaining_micros=2,
            retry_after_ms=1_500,
            transient=True,
        )
    ],
)
ADMITTED = b'{"allowed":true,"reservation":null,"periods":{},"chat":null,"a_later_field":1}'


def reply_of(answer: object) -> Reply:
    """An answer of the service, as it comes over the network."""
    assert hasattr(answer, "raw_headers")
    assert hasattr(answer, "status_code")
    assert hasattr(answer, "body")
    headers = {name.decode(): value.decode() for name, value in answer.raw_headers}
    return Reply(answer.status_code, headers, answer.body)


def raised_by(reply: Reply) -> tuple[Exception, bool]:
    """What a reply raises in the end, and whether it may be repeated before."""
    try:
        answer = exchanges.read(exchanges.check(CHECK), reply)
    except NotAnswered as failure:
        return failure.error, True
    except LimiterError as error:
        return error, False
    raise AssertionError(f"it is an answer: {answer}")


@pytest.mark.parametrize("error", RAISED, ids=lambda error: error.code)
def test_an_error_comes_back_as_it_was_raised(error: LimiterError) -> None:
    told, is_repeated = raised_by(reply_of(error_answer(error)))
    assert type(told) is type(error)
    assert str(told) == str(error)
    assert vars(told) == vars(error)
    assert is_repeated == isinstance(error, errors.Unavailable)


def test_every_error_of_a_call_is_in_that_table() -> None:
    raised = {type(error) for error in RAISED}
    bases = {LimiterError, errors.AccessDenied, errors.Conflict, errors.Unavailable}
    commands = {errors.StartupError, errors.KeyNotFound}
    every = {
        error
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, LimiterError)
    }
    assert every - bases - commands == raised


def test_denials_are_answers_and_never_repeated() -> None:
    # Both say `x-should-retry: true`, which is about waiting, or about the service's own Redis.
    for denial in (DENIED, Refused()):
        reply = reply_of(denial_answer(denial, decision=False))
        assert reply.headers["x-should-retry"] == "true"
        assert exchanges.read(exchanges.check(CHECK), reply) == denial


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (200, b"<html>"),
        (200, b"{}"),
        (200, b"\xff"),
        (302, b""),
        (402, b"{}"),
        (404, b"<html>"),
        (413, b'{"code":"body_too_large","detail":"the body is too large"}'),
        (500, b'{"code":"internal_error"}'),
        (501, b"[]"),
    ],
)
def test_what_is_not_from_the_service_is_unexpected(status: int, content: bytes) -> None:
    error, is_repeated = raised_by(Reply(status, {}, content))
    assert isinstance(error, UnexpectedAnswer)
    assert error.status == status
    assert not is_repeated
    assert str(status) in str(error)


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_what_stands_in_between_and_has_no_answer_is_asked_again(status: int) -> None:
    error, is_repeated = raised_by(Reply(status, {}, b"<html>try later</html>"))
    assert isinstance(error, NoAnswer)
    assert is_repeated


def test_the_header_says_whether_to_repeat_where_it_is_there() -> None:
    assert raised_by(Reply(500, {"x-should-retry": "true"}, b""))[1]
    assert not raised_by(Reply(503, {"x-should-retry": "false"}, b""))[1]


@pytest.mark.parametrize(
    ("value", "wait_ms"),
    [
        ("7", 7_000),
        ("0", 0),
        (format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True), 0),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("", None),
        ("9" * 30, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, wait_ms: int | None) -> None:
    with pytest.raises(NotAnswered) as caught:
        exchanges.read(exchanges.check(CHECK), Reply(503, {"retry-after": value}, b""))
    assert caught.value.retry_after_ms == wait_ms


def test_a_date_to_come_is_waited_for() -> None:
    moment = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    with pytest.raises(NotAnswered) as caught:
        exchanges.read(exchanges.check(CHECK), Reply(503, {"retry-after": moment}, b""))
    assert caught.value.retry_after_ms is not None
    assert 3_500_000 < caught.value.retry_after_ms <= 3_600_000


def test_pauses_grow_and_are_bounded() -> None:
    attempts = Attempts(exchanges.check(CHECK), 60_000)
    pauses_s = [attempts.pause_after(httpx2.ReadError("lost")) for _ in range(10)]
    for pause_s, longest_s in zip(pauses_s, [0.05, 0.1, 0.2, 0.4, 0.8, *[1.0] * 5], strict=True):
        assert longest_s / 2 <= pause_s <= longest_s


def test_retry_after_is_honoured_where_there_is_time_for_it() -> None:
    attempts = Attempts(exchanges.check(CHECK), 60_000)
    away = StoreUnavailable("away")
    assert attempts.pause_after(NotAnswered(away, 7_000)) == 7.0
    assert attempts.pause_after(NotAnswered(away, 0)) <= 0.1
    with pytest.raises(StoreUnavailable):
        attempts.pause_after(NotAnswered(away, 61_000))


def test_an_attempt_gets_half_of_the_time_so_that_there_can_be_a_second() -> None:
    assert Attempts(exchanges.check(CHECK), 2_000).timeout_s == 1.0
    spent = Attempts(exchanges.check(CHECK), 1)
    time.sleep(0.002)
    assert 0 < spent.timeout_s <= 0.001
    with pytest.raises(NoAnswer, match="POST /check found no answer within 1 ms"):
        spent.pause_after(httpx2.ReadTimeout("late"))


# --------------------------------------------------------------------- through the clients


class Line:
    """Stands in for the network: answers one after another, the last for ever."""

    def __init__(self, *answers: Callable[[], httpx2.Response]) -> None:
        self._answers = list(answers)
        self.bodies: list[bytes] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.bodies.append(request.content)
        return (self._answers.pop(0) if len(self._answers) > 1 else self._answers[0])()

    @property
    def transport(self) -> httpx2.MockTransport:
        return httpx2.MockTransport(self)


def answers(status: int, content: bytes, **headers: str) -> Callable[[], httpx2.Response]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda: httpx2.Response(status, content=content, headers=named)


def breaks() -> httpx2.Response:
    raise httpx2.ReadError("the reply was lost")


async def test_the_same_bytes_are_sent_again_until_there_is_an_answer() -> None:
    outcomes = (breaks, answers(502, b""), answers(503, b"", retry_after="0"))
    request = CheckRequest(workspace_id="acme", estimate_micros=5)
    line = Line(*outcomes, answers(200, ADMITTED))
    async with httpx2.AsyncClient(transport=line.transport) as http:
        limiter = AsyncClient("http://limiter", http=http, check_deadline_ms=20_000)
        assert await limiter.check(request) == Admitted(reservation=None, periods={}, chat=None)
    sync_line = Line(*outcomes, answers(200, ADMITTED))
    with httpx2.Client(transport=sync_line.transport) as http:
        client = Client("http://limiter/", http=http, check_deadline_ms=20_000)
        assert client.check(request).allowed
    for sent in (line.bodies, sync_line.bodies):
        assert len(sent) == 4
        assert len(set(sent)) == 1
        assert b"reservation_id" in sent[0]


@pytest.mark.parametrize(
    ("status", "content", "headers", "error_type"),
    [
        (500, b'{"code":"internal_error"}', {"x_should_retry": "false"}, UnexpectedAnswer),
        (503, b'{"code":"store_unavailable"}', {"retry_after": "3600"}, StoreUnavailable),
        (503, b'{"allowed":false,"degraded":true}', {"x_should_retry": "true"}, CallRefused),
        (400, b'{"code":"invalid_request"}', {}, errors.InvalidRequest),
    ],
)
async def test_what_is_no_use_to_repeat_is_sent_once(
    status: int, content: bytes, headers: dict[str, str], error_type: type[Exception]
) -> None:
    line = Line(answers(status, content, **headers))
    async with httpx2.AsyncClient(transport=line.transport) as http:
        limiter = AsyncClient("http://limiter", http=http, outage_policy="deny")
        with pytest.raises(error_type):
            async with limiter.call("acme", None, 5):
                pytest.fail("the body ran")
    assert len(line.bodies) == 1


async def test_only_an_outage_is_let_pass_by_policy() -> None:
    for content in (b'{"code":"internal_error"}', b'{"code":"invalid_request"}'):
        line = Line(answers(500, content))
        async with httpx2.AsyncClient(transport=line.transport) as http:
            limiter = AsyncClient("http://limiter", http=http, outage_policy="allow")
            with pytest.raises(LimiterError):
                async with limiter.call("acme", None, 5):
                    pytest.fail("the body ran")


async def test_a_queued_record_is_an_answer() -> None:
    content = (
        b'{"queued":true,"event_id":"e","charged_micros":4,"reservation_state":null,'
        b'"periods":{},"chat":null}'
    )
    line = Line(answers(202, content))
    async with httpx2.AsyncClient(transport=line.transport) as http:
        limiter = AsyncClient("http://limiter", http=http)
        recorded = await limiter.record(RecordRequest(workspace_id="acme", cost_micros=4))
    assert isinstance(recorded, Recorded)
    assert recorded.queued
    assert b'"event_id"' in line.bodies[0]
