"""What the tests of faults start from: a Redis to be harmed, a way to it, and both stores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.proxy import Proxy, running_proxy
from tests.support.postgres import postgres
from tests.support.redis_process import RedisProcess, redis_server
from tests.support.stores import store_url

__all__ = ["postgres", "redis_server", "store_url"]


@pytest.fixture
def proxy(redis_server: RedisProcess) -> Iterator[Proxy]:
    with running_proxy(redis_server.socket_path) as proxy:
        yield proxy


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/limiter.db"
