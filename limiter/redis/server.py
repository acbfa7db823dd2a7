"""One server with all that belongs to it: the pipelined connection, scripts, breaker, client.

A single server is a `Link` by itself; a node of a cluster is one of several in `cluster.py`. It
must not know what scripts mean.
"""

from __future__ import annotations

import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError

from limiter.errors import RedisUnavailable, StartupError
from limiter.metrics import Metrics
from limiter.redis.breaker import Breaker
from limiter.redis.connect import ServerInfo, make_client, verify_server
from limiter.redis.pipeline import Pipeline
from limiter.redis.runner import ScriptRunner
from limiter.redis.scripts import ScriptSet
from limiter.settings import Settings


class Link(Protocol):
    """All of Redis that a Limiter uses, whether it is one server or many."""

    @property
    def is_verified(self) -> bool:
        """Whether a server was found that is safe to count on. Until then no script runs."""

    async def run(self, name: str, keys: tuple[str, ...], *args: str | int) -> list[Any]:
        """As `ScriptRunner.run`. While a server is away, its callers are told so at once."""

    async def ping(self) -> bool:
        """Whether calls are answered. If they are, they are let through from now on."""

    async def verify(self) -> Mapping[int, str]:
        """By partition, the run id of the server that has it, without those whose server is away.

        Raises StartupError where counters would not be safe, and RedisUnavailable when nobody
        answers.
        """

    def client(self, partition: int) -> Redis:
        """Of the server that has the partition. Raises RedisUnavailable if none has it."""

    def clients(self) -> Sequence[Redis]:
        """Of all servers that have keys."""

    async def close(self) -> None:
        """Fails what is waiting. No connection is left behind."""


class Server:
    """One server, which is connected to when it is first needed."""

    def __init__(
        self,
        url: str,
        settings: Settings,
        scripts: ScriptSet,
        metrics: Metrics,
        *,
        is_verified: bool = False,
    ) -> None:
        """`is_verified`: scripts run without a look. Raises StartupError for an unusable URL."""
        self._client = make_client(
            url,
            deadline_ms=settings.redis_deadline_ms,
            connect_ms=settings.redis_connect_ms,
            max_connections=settings.redis_connections,
        )
        self.pipeline = Pipeline(
            url,
            deadline_ms=settings.redis_deadline_ms,
            connect_ms=settings.redis_connect_ms,
            metrics=metrics,
        )
        self.breaker = Breaker(
            failures=settings.breaker_failures,
            reset_ms=settings.breaker_reset_ms,
            monotonic_s=time.monotonic,
            metrics=metrics,
        )
        self._runner = ScriptRunner(self.pipeline, scripts, self.breaker)
        self._runner.server_is_verified = is_verified
        self._partitions = settings.partitions

    @property
    def is_verified(self) -> bool:
        return self._runner.server_is_verified

    def run(
        self, name: str, keys: tuple[str, ...], *args: str | int
    ) -> Coroutine[Any, Any, list[Any]]:
        return self._runner.run(name, keys, *args)

    async def ping(self) -> bool:
        answers = await self._runner.ping()
        if answers:
            self.breaker.succeeded()
        return answers

    async def look(self) -> ServerInfo:
        """What the server says of itself. Raises as `verify` does; scripts run from then on."""
        info = await verify_server(self._client)
        self._runner.server_is_verified = True
        return info

    async def verify(self) -> Mapping[int, str]:
        info = await verify_server(self._client)
        if info.cluster_enabled and await self._cluster_size() > 1:
            raise StartupError(
                "the server is one of several nodes of a cluster, and has a part of the keys only: "
                "the Redis URL must begin with redis+cluster:// or rediss+cluster://"
            )
        self._runner.server_is_verified = True
        return dict.fromkeys(range(self._partitions), info.run_id)

    def client(self, _partition: int = 0) -> Redis:
        return self._client

    def clients(self) -> Sequence[Redis]:
        return [self._client]

    async def close(self) -> None:
        await self.pipeline.close()
        await self._client.aclose()

    async def _cluster_size(self) -> int:
        """How many nodes serve a part of the cluster."""
        try:
            info: dict[str, str] = await self._client.execute_command("CLUSTER INFO")
        except (RedisError, OSError) as error:
            raise RedisUnavailable(f"Redis cannot be reached: {type(error).__name__}") from error
        return int(info.get("cluster_size", 1))
