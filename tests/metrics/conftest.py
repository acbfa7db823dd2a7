"""A limiter on a Redis of its own, that makes a snapshot pass when a test wants one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from limiter.metrics import Metrics
from limiter.runtime import Parts, open_parts
from limiter.settings import load_settings
from tests.metrics.scrape import Watch
from tests.support.postgres import postgres
from tests.support.redis_process import RedisProcess, redis_server
from tests.support.stores import store_url

__all__ = ["postgres", "redis_server", "store_url"]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def options() -> dict[str, Any]:
    """The settings of `parts`, for a module to change."""
    return {}


@pytest.fixture
async def parts(
    redis_server: RedisProcess, tmp_path: Path, metrics: Metrics, options: dict[str, Any]
) -> AsyncIterator[Parts]:
    settings = load_settings(
        {
            "redis_url": redis_server.url,
            "data_dir": tmp_path,
            "redis_deadline_ms": 10_000,
            "breaker_failures": 2,
            "breaker_reset_ms": 50,
            "unpriced_models": "free",
            **options,
        }
    )
    async with open_parts(settings, metrics=metrics) as parts:
        yield parts


@pytest.fixture
def watch(parts: Parts, metrics: Metrics) -> Watch:
    return Watch(metrics)
