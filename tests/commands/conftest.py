"""Real parts for the commands: each store in turn, and a Redis that a test has for itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from limiter.settings import Settings
from tests.commands.typed import typed
from tests.support.postgres import PostgresCluster, postgres
from tests.support.redis_process import RedisProcess, running_redis

__all__ = ["postgres", "typed"]

STORES = ("sqlite", "postgresql")


@pytest.fixture(params=STORES)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of each store in turn: a database that nothing is in yet."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/limiter.db"
        return
    cluster: PostgresCluster = request.getfixturevalue("postgres")
    url = cluster.create_database()
    yield url
    cluster.drop_database(url)


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisProcess]:
    folder = tmp_path / "redis"
    folder.mkdir()
    with running_redis(folder) as server:
        yield server


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
