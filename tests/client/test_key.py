"""Clients of a service that asks for keys."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from limiter.client import AsyncClient, Client
from limiter.durable import Storage
from limiter.errors import Forbidden, Unauthenticated
from limiter.models import CheckRequest
from tests.client.scene import PATIENT
from tests.support.api_keys import MadeKey, added_key, new_key
from tests.support.service import Service, running_service

CHECK = CheckRequest(workspace_id="acme", estimate_micros=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("asks")


@pytest.fixture(scope="module")
def caller(folder: Path) -> MadeKey:
    async def added() -> MadeKey:
        async with Storage(f"sqlite:///{folder / 'data' / 'limiter.db'}") as storage:
            await added_key(storage, "admin")
            return await added_key(storage, "caller", "acme")

    return asyncio.run(added())


@pytest.fixture(scope="module")
def asking(folder: Path, caller: MadeKey) -> Iterator[Service]:
    with running_service(folder, auth="keys", redis_deadline_ms=10_000) as service:
        yield service


async def test_async(asking: Service, caller: MadeKey) -> None:
    async with AsyncClient(asking.url, key=caller.text, **PATIENT) as client:
        async with client.call("acme", "c1", 5) as call:
            call.cost(3)
        assert (await client.usage("acme")).periods["hourly"].spent_micros >= 3
        with pytest.raises(Forbidden):
            async with client.call("zeta", "c1", 5):
                pytest.fail("it must not be entered")
    for key in (None, new_key("caller").text):
        async with AsyncClient(asking.url, key=key, outage_policy="allow", **PATIENT) as client:
            with pytest.raises(Unauthenticated):
                async with client.call("acme", "c1", 5):
                    pytest.fail("it must not be entered")


def test_sync(asking: Service, caller: MadeKey) -> None:
    with Client(asking.url, key=caller.text, **PATIENT) as client:
        assert client.check(CHECK).allowed
        with pytest.raises(Forbidden):
            client.usage("zeta")
    with Client(asking.url, **PATIENT) as client, pytest.raises(Unauthenticated):
        client.check(CHECK)


@pytest.mark.parametrize("key", ["", "my-secret", "lim_0_0", "lim_x\r\nx-evil: 1"])
def test_what_is_no_key_is_refused_and_not_repeated(key: str) -> None:
    for client in (Client, AsyncClient):
        with pytest.raises(ValueError, match="not an API key") as raised:
            client("http://127.0.0.1:8080", key=key)
        assert not key or key not in str(raised.value)
