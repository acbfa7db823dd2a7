"""Fixtures of this folder: the two servers that are installed, each by itself or in turn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.redis.support import EVERY_BINARY, server_binary
from tests.support.servers import ServerProcess, server_process


@pytest.fixture(params=EVERY_BINARY)
def binary(request: pytest.FixtureRequest) -> Path:
    name: str = request.param
    return server_binary(name)


@pytest.fixture
def wheel() -> Path:
    return server_binary("wheel")


@pytest.fixture
def own_server(binary: Path) -> Iterator[ServerProcess]:
    """A server that a test may freeze and misconfigure."""
    with server_process(binary) as own_server:
        yield own_server
