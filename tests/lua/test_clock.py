"""The clock as it is: the server's, and never behind what a scope has seen."""

from __future__ import annotations

from limiter.redis.scripts import bundled_scripts
from tests.support.driver import Driver
from tests.support.servers import Server


def server_ms(server: Server) -> int:
    seconds, micros = server.client.execute_command("TIME")
    return int(seconds) * 1_000 + int(micros) // 1_000


def test_time_is_the_servers(server: Server) -> None:
    driver = Driver(server.client, bundled_scripts())
    before = server_ms(server)
    driver.load()
    assert before <= driver.usage().now <= server_ms(server)


def test_time_never_goes_back_behind_a_scope(server: Server) -> None:
    driver = Driver(server.client, bundled_scripts())
    driver.load()
    ahead = server_ms(server) + 3_600_000
    server.client.execute_command("HSET", driver.workspace_key, "clock", ahead)
    driver.record(5, "e1")
    assert driver.usage().now == ahead
    assert driver.entries()[-1][1]["at"] == str(ahead)
