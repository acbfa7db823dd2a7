"""Which clusters the service refuses to start on, and what it says."""

from __future__ import annotations

import pytest

from limiter.errors import RedisUnavailable, StartupError
from limiter.runtime import open_limiter, open_parts
from tests.redis.cluster.conftest import MakeSettings
from tests.redis.cluster.support import record, workspaces_on
from tests.support.cluster import TestCluster
from tests.support.servers import Server


async def refusal(settings_of: MakeSettings, cluster: TestCluster, **options: object) -> str:
    with pytest.raises(StartupError) as caught:
        async with open_limiter(settings_of(cluster, **options)):
            pass
    return str(caught.value)


@pytest.mark.parametrize("number", range(3))
async def test_a_policy_that_could_drop_counters_is_refused_on_every_primary(
    cluster: TestCluster, settings_of: MakeSettings, number: int
) -> None:
    client = cluster.nodes[number].client
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        said = await refusal(settings_of, cluster)
    finally:
        client.config_set("maxmemory-policy", "noeviction")
    assert "maxmemory-policy is allkeys-lru" in said


async def test_a_node_of_a_cluster_is_no_server_by_itself(
    cluster: TestCluster, settings_of: MakeSettings
) -> None:
    said = await refusal(settings_of, cluster, redis_url=f"redis://{cluster.nodes[0].address}")
    assert "must begin with redis+cluster://" in said


@pytest.mark.servers("valkey")
async def test_a_server_is_no_cluster_by_itself(
    server: Server, cluster: TestCluster, settings_of: MakeSettings
) -> None:
    assert server.url is not None
    url = server.url.replace("redis:", "redis+cluster:")
    assert "must begin with redis://" in await refusal(settings_of, cluster, redis_url=url)


@pytest.mark.servers("valkey-cluster")
async def test_the_only_node_of_a_cluster_may_be_used_as_either(
    server: Server, cluster: TestCluster, settings_of: MakeSettings
) -> None:
    assert server.url is not None
    for url in (server.url, server.url.replace("redis:", "redis+cluster:")):
        async with open_limiter(settings_of(cluster, redis_url=url, partitions=16)) as limiter:
            assert not (await record(limiter, "acme", cost_micros=1)).queued


async def test_a_wrong_password_is_told(cluster: TestCluster, settings_of: MakeSettings) -> None:
    url = cluster.url.replace("://", "://nobody:wrong@")
    said = await refusal(settings_of, cluster, redis_url=url)
    assert "refuses the user or the password" in said
    assert "wrong@" not in said


async def test_a_user_and_a_password_are_given_to_every_node(
    cluster: TestCluster, settings_of: MakeSettings
) -> None:
    for node in cluster.nodes:
        node.client.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~lim:*", "+@all")
    try:
        url = cluster.url.replace("://", "://app:pw@").split(",")[0]
        async with open_limiter(settings_of(cluster, redis_url=url)) as limiter:
            for node in cluster.nodes:
                for name in workspaces_on(cluster, node, 1):
                    assert not (await record(limiter, name, cost_micros=1)).queued
    finally:
        for node in cluster.nodes:
            node.client.execute_command("ACL", "DELUSER", "app")


async def test_commands_do_not_wait_for_a_cluster_that_is_away(
    cluster: TestCluster, settings_of: MakeSettings
) -> None:
    url = "redis+cluster://127.0.0.1:1,127.0.0.1:2"
    with pytest.raises(RedisUnavailable):
        async with open_parts(settings_of(cluster, redis_url=url)):
            pass
