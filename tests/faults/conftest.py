"""What the tests of faults start from: a Redis to be harmed, a way to it, and both stores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.proxy import Proxy, running_proxy
from tests.support.postgres import PostgresCluster, postgres
from tests.support.redis_process import RedisProcess, running_redis

__all__ = ["postgres"]

STORES = ("sqlite", "postgresql")


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisProcess]:
    folder = tmp_path / "redis"
    folder.mkdir()
    with running_redis(folder) as server:
        yield server


@pytest.fixture
def proxy(redis_server: RedisProcess) -> Iterator[Proxy]:
    with running_proxy(redis_server.socket_path) as proxy:
        yield proxy


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
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/limiter.db"
