"""Spans of real calls: what came of them, whose trace they belong to, and whom they do not name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from limiter import request_id
from limiter.errors import IdReused, ReservationNotFound, ScriptError, StoreUnavailable
from limiter.metrics import Metrics
from limiter.models import (
    CheckRequest,
    RecordRequest,
    RecordUsage,
    ReleaseRequest,
    WorkspacePatch,
)
from limiter.runtime import Parts
from limiter.service import Limiter
from tests.http.support import client_of
from tests.support.redis_process import RedisProcess

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


@pytest.fixture
def only(spans: InMemorySpanExporter) -> Callable[[], ReadableSpan]:
    """The one span that was made since it was last asked for."""

    def take() -> ReadableSpan:
        (span,) = spans.get_finished_spans()
        spans.clear()
        return span

    return take


Take = Callable[[], ReadableSpan]


def check(micros: int, **fields: object) -> CheckRequest:
    return CheckRequest(workspace_id="acme", estimate_micros=micros, **fields)  # type: ignore[arg-type]


def attributes(span: ReadableSpan) -> dict[str, object]:
    return {name.removeprefix("limiter."): value for name, value in (span.attributes or {}).items()}


async def test_a_check_says_how_it_was_decided(parts: Parts, only: Take) -> None:
    await parts.limiter.configure("acme", WorkspacePatch(budget_limits={"hourly": 100}))
    await parts.limiter.check(check(90, reservation_id="r1"))
    span = only()
    assert (span.name, span.kind) == ("limiter.check", SpanKind.INTERNAL)
    assert attributes(span) == {"outcome": "admitted", "duplicate": False, "held_micros": 90}
    await parts.limiter.check(check(90, reservation_id="r1"))
    assert attributes(only())["duplicate"] is True
    await parts.limiter.check(check(20))
    span = only()
    assert attributes(span) == {
        "outcome": "denied",
        "reason": "limit_exceeded",
        "period": "hourly",
        "estimate_micros": 20,
    }
    assert span.status.status_code is StatusCode.UNSET


async def test_a_record_and_a_release_say_what_they_did(parts: Parts, only: Take) -> None:
    usage = RecordUsage(model="made-up", input_tokens=1, output_tokens=1)
    for request, said in (
        (
            RecordRequest(workspace_id="acme", event_id="e1", cost_micros=7),
            {"duplicate": False, "late": False, "priced": True, "charged_micros": 7},
        ),
        (
            RecordRequest(workspace_id="acme", event_id="e1", cost_micros=7),
            {"duplicate": True, "late": False, "priced": True, "charged_micros": 7},
        ),
        (
            RecordRequest(workspace_id="acme", usage=usage),
            {"duplicate": False, "late": False, "priced": False, "charged_micros": 0},
        ),
    ):
        await parts.limiter.record(request)
        assert attributes(only()) == {"outcome": "charged", **said}
    await parts.limiter.check(check(9, reservation_id="r1"))
    only()
    await parts.limiter.release(ReleaseRequest(workspace_id="acme", reservation_id="r1"))
    span = only()
    assert span.name == "limiter.release"
    assert attributes(span) == {"outcome": "released", "duplicate": False, "released_micros": 9}


async def test_an_outage_shows(parts: Parts, only: Take, redis_server: RedisProcess) -> None:
    await parts.limiter.record(RecordRequest(workspace_id="acme", cost_micros=1))
    only()
    redis_server.kill()
    await parts.limiter.check(check(5))
    assert attributes(only()) == {"outcome": "degraded", "duplicate": False, "held_micros": 0}
    await parts.limiter.record(RecordRequest(workspace_id="acme", cost_micros=7))
    span = only()
    assert attributes(span)["outcome"] == "queued"
    # It was answered: by the ledger.
    assert span.status.status_code is StatusCode.UNSET


async def test_a_callers_mistake_is_named_and_is_no_error_of_ours(parts: Parts, only: Take) -> None:
    await parts.limiter.record(RecordRequest(workspace_id="acme", event_id="e1", cost_micros=7))
    only()
    with pytest.raises(IdReused):
        await parts.limiter.record(RecordRequest(workspace_id="acme", event_id="e1", cost_micros=8))
    span = only()
    assert attributes(span) == {"error.type": "id_reused"}
    assert span.status.status_code is StatusCode.UNSET
    with pytest.raises(ReservationNotFound):
        await parts.limiter.release(ReleaseRequest(workspace_id="acme", reservation_id="r9"))
    assert attributes(only()) == {"error.type": "reservation_not_found"}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ScriptError("acme: record.lua, line 3"), "script_error"),
        (StoreUnavailable("acme: away"), "store_unavailable"),
        (ZeroDivisionError("acme"), "ZeroDivisionError"),
    ],
)
async def test_a_failure_of_ours_is_one_and_tells_no_words(
    parts: Parts, only: Take, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: str
) -> None:
    async def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Limiter, "record", fail)
    with pytest.raises(type(error)):
        await parts.limiter.record(RecordRequest(workspace_id="acme", cost_micros=7))
    span = only()
    assert attributes(span) == {"error.type": kind}
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description is None
    assert span.events == ()


async def test_calls_are_counted_as_without_traces(parts: Parts, only: Take) -> None:
    await parts.limiter.check(check(5))
    only()
    metrics: Metrics = parts.metrics
    assert b'limiter_decisions_total{outcome="admitted"} 1.0' in metrics.text()


# --------------------------------------------------------------------------- whose trace


async def test_a_request_brings_its_trace(parts: Parts, only: Take) -> None:
    async with client_of(parts.limiter) as client:
        headers = {"traceparent": TRACEPARENT, "tracestate": "vendor=1"}
        await client.post("/check", json={"workspace_id": "acme"}, headers=headers)
    span = only()
    assert f"{span.context.trace_id:032x}" == TRACE
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == PARENT
    assert span.parent.is_remote
    assert span.context.trace_state.get("vendor") == "1"
    assert span.kind is SpanKind.SERVER


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"traceparent", b"")],
        [(b"traceparent", b"00-" + b"0" * 32 + b"-" + PARENT.encode() + b"-01")],
        [(b"traceparent", TRACEPARENT.upper().encode())],
        [(b"traceparent", TRACEPARENT.encode() + b"\r\nx-evil: 1")],
        [(b"traceparent", b"\xff" * 55)],
        [(b"traceparent", TRACEPARENT.encode()), (b"traceparent", TRACEPARENT.encode())],
    ],
)
async def test_without_a_good_one_it_begins_a_trace(
    parts: Parts, only: Take, headers: list[tuple[bytes, bytes]]
) -> None:
    async with client_of(parts.limiter) as client:
        answer = await client.post("/check", json={"workspace_id": "acme"}, headers=headers)
    assert answer.status_code == 200
    span = only()
    assert span.parent is None
    assert f"{span.context.trace_id:032x}" != TRACE


async def test_what_is_not_sampled_makes_no_span(parts: Parts, spans: InMemorySpanExporter) -> None:
    async with client_of(parts.limiter) as client:
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
        await client.post("/check", json={"workspace_id": "acme"}, headers=headers)
    assert spans.get_finished_spans() == ()


async def test_in_a_program_it_belongs_to_the_programs_span(
    parts: Parts, spans: InMemorySpanExporter
) -> None:
    with trace.get_tracer("program").start_as_current_span("agent"):
        await parts.limiter.check(check(5))
    inner, outer = spans.get_finished_spans()
    assert inner.parent is not None
    assert inner.parent.span_id == outer.context.span_id


async def test_a_failed_request_has_the_id_that_the_log_has(parts: Parts, only: Take) -> None:
    async with client_of(parts.limiter) as client:
        answer = await client.post(
            "/release",
            json={"workspace_id": "acme", "reservation_id": "r9"},
            headers={"x-request-id": "r-7"},
        )
    assert answer.headers["x-request-id"] == "r-7"
    assert attributes(only()) == {"error.type": "workspace_not_found", "request_id": "r-7"}
    assert request_id.current() is None


async def test_nothing_else_of_the_service_makes_spans(
    parts: Parts, spans: InMemorySpanExporter
) -> None:
    async with client_of(parts.limiter) as client:
        for path in ("/usage/workspaces/acme", "/config/workspaces/acme", "/healthz", "/nowhere"):
            await client.get(path, headers={"traceparent": TRACEPARENT})
    assert spans.get_finished_spans() == ()


async def test_no_span_names_anybody(parts: Parts, spans: InMemorySpanExporter) -> None:
    named = ("zz-workspace", "zz-chat", "zz-reservation", "zz-event", "zz-model")
    workspace, chat, reservation, event, model = named
    usage = {"model": model, "input_tokens": 1, "output_tokens": 1}
    async with client_of(parts.limiter) as client:
        for path, body in (
            ("/check", {"chat_id": chat, "reservation_id": reservation, "estimate_micros": 1}),
            ("/check", {"chat_id": chat, "parent_chat_id": "zz-nobody"}),
            ("/record", {"chat_id": chat, "event_id": event, "usage": usage}),
            ("/record", {"event_id": event, "cost_micros": 5}),
            ("/release", {"reservation_id": reservation}),
            ("/release", {"reservation_id": "zz-nothing"}),
        ):
            await client.post(path, json={"workspace_id": workspace, **body})
    finished = spans.get_finished_spans()
    assert len(finished) == 6
    assert "zz-" not in "".join(span.to_json() for span in finished)
