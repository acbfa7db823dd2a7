"""A limiter behind each door in turn: the real service over HTTP, and a Limiter of this process."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from limiter import load_settings, open_limiter
from limiter.client import AsyncClient, Client
from tests.client.scene import PATIENT, Scene
from tests.faults.proxy import Proxy, running_proxy
from tests.support.service import Service, running_service

_numbers = itertools.count()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("client"), redis_deadline_ms=10_000) as service:
        yield service


@pytest.fixture
def workspace_id() -> str:
    return f"ws-{next(_numbers)}"


@pytest.fixture(params=["http", "in_process"])
async def scene(
    request: pytest.FixtureRequest, tmp_path: Path, workspace_id: str
) -> AsyncIterator[Scene]:
    """A client with a workspace of its own."""
    if request.param == "http":
        service: Service = request.getfixturevalue("service")
        async with AsyncClient(service.url, **PATIENT) as client:
            yield Scene(client, workspace_id, service=service)
        return
    settings = load_settings({"data_dir": tmp_path / "data", "redis_deadline_ms": 10_000})
    async with open_limiter(settings) as limiter, AsyncClient(limiter, **PATIENT) as client:
        yield Scene(client, workspace_id, limiter=limiter)


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    """The sync client of the service."""
    with Client(service.url, **PATIENT) as client:
        yield client


@pytest.fixture
def proxy(service: Service) -> Iterator[Proxy]:
    """A way to the service that can break."""
    with running_proxy(service.port) as proxy:
        yield proxy
