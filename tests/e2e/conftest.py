"""One running service for the tests that only need one, each on a workspace of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.support.redis_process import redis_server
from tests.support.service import Service, running_service

__all__ = ["redis_server"]

_numbers = itertools.count()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("service"), redis_deadline_ms=10_000) as service:
        yield service


@pytest.fixture
def workspace_id() -> str:
    return f"ws-{next(_numbers)}"
