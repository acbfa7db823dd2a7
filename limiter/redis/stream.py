"""The partitions' streams: what scripts appended and durable storage does not have yet.

Entries are read from the beginning of a stream, and stay there until somebody has committed them:
whoever reads next finds what one that died had read. They are removed by a script (`lua/trim.lua`).
It must not interpret entries.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from redis.asyncio import Redis
from redis.exceptions import RedisError

from limiter.errors import RedisUnavailable
from limiter.redis.keys import Keys

# To write out a whole batch takes Redis longer than many calls, which would all wait for it.
READ_AT_ONCE = 100


class RawEntry(NamedTuple):
    """One entry as it lies in the stream: names and values by turns."""

    stream_id: bytes
    fields: Sequence[bytes]

    def named(self) -> dict[bytes, bytes]:
        """The values by their names."""
        return dict(zip(self.fields[::2], self.fields[1::2], strict=True))


class LedgerStreams:
    """The streams of all partitions.

    `client_of`: that of the server which has a partition; it may raise RedisUnavailable.
    """

    def __init__(self, client_of: Callable[[int], Redis], keys: Keys, *, deadline_ms: int) -> None:
        self._client_of = client_of
        self._keys = keys
        self._deadline_s = deadline_ms / 1000

    async def oldest(self, partition: int, count: int) -> list[RawEntry]:
        """The first entries, in their order."""
        key = self._keys.partition_stream(partition)
        found: list[RawEntry] = []
        after = b"-"
        async with self._bounded():
            client = self._client_of(partition)
            while len(found) < count:
                at_once = min(count - len(found), READ_AT_ONCE)
                page = await client.execute_command("XRANGE", key, after, "+", "COUNT", at_once)
                found += map(RawEntry._make, page)
                if len(page) < at_once:
                    break
                after = b"(" + found[-1].stream_id
        return found

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
        oldest = await self.oldest(partition, 1)
        return int(oldest[0].stream_id.partition(b"-")[0]) if oldest else None

    @contextlib.asynccontextmanager
    async def _bounded(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._deadline_s):
                yield
        except (RedisError, OSError, TimeoutError) as error:
            raise RedisUnavailable(f"the stream cannot be read: {error}"[:200]) from error
