"""Slots that move between nodes while calls go on: nothing is lost, and nothing counts twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from contextlib import AbstractAsyncContextManager

import pytest
import redis

from limiter import Limiter, ReleaseRequest
from limiter.errors import RedisUnavailable
from limiter.redis.slots import slot_of_partition
from limiter.runtime import open_limiter, open_parts
from tests.redis.cluster.conftest import MakeSettings
from tests.redis.cluster.support import (
    KEYS,
    assert_counts,
    check,
    eventually,
    keys_of,
    record,
    slot_of,
    spent,
    workspaces_on,
)
from tests.support.cluster import ClusterNode, TestCluster

ROUNDS_PER_STEP = 3
MEMORY_MS = 20


class Load:
    """Checks and records of some workspaces that go on until told to stop, and their tally."""

    def __init__(self, limiter: Limiter, names: list[str]) -> None:
        self.tally = Counter[str]()
        self.rounds = self.queued = self.degraded = 0
        self._limiter = limiter
        self._names = names
        self._stopping = False
        self._round_made = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        self._stopping = True
        await self._task

    async def advance(self) -> None:
        """Returns once some calls have been made from begin to end."""
        async with asyncio.timeout(30):
            for _ in range(1 + ROUNDS_PER_STEP):
                await self._round_made.wait()
        if self._task.done():
            await self._task

    async def _run(self) -> None:
        try:
            while not self._stopping:
                await asyncio.gather(*(self._pair(name) for name in self._names))
                self.rounds += 1
                self._round_made.set()
                self._round_made = asyncio.Event()
        finally:
            self._round_made.set()

    async def _pair(self, name: str) -> None:
        number = self.rounds
        # A new chat and a new hold: keys that did not exist when the move began.
        held = await check(self._limiter, name, chat_id=f"c{number}", estimate_micros=10)
        self.degraded += held.degraded
        answer = await record(
            self._limiter,
            name,
            chat_id=f"c{number}",
            reservation_id=held.reservation.id if held.reservation else None,
            event_id=f"e{number}",
            cost_micros=1 + number,
        )
        self.queued += answer.queued
        self.tally[name] += 1 + number


def same_partition(name: str, count: int) -> list[str]:
    """Workspaces of one slot."""
    partition = KEYS.partition(name)
    others = (f"s{number}" for number in range(100_000))
    found = (other for other in others if KEYS.partition(other) == partition)
    return [name, *(other for other, _ in zip(found, range(count - 1), strict=False))]


async def moved(
    cluster: TestCluster, slot: int, source: ClusterNode, target: ClusterNode, load: Load
) -> None:
    """Key by key as `redis-cli --cluster reshard` does, with calls between all steps."""
    cluster.begin_move(slot, source, target)
    await load.advance()
    for wanted in (":workspace", ":stream", ":hourly", ""):
        cluster.move_keys(slot, source, target, wanted)
        await load.advance()
    while cluster.move_keys(slot, source, target):
        pass
    cluster.end_move(slot, target)
    await load.advance()


def limiter_on(
    cluster: TestCluster, settings_of: MakeSettings
) -> AbstractAsyncContextManager[Limiter]:
    return open_limiter(settings_of(cluster))


async def test_a_slot_that_moves_under_load_loses_and_doubles_nothing(
    any_cluster: TestCluster, settings_of: MakeSettings
) -> None:
    source, target, _ = any_cluster.nodes
    moving = same_partition(workspaces_on(any_cluster, source, 1)[0], 3)
    others = workspaces_on(any_cluster, target, 2)
    slot = slot_of(moving[0])
    async with limiter_on(any_cluster, settings_of) as limiter:
        load, beside = Load(limiter, moving), Load(limiter, others)
        await load.advance()
        await moved(any_cluster, slot, source, target, load)
        # While it was between the nodes, the ledger took what came.
        assert load.queued > 0
        assert load.degraded > 0
        queued = load.queued
        await load.advance()
        await moved(any_cluster, slot, target, source, load)
        await load.advance()
        for one in (load, beside):
            await one.stop()
            await assert_counts(limiter, one.tally)
        assert load.queued > queued
        # The other partitions of both nodes never noticed.
        assert (beside.queued, beside.degraded) == (0, 0)
    # It ended where it began, and nothing of it is left on the other node.
    tag = f"lim:{{{KEYS.partition(moving[0])}}}:"
    with_it = [node for node in any_cluster.nodes if any(tag in key for key in keys_of(node))]
    assert with_it == [source]


async def test_a_slot_that_has_moved_is_found_by_the_next_call(
    any_cluster: TestCluster, settings_of: MakeSettings
) -> None:
    source, _, target = any_cluster.nodes
    name = workspaces_on(any_cluster, source, 1)[0]
    slot = slot_of(name)
    async with open_parts(settings_of(any_cluster)) as parts:
        await record(parts.limiter, name, cost_micros=1)
        any_cluster.begin_move(slot, source, target)
        any_cluster.move_keys(slot, source, target)
        any_cluster.end_move(slot, target)
        answers = await asyncio.gather(
            *(record(parts.limiter, name, cost_micros=1) for _ in range(20))
        )
        assert not any(answer.queued for answer in answers)
        assert await spent(parts.limiter, name) == 21
        assert (await parts.link.verify())[KEYS.partition(name)] == (
            target.client.info("server")["run_id"]
        )
        assert slot_of_partition(KEYS.partition(name)) == slot


async def test_a_slot_that_moves_as_a_whole_is_followed(
    own_cluster: TestCluster, settings_of: MakeSettings
) -> None:
    """Valkey 9 copies a slot and hands it over at once: hardly a call has to wait for it."""
    source, target, _ = own_cluster.nodes
    moving = same_partition(workspaces_on(own_cluster, source, 1)[0], 3)
    slot = slot_of(moving[0])
    async with limiter_on(own_cluster, settings_of) as limiter:
        load = Load(limiter, moving)
        await load.advance()
        partition = KEYS.partition(moving[0])

        def is_there() -> bool:
            with contextlib.suppress(redis.ResponseError):  # it is not the target's yet
                target.client.execute_command("EXISTS", f"lim:{{{partition}}}:nothing")
                return True
            # One that is under way refuses another; one that failed has to be made again.
            with contextlib.suppress(redis.ResponseError):
                source.cluster("MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target.node_id)
            return False

        await eventually(lambda: asyncio.to_thread(is_there), "the slot is with the other node")
        await load.advance()
        await load.stop()
        await assert_counts(limiter, load.tally)
    hashes = {key for key in keys_of(target) if key.endswith(":workspace")}
    assert {key.split(":")[2] for key in hashes} == set(moving)


async def test_half_a_workspace_is_never_counted_on(
    any_cluster: TestCluster, settings_of: MakeSettings
) -> None:
    """No call begins on a node that has a part of the keys only, and none ends half done."""
    source, target, _ = any_cluster.nodes
    name = workspaces_on(any_cluster, source, 1)[0]
    slot = slot_of(name)
    # Ids are remembered in slices so short that every call makes a key that was not there.
    options = {"idempotency_ms": MEMORY_MS, "snapshot_interval_ms": 3_600_000}
    async with open_parts(settings_of(any_cluster, **options)) as parts:
        limiter = parts.limiter
        await record(limiter, name, cost_micros=5)
        held = await check(limiter, name, estimate_micros=3)
        assert held.reservation is not None
        release = ReleaseRequest(workspace_id=name, reservation_id=held.reservation.id)
        await parts.snapshot.run_once()
        any_cluster.begin_move(slot, source, target)
        for part in (":stream", ":workspace"):
            await asyncio.sleep(2 * MEMORY_MS / 1000)
            before = contents(source), keys_of(target)
            assert (await record(limiter, name, event_id=f"e{part[1:]}", cost_micros=1)).queued
            assert (await check(limiter, name, estimate_micros=1)).degraded
            assert (await check(limiter, name, chat_id="new", estimate_micros=1)).degraded
            with pytest.raises(RedisUnavailable):
                await limiter.release(release)
            assert (contents(source), keys_of(target)) == before
            any_cluster.move_keys(slot, source, target, part)
        any_cluster.move_keys(slot, source, target)
        any_cluster.end_move(slot, target)
        await parts.link.verify()
        assert await limiter.bring_back() == 2
        assert (await limiter.release(release)).released
        usage = await limiter.usage(name)
        assert usage.periods["monthly"].spent_micros == 7
        assert (usage.held_micros, usage.live_holds) == (0, 0)


def contents(node: ClusterNode) -> dict[str, bytes]:
    """What lasts; remembered ids go by themselves."""
    kept = (key for key in keys_of(node) if ":events:" not in key)
    return {key: node.client.execute_command("DUMP", key) for key in kept}


async def test_nodes_that_send_a_call_to_each_other_are_an_outage(
    own_cluster: TestCluster, settings_of: MakeSettings
) -> None:
    source, target, third = own_cluster.nodes
    name = workspaces_on(own_cluster, source, 1)[0]
    slot = slot_of(name)
    async with open_parts(settings_of(own_cluster)) as parts:
        source.cluster("SETSLOT", slot, "NODE", target.node_id)
        async with asyncio.timeout(5):
            assert (await record(parts.limiter, name, cost_micros=4)).queued
        for node in (target, third):
            node.cluster("SETSLOT", slot, "NODE", target.node_id)
        assert not (await record(parts.limiter, name, cost_micros=3)).queued
        await parts.limiter.bring_back()
        assert await spent(parts.limiter, name) == 7
