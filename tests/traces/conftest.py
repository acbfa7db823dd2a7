"""A traced Limiter on a Redis of its own, and the spans that it made, kept in memory by the SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from limiter.runtime import Parts, open_parts
from limiter.settings import load_settings
from limiter.traced import TracedLimiter
from tests.support.redis_process import RedisProcess, redis_server

__all__ = ["redis_server"]


@pytest.fixture(scope="session")
def kept() -> InMemorySpanExporter:
    """A process has one provider, and cannot change it."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def spans(kept: InMemorySpanExporter) -> Iterator[InMemorySpanExporter]:
    kept.clear()
    yield kept
    kept.clear()


@pytest.fixture
async def parts(
    redis_server: RedisProcess, tmp_path: Path, spans: InMemorySpanExporter
) -> AsyncIterator[Parts]:
    settings = load_settings(
        {
            "redis_url": redis_server.url,
            "data_dir": tmp_path,
            "redis_deadline_ms": 1_000,
            "unpriced_models": "free",
        }
    )
    async with open_parts(settings, limiter_type=TracedLimiter) as parts:
        yield parts
