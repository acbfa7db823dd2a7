"""Real parts for the commands: each store in turn, and a Redis that a test has for itself."""

from __future__ import annotations

import pytest

from limiter.settings import Settings
from tests.support.postgres import postgres
from tests.support.redis_process import RedisProcess, redis_server
from tests.support.stores import store_url

__all__ = ["postgres", "redis_server", "store_url"]


@pytest.fixture
def settings(store_url: str, redis_server: RedisProcess) -> Settings:
    # A limit that holds across tests is not in the way; a pass is made when a test wants one.
    return Settings.model_validate(
        {
            "database_url": store_url,
            "redis_url": redis_server.url,
            "redis_deadline_ms": 10_000,
            "snapshot_interval_ms": 3_600_000,
        }
    )
