"""Which servers the service refuses to start on, and how a good one is described."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from limiter.errors import RedisUnavailable, StartupError
from limiter.redis.connect import ServerInfo, verify_server
from tests.redis.fake import client_of, fake_server
from tests.redis.support import unix_url
from tests.support.servers import ServerProcess, server_process

EVICTING_POLICIES = [
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    "volatile-lru",
    "volatile-lfu",
    "volatile-random",
    "volatile-ttl",
]


async def test_a_good_server_is_described(own_server: ServerProcess, binary: Path) -> None:
    async with client_of(unix_url(own_server)) as client:
        found = await verify_server(client)
        run_id = (await client.info("server"))["run_id"]
    engine = "valkey" if binary.name.startswith("valkey") else "redis"
    assert found.engine == engine
    assert found.version.split(".")[0] == ("9" if engine == "valkey" else "7")
    assert found == ServerInfo(
        engine=engine,
        version=found.version,
        run_id=run_id,
        role="master",
        cluster_enabled=False,
        aof_enabled=False,
    )


async def test_cluster_mode_and_the_append_only_file_are_seen(binary: Path) -> None:
    with server_process(binary, "--appendonly", "yes", cluster=True) as server:
        async with client_of(unix_url(server)) as client:
            found = await verify_server(client)
    assert found.cluster_enabled
    assert found.aof_enabled


@pytest.mark.parametrize("policy", EVICTING_POLICIES)
async def test_a_policy_that_could_drop_counters_is_refused(
    own_server: ServerProcess, policy: str
) -> None:
    async with client_of(unix_url(own_server)) as client:
        await client.config_set("maxmemory-policy", policy)
        with pytest.raises(StartupError) as refusal:
            await verify_server(client)
        assert f"maxmemory-policy is {policy}" in str(refusal.value)
        assert "would drop spend counters and holds" in str(refusal.value)
        assert "`redis-cli CONFIG SET maxmemory-policy noeviction`" in str(refusal.value)
        await client.config_set("maxmemory-policy", "noeviction")
        await verify_server(client)


async def test_the_policy_is_seen_where_config_is_forbidden(own_server: ServerProcess) -> None:
    admin = own_server.client
    admin.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all", "-config")
    async with client_of(f"unix://app:pw@{own_server.socket_path}") as client:
        await verify_server(client)
        admin.config_set("maxmemory-policy", "volatile-lru")
        with pytest.raises(StartupError, match="maxmemory-policy is volatile-lru"):
            await verify_server(client)


def bulk(text: str) -> bytes:
    return f"${len(text)}\r\n{text}\r\n".encode()


def says(info: str, config: bytes) -> Callable[[list[bytes]], bytes]:
    replies = {b"INFO": bulk(info), b"CONFIG": config}
    return lambda command: replies.get(command[0], b"+OK\r\n")


@pytest.mark.parametrize("version", ["6.0.16", "5.0.14", "", "unstable"])
async def test_an_old_or_unknown_version_is_refused(version: str, tmp_path: Path) -> None:
    info = f"redis_version:{version}\r\nmaxmemory_policy:noeviction\r\n"
    async with (
        fake_server("unix", tmp_path, says(info, b"-ERR\r\n")) as (_fake, url),
        client_of(url) as client,
    ):
        with pytest.raises(StartupError, match=f"6.2 or later is needed, .*{version}"):
            await verify_server(client)


@pytest.mark.parametrize(
    ("config", "policy"),
    [
        (b"-ERR unknown command 'CONFIG'\r\n", "unknown"),
        (b"-NOPERM this user has no permissions\r\n", "unknown"),
        (b"*0\r\n", "unknown"),
        (b"*2\r\n" + bulk("maxmemory-policy") + bulk("allkeys-lru"), "allkeys-lru"),
    ],
)
async def test_a_policy_that_info_does_not_say_is_asked_for(
    config: bytes, policy: str, tmp_path: Path
) -> None:
    info = "redis_version:7.2.4\r\nrun_id:abc\r\nrole:master\r\n"
    async with (
        fake_server("unix", tmp_path, says(info, config)) as (_fake, url),
        client_of(url) as client,
    ):
        with pytest.raises(StartupError, match=f"maxmemory-policy is {policy}"):
            await verify_server(client)


async def test_a_server_that_is_away_is_no_refusal(tmp_path: Path) -> None:
    async with client_of(f"unix://{tmp_path}/nobody.sock") as client:
        with pytest.raises(RedisUnavailable):
            await verify_server(client)
