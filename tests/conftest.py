"""Fixtures that all tests share: servers, a clock that tests drive, scripts that follow it.

    def test_on_every_server(server): ...
    def test_on_real_servers_only(real_server): ...

    @pytest.mark.servers("valkey", "redis")
    def test_on_these(server): ...

A server is flushed before each test. `clock`, `scripts` and whatever else needs a server share the
one that the test runs on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import pytest

from limiter.redis.scripts import ScriptSet
from tests.support.clock import DrivenClock, driven_scripts
from tests.support.servers import ALL_SERVERS, REAL_SERVERS, Server, ServerTable

# `ci` finds the same examples in every run; `deep` looks for new ones, and for much longer.
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.register_profile("deep", deadline=None, max_examples=5_000, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "servers(*names): the servers that the test runs on")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "server" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("servers")
    names = REAL_SERVERS if "real_server" in metafunc.fixturenames else ALL_SERVERS
    metafunc.parametrize("server", marker.args if marker else names, indirect=True)


@pytest.fixture(scope="session")
def server_table() -> Iterator[ServerTable]:
    with ServerTable() as table:
        yield table


@pytest.fixture
def server(request: pytest.FixtureRequest, server_table: ServerTable) -> Server:
    """Each server of the table in turn, empty."""
    server = server_table[request.param]
    server.flush()
    return server


@pytest.fixture
def real_server(server: Server) -> Server:
    """Each real server in turn, empty."""
    return server


@pytest.fixture(scope="session")
def scripts() -> ScriptSet:
    """The scripts, on the clock that tests drive."""
    return driven_scripts()


@pytest.fixture
def clock(server: Server) -> DrivenClock:
    """The clock of partition 0, which the scripts of `scripts` follow."""
    return DrivenClock(server.client)
