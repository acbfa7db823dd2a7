"""What the tests of this folder share: workspaces by node, calls, and what is true afterwards."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from time import monotonic

import pytest

from limiter import CheckRequest, Limiter, RecordRequest
from limiter.errors import Unavailable
from limiter.models import Admitted, Recorded
from limiter.redis.keys import Keys
from limiter.redis.slots import slot_of_partition
from tests.support.cluster import ClusterNode, TestCluster

PARTITIONS = 64
WAIT_MS_MAX = 20_000
POLL_MS = 10

KEYS = Keys(PARTITIONS)


def slot_of(workspace_id: str) -> int:
    return slot_of_partition(KEYS.partition(workspace_id))


def workspaces_on(cluster: TestCluster, node: ClusterNode, count: int) -> list[str]:
    """Names of workspaces whose keys this node has."""
    names = (f"w{number}" for number in range(100_000))
    found = (name for name in names if cluster.owner(slot_of(name)) is node)
    return [name for name, _ in zip(found, range(count), strict=False)]


async def check(limiter: Limiter, workspace_id: str, **options: object) -> Admitted:
    answer = await limiter.check(CheckRequest(workspace_id=workspace_id, **options))  # type: ignore[arg-type]
    assert isinstance(answer, Admitted)
    return answer


async def record(limiter: Limiter, workspace_id: str, **options: object) -> Recorded:
    return await limiter.record(RecordRequest(workspace_id=workspace_id, **options))  # type: ignore[arg-type]


async def spent(limiter: Limiter, workspace_id: str) -> int:
    return (await limiter.usage(workspace_id)).periods["monthly"].spent_micros


async def eventually(condition: Callable[[], Awaitable[object]], what: str) -> None:
    """Until it holds; an outage counts as not yet."""
    deadline = monotonic() + WAIT_MS_MAX / 1000
    while True:
        try:
            if await condition():
                return
        except Unavailable:
            pass
        if monotonic() > deadline:
            pytest.fail(f"not within {WAIT_MS_MAX} ms: {what}")
        await asyncio.sleep(POLL_MS / 1000)


async def assert_counts(limiter: Limiter, tally: Counter[str]) -> None:
    """Once what was queued has been told to Redis, its counters are those of the tally."""

    async def is_told() -> bool:
        return all([await spent(limiter, name) >= micros for name, micros in tally.items()])

    await eventually(is_told, f"Redis knows {dict(tally)}, but {await all_spent(limiter, tally)}")
    assert await all_spent(limiter, tally) == dict(tally)


async def all_spent(limiter: Limiter, names: Iterable[str]) -> dict[str, int]:
    return {name: await spent(limiter, name) for name in names}


def keys_of(node: ClusterNode) -> list[str]:
    found: list[bytes] = node.client.execute_command("KEYS", "*")
    return sorted(key.decode() for key in found)
