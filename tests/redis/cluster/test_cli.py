"""`limiter redis-cli` on a cluster: from any node to the one that has the key."""

from __future__ import annotations

import subprocess

from limiter.redis.cli import redis_cli_argv, redis_cli_env, run_command
from tests.support.cluster import TestCluster
from tests.support.parts import need


def test_redis_cli_follows_from_node_to_node(cluster: TestCluster) -> None:
    argv = need("redis", redis_cli_argv(cluster.url, []), "redis-cli")
    for partition in range(8):
        key = f"lim:{{{partition}}}:acme:workspace"
        for command in (["HSET", key, "held", "7"], ["HGET", key, "held"]):
            said = subprocess.run([*argv, *command], capture_output=True, check=True, text=True)
        assert said.stdout.splitlines()[-1] == "7"
    assert all(node.client.dbsize() > 0 for node in cluster.nodes)


def test_the_password_is_not_on_the_command_line(cluster: TestCluster) -> None:
    url = cluster.url.replace("://", "://app:secret@")
    argv = need("redis", redis_cli_argv(url, ["PING"]), "redis-cli")
    assert "secret" not in " ".join(argv)
    assert redis_cli_env(url)["REDISCLI_AUTH"] == "secret"


def test_the_stand_in_asks_the_first_node(cluster: TestCluster) -> None:
    assert run_command(cluster.url, ["PING"], raw=True) == "PONG\n"
