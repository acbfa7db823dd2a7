"""Consumers of the streams: they leave, those of the dead go, and no entry goes with them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from limiter.errors import RedisUnavailable
from limiter.redis.keys import Keys
from limiter.redis.stream import GROUP, LedgerStreams
from tests.redis.fake import client_of
from tests.redis.support import unix_url
from tests.support.servers import ServerProcess

STREAM = "lim:{0}:stream"
ONE_HOUR_MS = 3_600_000


@pytest.fixture
async def client(own_server: ServerProcess) -> AsyncIterator[Redis]:
    async with client_of(unix_url(own_server)) as client:
        yield client


def consumer(client: Redis, name: str) -> LedgerStreams:
    return LedgerStreams(lambda _partition: client, Keys(1), consumer=name, deadline_ms=10_000)


async def append(client: Redis, count: int = 1) -> list[str]:
    ids = [await client.execute_command("XADD", STREAM, "*", "type", "any") for _ in range(count)]
    return [str(stream_id, "ascii") for stream_id in ids]


async def names(client: Redis) -> set[str]:
    found: list[dict[str, Any]] = await client.xinfo_consumers(STREAM, GROUP)
    return {item["name"].decode() for item in found}


async def move(streams: LedgerStreams) -> None:
    entries = await streams.new(0, 100)
    await streams.acknowledge(0, [entry.stream_id for entry in entries])


async def test_a_consumer_leaves_when_it_has_nothing_pending(client: Redis) -> None:
    one, other = consumer(client, "one"), consumer(client, "other")
    for streams in (one, other):
        await append(client)
        await move(streams)
    await one.leave(0)
    assert await names(client) == {"other"}
    await one.leave(0)
    await append(client)
    await move(one)
    assert await names(client) == {"one", "other"}


async def test_a_consumer_stays_with_what_it_did_not_acknowledge(client: Redis) -> None:
    one, other = consumer(client, "one"), consumer(client, "other")
    [stream_id] = await append(client)
    await one.new(0, 100)
    await one.leave(0)
    assert await other.dismiss_idle(0, 0) == 0
    assert await names(client) == {"one"}
    taken = await other.abandoned(0, 0, 100)
    assert [entry.stream_id for entry in taken] == [stream_id]
    await one.leave(0)
    assert await names(client) == {"other"}


async def test_what_killed_processes_left_is_removed_once_it_was_silent_for_long(
    client: Redis,
) -> None:
    for number in range(5):
        await append(client)
        await move(consumer(client, f"killed-{number}"))
    mine = consumer(client, "mine")
    await append(client)
    await move(mine)
    assert await mine.dismiss_idle(0, ONE_HOUR_MS) == 0
    assert len(await names(client)) == 6
    assert await mine.dismiss_idle(0, 0) == 5
    assert await names(client) == {"mine"}


async def test_where_there_is_no_stream_or_no_group_there_is_nothing_to_remove(
    client: Redis,
) -> None:
    mine = consumer(client, "mine")
    await mine.leave(0)
    assert await mine.dismiss_idle(0, 0) == 0
    assert await client.exists(STREAM) == 0
    await append(client)
    await mine.leave(0)
    assert await mine.dismiss_idle(0, 0) == 0


class Overtaken(LedgerStreams):
    """Others read right after it has looked at them."""

    readers: tuple[LedgerStreams, ...] = ()

    async def _consumers(self, partition: int) -> list[tuple[str, int, int]]:
        found = await super()._consumers(partition)
        for reader in self.readers:
            await reader.new(partition, 2)
        return found


async def test_what_a_consumer_reads_right_before_it_is_removed_is_not_lost(
    client: Redis,
) -> None:
    silent = consumer(client, "silent")
    mine = Overtaken(lambda _partition: client, Keys(1), consumer="mine", deadline_ms=10_000)
    await append(client)
    await move(silent)
    stream_ids = await append(client, 3)
    mine.readers = (silent,)
    assert await mine.dismiss_idle(0, 0) == 1
    # Redis delivers an entry by itself once only, so somebody has to have it on their list.
    assert [entry.stream_id for entry in await mine.own(0, 100)] == stream_ids[:2]
    assert [entry.stream_id for entry in await mine.new(0, 100)] == stream_ids[2:]
    # The reader was alive, and may just as well be the one who commits them.
    await silent.acknowledge(0, stream_ids[:2])
    assert [entry.stream_id for entry in await mine.own(0, 100)] == stream_ids[2:]
    await mine.acknowledge(0, stream_ids[2:])
    pending: dict[str, Any] = await client.xpending(STREAM, GROUP)
    assert (pending["pending"], await client.xlen(STREAM)) == (0, 0)


async def test_an_absent_server_is_an_outage(tmp_path: Path) -> None:
    async with client_of(f"unix://{tmp_path}/nobody.sock") as client:
        for call in (consumer(client, "one").leave(0), consumer(client, "one").dismiss_idle(0, 0)):
            with pytest.raises(RedisUnavailable):
                await call
