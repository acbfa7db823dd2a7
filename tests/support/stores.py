"""Each store in turn, as an empty database, for the conftest of a folder whose tests run on both.

Whoever imports `store_url` imports `postgres` from `tests.support.postgres` as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgres import PostgresCluster

STORES = ("sqlite", "postgresql")


@pytest.fixture(params=STORES)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of each store in turn: a database that nothing is in yet."""
    yield from empty_database(request, tmp_path / "limiter.db")


def empty_database(request: pytest.FixtureRequest, path: Path) -> Iterator[str]:
    """A database of the kind that `request` names; SQLite's is at `path`."""
    if request.param == "sqlite":
        yield f"sqlite:///{path}"
        return
    cluster: PostgresCluster = request.getfixturevalue("postgres")
    url = cluster.create_database()
    yield url
    cluster.drop_database(url)
