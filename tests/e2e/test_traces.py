"""Traces of a whole service: set up by OpenTelemetry's own variables, and never in its way."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

from limiter.worker import _trace_exporters
from tests.support.redis_process import RedisProcess
from tests.support.service import free_port, running_service
from tests.support.waiting import eventually

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
BODY = {"workspace_id": "acme", "estimate_micros": 5}
END_MS_MAX = 8_000


class Collector:
    """Takes spans as a collector does, and keeps them."""

    def __init__(self) -> None:
        taken: list[ResourceSpans] = []
        self.taken = taken

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["content-length"]))
                if self.path == "/v1/traces":
                    taken.extend(ExportTraceServiceRequest.FromString(content).resource_spans)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def names(self) -> list[str]:
        return [
            span.name
            for resource in self.taken
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


def test_spans_reach_the_collector_in_the_traces_of_their_callers(
    tmp_path: Path,
    redis_server: RedisProcess,
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    with running_service(tmp_path, redis_url=redis_server.url, workers=2) as service:
        assert service.post("/check", BODY, traceparent=TRACEPARENT).status == 200
        # Long before the next batch is due: what a process still has goes out when it ends.
        service.stop()
        log = service.log
    eventually(lambda: collector.names, bool)
    assert collector.names == ["limiter.check"]
    (resource,) = collector.taken
    (span,) = resource.scope_spans[0].spans
    assert span.trace_id.hex() == TRACE
    assert {each.key: each.value.string_value for each in resource.resource.attributes}[
        "service.name"
    ] == "llm-spend-limiter"
    assert "opentelemetry" not in log


def test_a_collector_that_is_away_holds_up_neither_calls_nor_the_end(
    tmp_path: Path, redis_server: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    with running_service(tmp_path, redis_url=redis_server.url) as service:
        for _ in range(20):
            assert service.post("/check", BODY).status == 200
        started = time.monotonic()
        service.stop()
        assert time.monotonic() - started < END_MS_MAX / 1_000


def test_an_exporter_that_is_not_installed_is_told_and_harms_nobody(
    tmp_path: Path, redis_server: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp_proto_grpc")
    with running_service(tmp_path, redis_url=redis_server.url) as service:
        assert service.post("/check", BODY).status == 200
        assert "OTEL_TRACES_EXPORTER=otlp_proto_grpc: it is not installed" in service.log


ASK = """
import os, sys
{before}
from limiter import worker
with worker._traces() as limiter_type:
    print(limiter_type.__name__, "opentelemetry.sdk.trace" in sys.modules)
"""


@pytest.mark.parametrize(
    ("variables", "before", "said"),
    [
        ({}, "", "MeasuredLimiter False"),
        ({"OTEL_TRACES_EXPORTER": "none"}, "", "MeasuredLimiter False"),
        (
            {"OTEL_TRACES_EXPORTER": "console"},
            "sys.modules['opentelemetry.sdk'] = None",
            "MeasuredLimiter False",
        ),
        ({"OTEL_TRACES_EXPORTER": "console"}, "", "TracedLimiter True"),
    ],
)
def test_who_wants_no_traces_does_not_even_load_them(
    variables: dict[str, str], before: str, said: str
) -> None:
    environment = {name: value for name, value in os.environ.items() if "OTEL" not in name}
    done = subprocess.run(
        [sys.executable, "-c", ASK.format(before=before)],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == said
    assert ("`otel`" in done.stderr) == bool(before)


@pytest.mark.parametrize(
    ("variables", "exporters"),
    [
        ({}, []),
        ({"OTEL_SERVICE_NAME": "limiter"}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, ["otlp"]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, ["otlp"]),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "x", "OTEL_TRACES_EXPORTER": "none"}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "x", "OTEL_SDK_DISABLED": "True"}, []),
        ({"OTEL_TRACES_EXPORTER": "otlp, console,"}, ["otlp", "console"]),
    ],
)
def test_the_variables_say_whether_and_how(variables: dict[str, str], exporters: list[str]) -> None:
    assert _trace_exporters(variables) == exporters
