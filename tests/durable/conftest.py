"""Both stores, each empty, for every test of durable storage."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from limiter.durable import Storage
from tests.support.postgres import PostgresCluster, postgres

__all__ = ["postgres"]

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
async def storage(store_url: str) -> AsyncIterator[Storage]:
    """Each store in turn, started and empty."""
    async with Storage(store_url) as storage:
        yield storage
