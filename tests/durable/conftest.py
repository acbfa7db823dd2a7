"""Both stores, each empty, for every test of durable storage."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from limiter.durable import Storage
from tests.support.postgres import postgres
from tests.support.stores import store_url

__all__ = ["postgres", "store_url"]


@pytest.fixture
async def storage(store_url: str) -> AsyncIterator[Storage]:
    """Each store in turn, started and empty."""
    async with Storage(store_url) as storage:
        yield storage
