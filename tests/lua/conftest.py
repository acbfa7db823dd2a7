"""What the tests of the scripts start from."""

from __future__ import annotations

import pytest

from limiter.redis.scripts import ScriptSet
from tests.support.answers import Said
from tests.support.clock import DrivenClock
from tests.support.driver import Driver
from tests.support.servers import Server


@pytest.fixture
def cold(server: Server, scripts: ScriptSet, clock: DrivenClock) -> Driver:
    """The workspace `acme`, of which the server knows nothing."""
    return Driver(server.client, scripts)


@pytest.fixture
def acme(cold: Driver) -> Driver:
    """The workspace `acme`, loaded: no limits, nothing spent, nothing held."""
    assert cold.load() == Said("loaded")
    return cold
