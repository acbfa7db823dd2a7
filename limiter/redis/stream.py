"""The partitions' streams: what scripts appended and durable storage does not have yet.

Every service process is a consumer of one group. An entry is removed only when it is acknowledged,
and acknowledged only after its commit; what a dead consumer left is claimed by the others.
It must not interpret entries.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from limiter.errors import RedisUnavailable
from limiter.redis.keys import Keys

GROUP = "ledger"

# More than a consumer ever has pending that had nothing a moment ago.
PENDING_MAX = 100_000


@dataclass(frozen=True, slots=True)
class RawEntry:
    """One entry as it lies in the stream. An entry deleted meanwhile has no fields."""

    stream_id: str
    fields: dict[bytes, bytes]


class LedgerStreams:
    """The streams of all partitions, read as consumer `consumer`.

    `client_of`: that of the server which has a partition; it may raise RedisUnavailable.
    """

    def __init__(
        self,
        client_of: Callable[[int], Redis],
        keys: Keys,
        *,
        consumer: str,
        deadline_ms: int,
    ) -> None:
        self._client_of = client_of
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

    async def acknowledge(self, partition: int, stream_ids: Sequence[str]) -> int:
        """Removes entries whose content is committed; returns how many were there."""
        if not stream_ids:
            return 0
        key = self._keys.partition_stream(partition)
        async with self._bounded():
            pipeline = self._client_of(partition).pipeline(transaction=True)
            pipeline.execute_command("XACK", key, GROUP, *stream_ids)
            pipeline.execute_command("XDEL", key, *stream_ids)
            removed: int = (await pipeline.execute())[1]
        return removed

    async def waiting(self) -> dict[int, int]:
        """By partition, how many entries wait to become durable.

        A partition whose server is away is not in it. Raises RedisUnavailable if all of them are.
        """
        lost: RedisUnavailable | None = None
        on_server: defaultdict[Redis, list[int]] = defaultdict(list)
        for partition in range(self._keys.partitions):
            try:
                on_server[self._client_of(partition)].append(partition)
            except RedisUnavailable as error:
                lost = error
        waiting: dict[int, int] = {}
        for found in await asyncio.gather(
            *(self._lengths(client, partitions) for client, partitions in on_server.items())
        ):
            if isinstance(found, RedisUnavailable):
                lost = found
            else:
                waiting |= found
        if lost is not None and not waiting:
            raise lost
        return waiting

    async def _lengths(
        self, client: Redis, partitions: Sequence[int]
    ) -> dict[int, int] | RedisUnavailable:
        """Of the streams that this server has, or why it does not say. One may have moved away."""
        try:
            async with self._bounded():
                pipeline = client.pipeline(transaction=False)
                for partition in partitions:
                    pipeline.xlen(self._keys.partition_stream(partition))
                lengths = await pipeline.execute(raise_on_error=False)
        except RedisUnavailable as error:
            return error
        found = {p: n for p, n in zip(partitions, lengths, strict=True) if isinstance(n, int)}
        if not found:
            return RedisUnavailable(f"the streams cannot be read: {lengths[0]}"[:200])
        return found

    async def length(self, partition: int) -> int:
        """How many entries wait to become durable."""
        async with self._bounded():
            return int(
                await self._client_of(partition).execute_command(
                    "XLEN", self._keys.partition_stream(partition)
                )
            )

    async def oldest_ms(self, partition: int) -> int | None:
        """When the oldest entry that is still to become durable was made; None if there is none."""
        key = self._keys.partition_stream(partition)
        async with self._bounded():
            client = self._client_of(partition)
            reply = await client.execute_command("XRANGE", key, "-", "+", "COUNT", 1)
        return int(reply[0][0].partition(b"-")[0]) if reply else None

    async def last_id(self, partition: int) -> str | None:
        """The id of the newest entry; None if there is none."""
        key = self._keys.partition_stream(partition)
        async with self._bounded():
            client = self._client_of(partition)
            reply = await client.execute_command("XREVRANGE", key, "+", "-", "COUNT", 1)
        return reply[0][0].decode() if reply else None

    async def has_up_to(self, partition: int, stream_id: str) -> bool:
        """Whether an entry up to this one is still to become durable."""
        key = self._keys.partition_stream(partition)
        async with self._bounded():
            client = self._client_of(partition)
            reply = await client.execute_command("XRANGE", key, "-", stream_id, "COUNT", 1)
        return bool(reply)

    async def leave(self, partition: int) -> None:
        """Removes this consumer, if nothing is pending. It must not be reading meanwhile."""
        for name, pending, _ in await self._consumers(partition):
            if name == self._consumer and pending == 0:
                await self._dismiss(partition, name)

    async def dismiss_idle(self, partition: int, idle_ms: int) -> int:
        """Removes other consumers that have nothing pending and have not read for `idle_ms`.

        Processes that were killed leave them. One that lives, and whose stream was silent, is made
        again when it reads. Returns how many went.
        """
        gone = 0
        for name, pending, silent_ms in await self._consumers(partition):
            if name != self._consumer and pending == 0 and silent_ms >= idle_ms:
                await self._dismiss(partition, name)
                gone += 1
        return gone

    async def _consumers(self, partition: int) -> list[tuple[str, int, int]]:
        """Of each consumer its name, how much is pending, and for how many ms it was silent."""
        key = self._keys.partition_stream(partition)
        async with self._bounded():
            try:
                client = self._client_of(partition)
                consumers: list[dict[str, Any]] = await client.xinfo_consumers(key, GROUP)
            except ResponseError:  # neither stream nor group
                return []
        return [(item["name"].decode(), item["pending"], item["idle"]) for item in consumers]

    async def _dismiss(self, partition: int, name: str) -> None:
        """Removes a consumer. Redis drops what it has pending, which nobody would then read again.

        It may have begun to read since it was looked at: what it has by now is asked for in the
        same step, and taken over.
        """
        key = self._keys.partition_stream(partition)
        async with self._bounded():
            client = self._client_of(partition)
            pipeline = client.pipeline(transaction=True)
            pipeline.xpending_range(key, GROUP, "-", "+", PENDING_MAX, consumername=name)
            pipeline.xgroup_delconsumer(key, GROUP, name)
            dropped: list[dict[str, Any]] = (await pipeline.execute())[0]
            if dropped:
                stream_ids = [item["message_id"] for item in dropped]
                await client.xclaim(
                    key, GROUP, self._consumer, 0, stream_ids, force=True, justid=True
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
            client = self._client_of(partition)
            try:
                return await client.execute_command(*command)
            except ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
            key = self._keys.partition_stream(partition)
            with contextlib.suppress(ResponseError):  # BUSYGROUP: another process was faster
                await client.execute_command("XGROUP", "CREATE", key, GROUP, "0", "MKSTREAM")
            return await client.execute_command(*command)

    @contextlib.asynccontextmanager
    async def _bounded(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._deadline_s):
                yield
        except (RedisError, OSError, TimeoutError) as error:
            raise RedisUnavailable(f"the stream cannot be read: {error}"[:200]) from error


def _entries(items: Any) -> list[RawEntry]:
    return [RawEntry(item[0].decode(), item[1] or {}) for item in items if item is not None]
