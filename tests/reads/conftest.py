"""The parts of the commands' tests: each store in turn, and a Redis that a test has for itself.

`parts` follow the clock that the test drives.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from limiter.reads import Reads
from limiter.runtime import Parts, open_parts
from limiter.settings import Settings
from tests.commands.conftest import postgres, redis_server, settings, store_url
from tests.support.clock import DrivenClock, driven_scripts
from tests.support.redis_process import RedisProcess

__all__ = ["postgres", "redis_server", "settings", "store_url"]


@pytest.fixture
def clock(redis_server: RedisProcess) -> DrivenClock:
    return DrivenClock(redis_server.client)


@pytest.fixture
async def parts(settings: Settings, clock: DrivenClock) -> AsyncIterator[Parts]:
    async with open_parts(settings, scripts=driven_scripts()) as parts:
        yield parts


@pytest.fixture
def reads(parts: Parts) -> Reads:
    return parts.limiter.reads
