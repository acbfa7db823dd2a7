"""The Limiter with a span of OpenTelemetry around each call, and how spans leave a process.

Only who wants traces imports this: the extra `otel` brings what it needs. A span says what came of
a call, never whose it was: no id of a workspace, a chat or a reservation, and no words of an error.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from limiter import request_id
from limiter.errors import Conflict, InvalidRequest, LimiterError, NotFound
from limiter.measured import MeasuredLimiter
from limiter.models import (
    Admitted,
    CheckRequest,
    Denied,
    Recorded,
    RecordRequest,
    Refused,
    Released,
    ReleaseRequest,
)

logger = logging.getLogger(__name__)

# How long the end of a process waits for spans that are still to be sent.
FLUSH_MS_MAX: Final = 2_000

_SERVICE: Final = "llm-spend-limiter"
_EXPORTERS: Final = "opentelemetry_traces_exporter"
# How OpenTelemetry's variable calls the way that the extra brings.
_OTLP: Final = {"otlp": "otlp_proto_http"}

_propagator = TraceContextTextMapPropagator()

Attributes = Mapping[str, str | bool | int]


class TracedLimiter(MeasuredLimiter):
    """A Limiter that makes spans with the program's tracer provider.

    A span belongs to the span that is current, or to the `traceparent` of the request that is being
    answered. What the caller did wrong, and a denial, are no errors of the span.
    """

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self._tracer = trace.get_tracer("limiter")

    async def check(self, request: CheckRequest) -> Admitted | Denied | Refused:
        with self._span("check") as span:
            answer = await super().check(request)
            span.set_attributes(_of_check(answer))
            return answer

    async def record(self, request: RecordRequest) -> Recorded:
        with self._span("record") as span:
            answer = await super().record(request)
            span.set_attributes(
                {
                    "limiter.outcome": "queued" if answer.queued else "charged",
                    "limiter.duplicate": answer.duplicate,
                    "limiter.late": answer.late,
                    "limiter.priced": answer.priced,
                    "limiter.charged_micros": answer.charged_micros,
                }
            )
            return answer

    async def release(self, request: ReleaseRequest) -> Released:
        with self._span("release") as span:
            answer = await super().release(request)
            span.set_attributes(
                {
                    "limiter.outcome": answer.state,
                    "limiter.duplicate": answer.duplicate,
                    "limiter.released_micros": answer.released_micros,
                }
            )
            return answer

    @contextlib.contextmanager
    def _span(self, call: str) -> Iterator[Span]:
        request = request_id.answering()
        with self._tracer.start_as_current_span(
            f"limiter.{call}",
            context=_parent(request),
            kind=SpanKind.INTERNAL if request is None else SpanKind.SERVER,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except Exception as error:
                code = error.code if isinstance(error, LimiterError) else type(error).__name__
                span.set_attribute("error.type", code)
                if request is not None:
                    span.set_attribute("limiter.request_id", request.text)
                if not isinstance(error, (InvalidRequest, NotFound, Conflict)):
                    span.set_status(StatusCode.ERROR)
                raise


def _of_check(answer: Admitted | Denied | Refused) -> Attributes:
    if isinstance(answer, Admitted):
        held = answer.reservation
        return {
            "limiter.outcome": "degraded" if answer.degraded else "admitted",
            "limiter.duplicate": answer.duplicate,
            "limiter.held_micros": 0 if held is None else held.held_micros,
        }
    if isinstance(answer, Refused):
        return {"limiter.outcome": "refused"}
    return {
        "limiter.outcome": "denied",
        "limiter.reason": answer.reason,
        "limiter.period": answer.violations[0].period,
        "limiter.estimate_micros": answer.estimate_micros,
    }


def _parent(request: request_id.RequestId | None) -> Context | None:
    """None: what is current. A trace that comes with the request, unless we are in one already."""
    if request is None or trace.get_current_span().get_span_context().is_valid:
        return None
    found = {name: request.header(name.encode()) for name in _propagator.fields}
    return _propagator.extract({name: value for name, value in found.items() if value is not None})


@contextlib.contextmanager
def exporting(names: Sequence[str]) -> Iterator[None]:
    """Sends the spans of this process by these exporters, as OpenTelemetry's variables say.

    One that is not installed is left out: the variables may be those of a whole machine, and must
    not keep a limiter from its work.
    """
    provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
    for name in names:
        found = entry_points(group=_EXPORTERS, name=_OTLP.get(name, name))
        if not found:
            logger.error("no traces by OTEL_TRACES_EXPORTER=%s: it is not installed", name)
        for entry_point in found:
            provider.add_span_processor(BatchSpanProcessor(entry_point.load()()))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        # A collector that is away would keep the process for half a minute.
        last = threading.Thread(target=provider.shutdown, name="last spans", daemon=True)
        last.start()
        last.join(FLUSH_MS_MAX / 1000)


def _resource() -> Resource:
    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        return resource.merge(Resource({SERVICE_NAME: _SERVICE}))
    return resource
