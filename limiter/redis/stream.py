"""The partitions' streams: what scripts appended and durable storage does not have yet.

Every service process is a consumer of one group. An entry is removed only when it is acknowledged,
and acknowledged only after its commit; what a dead consumer left is claimed by the others.
It must not interpret entries.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from limiter.errors import RedisUnavailable
from limiter.redis.keys import Keys

GROUP = "ledger"


@dataclass(frozen=True, slots=True)
class RawEntry:
    """One entry as it lies in the stream. An entry deleted meanwhile has no fields."""

    stream_id: str
    fields: dict[bytes, bytes]


class LedgerStreams:
    """The streams of all partitions, read as consumer `consumer`."""

    def __init__(self, client: Redis, keys: Keys, *, consumer: str, deadline_ms: int) -> None:
        self._client = client
        self._keys = keys
        self._consumer = consumer
        self._deadline_s = deadline_ms / 1000

    async def own(self, partition: int, count: int) -> list[RawEntry]:
        """What this consumer read before and has not acknowledged: a commit of it failed."""
        return await self._read(partition, "0", count)

    async def new(self, partition: int, count: int) -> list[RawEntry]:
        """What no consumer has read yet, oldest first."""
        return await self._read(partition, ">", count)

    async def abandoned(self, partition: int, idle_ms: int, count: int) -> list[RawEntry]:
        """Takes over what another consumer read more than `idle_ms` ago and never acknowledged."""
        reply = await self._grouped(
            partition,
            "XAUTOCLAIM",
            self._keys.partition_stream(partition),
            GROUP,
            self._consumer,
            idle_ms,
            "0-0",
            "COUNT",
            count,
        )
        return _entries(reply[1])

    async def acknowledge(self, partition: int, stream_ids: Sequence[str]) -> None:
        """Removes entries whose content is committed."""
        if not stream_ids:
            return
        key = self._keys.partition_stream(partition)
        async with self._bounded():
            pipeline = self._client.pipeline(transaction=True)
            pipeline.execute_command("XACK", key, GROUP, *stream_ids)
            pipeline.execute_command("XDEL", key, *stream_ids)
            await pipeline.execute()

    async def length(self, partition: int) -> int:
        """How many entries wait to become durable."""
        async with self._bounded():
            return int(
                await self._client.execute_command("XLEN", self._keys.partition_stream(partition))
            )

    async def last_id(self, partition: int) -> str | None:
        """The id of the newest entry; None if there is none."""
        key = self._keys.partition_stream(partition)
        async with self._bounded():
            reply = await self._client.execute_command("XREVRANGE", key, "+", "-", "COUNT", 1)
        return reply[0][0].decode() if reply else None

    async def has_up_to(self, partition: int, stream_id: str) -> bool:
        """Whether an entry up to this one is still to become durable."""
        key = self._keys.partition_stream(partition)
        async with self._bounded():
            reply = await self._client.execute_command("XRANGE", key, "-", stream_id, "COUNT", 1)
        return bool(reply)

    async def leave(self, partition: int) -> None:
        """Removes this consumer, which must have nothing pending."""
        key = self._keys.partition_stream(partition)
        async with self._bounded():
            with contextlib.suppress(ResponseError):
                await self._client.execute_command(
                    "XGROUP", "DELCONSUMER", key, GROUP, self._consumer
                )

    async def _read(self, partition: int, after: str, count: int) -> list[RawEntry]:
        reply = await self._grouped(
            partition,
            "XREADGROUP",
            "GROUP",
            GROUP,
            self._consumer,
            "COUNT",
            count,
            "STREAMS",
            self._keys.partition_stream(partition),
            after,
        )
        return _entries(reply[0][1]) if reply else []

    async def _grouped(self, partition: int, *command: str | int) -> Any:
        """Runs a command of the group, which is made when a new or flushed server lacks it."""
        async with self._bounded():
            try:
                return await self._client.execute_command(*command)
            except ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
            key = self._keys.partition_stream(partition)
            with contextlib.suppress(ResponseError):  # BUSYGROUP: another process was faster
                await self._client.execute_command("XGROUP", "CREATE", key, GROUP, "0", "MKSTREAM")
            return await self._client.execute_command(*command)

    @contextlib.asynccontextmanager
    async def _bounded(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._deadline_s):
                yield
        except (RedisError, OSError, TimeoutError) as error:
            raise RedisUnavailable(f"the stream cannot be read: {error}"[:200]) from error


def _entries(items: Any) -> list[RawEntry]:
    return [RawEntry(item[0].decode(), item[1] or {}) for item in items if item is not None]
