"""Calls on a cluster: every node has its workspaces, and the counters are those of a tally."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

from limiter.commands.doctor import doctor
from limiter.commands.explain import explain
from limiter.models import WorkspacePatch
from limiter.redis.cluster import Cluster
from limiter.redis.keys import Keys
from limiter.runtime import open_limiter, open_parts
from tests.redis.cluster.conftest import MakeSettings
from tests.redis.cluster.support import check, keys_of, record, spent
from tests.support.cluster import TestCluster

WORKSPACES = [f"w{number}" for number in range(60)]


async def test_checks_and_records_land_on_all_nodes_and_agree_with_a_tally(
    cluster: TestCluster, settings_of: MakeSettings
) -> None:
    choice, tally = random.Random(4), Counter[str]()

    async def pair(number: int) -> None:
        name = choice.choice(WORKSPACES)
        micros = choice.randrange(1, 1_000)
        held = await check(limiter, name, chat_id="c", estimate_micros=1_000)
        assert not held.degraded
        assert held.reservation is not None
        for _ in range(1 + number % 2):  # every second one is repeated
            answer = await record(
                limiter,
                name,
                chat_id="c",
                reservation_id=held.reservation.id,
                event_id=f"e{number}",
                cost_micros=micros,
            )
            assert not answer.queued
        tally[name] += micros

    async with open_limiter(settings_of(cluster)) as limiter:
        await asyncio.gather(*map(pair, range(600)))
        assert {name: await spent(limiter, name) for name in tally} == dict(tally)
        for name in tally:
            usage = await limiter.usage(name)
            assert (usage.held_micros, usage.live_holds) == (0, 0)
            assert (await limiter.chat_usage(name, "c")).spent_micros == tally[name]
    owners = [{key.split(":")[2] for key in keys_of(node) if ":w" in key} for node in cluster.nodes]
    assert all(owners)
    assert sum(map(len, owners)) == len(set.union(*owners)) == len(tally)


async def test_a_pass_drains_the_partitions_of_all_nodes(
    cluster: TestCluster, settings_of: MakeSettings
) -> None:
    settings = settings_of(cluster, snapshot_interval_ms=3_600_000)
    async with open_parts(settings) as parts:
        for name in WORKSPACES:  # loading one drains its partition
            await record(parts.limiter, name, cost_micros=2)
        await parts.snapshot.run_once()
        for name in WORKSPACES:
            await record(parts.limiter, name, cost_micros=5)
        waiting = await parts.streams.waiting()
        assert len(waiting) == settings.partitions == 64
        assert sum(waiting.values()) == len(WORKSPACES)
        assert await parts.snapshot.run_once() == len(WORKSPACES)
        assert not any((await parts.streams.waiting()).values())
        # What is in the ledger comes back into nodes that were emptied.
        for node in cluster.nodes:
            node.client.flushall()
        assert [await spent(parts.limiter, name) for name in WORKSPACES] == [7] * len(WORKSPACES)


async def test_scripts_that_nodes_have_lost_come_back_to_each(
    cluster: TestCluster, settings_of: MakeSettings
) -> None:
    async with open_limiter(settings_of(cluster, snapshot_interval_ms=3_600_000)) as limiter:
        await asyncio.gather(*(record(limiter, name, cost_micros=1) for name in WORKSPACES))
        for node in cluster.nodes:
            node.client.script_flush()
        answers = await asyncio.gather(
            *(record(limiter, name, cost_micros=1) for name in WORKSPACES for _ in range(3))
        )
        assert not any(answer.queued for answer in answers)
        assert [await spent(limiter, name) for name in WORKSPACES] == [4] * len(WORKSPACES)


async def test_the_upkeep_walks_over_all_nodes(
    cluster: TestCluster, settings_of: MakeSettings
) -> None:
    settings = settings_of(cluster, snapshot_interval_ms=3_600_000, idle_workspace_ms=1)
    async with open_parts(settings) as parts:
        for name in WORKSPACES:
            await record(parts.limiter, name, chat_id="c", cost_micros=7)
        for _ in range(2):  # the second walk finds what the idle ones left behind
            for _ in range(100):
                await asyncio.sleep(0.002)
                if await parts.upkeep.step():
                    break
            else:
                raise AssertionError("the walk does not end")
        left = [key for node in cluster.nodes for key in keys_of(node) if ":events:" not in key]
        assert all(key.endswith(":stream") for key in left)
        assert [await spent(parts.limiter, name) for name in WORKSPACES] == [7] * len(WORKSPACES)


async def test_one_node_of_the_url_is_enough(
    cluster: TestCluster, settings_of: MakeSettings
) -> None:
    node = cluster.nodes[1]
    url = f"redis+cluster://127.0.0.1:1,{node.address}"
    async with open_limiter(settings_of(cluster, redis_url=url)) as limiter:
        for name in WORKSPACES:
            assert not (await record(limiter, name, cost_micros=1)).queued


async def test_keys_are_reached_where_the_map_has_it_wrong(
    cluster: TestCluster, settings_of: MakeSettings
) -> None:
    """The map is turned around: every call meets MOVED first, and follows it."""
    async with open_parts(settings_of(cluster, snapshot_interval_ms=3_600_000)) as parts:
        link = parts.link
        assert isinstance(link, Cluster)
        link._serving = [*link._serving[1:], link._serving[0]]
        answers = await asyncio.gather(
            *(record(parts.limiter, name, cost_micros=1) for name in WORKSPACES for _ in range(5))
        )
        assert not any(answer.queued for answer in answers)
        assert [await spent(parts.limiter, name) for name in WORKSPACES] == [5] * len(WORKSPACES)


async def test_workspaces_of_all_nodes_are_listed_with_their_live_figures(
    cluster: TestCluster, settings_of: MakeSettings
) -> None:
    async with open_parts(settings_of(cluster)) as parts:
        for number, name in enumerate(WORKSPACES):
            await record(parts.limiter, name, cost_micros=number)
            await check(parts.limiter, name, estimate_micros=5, reservation_id="r")
        rows = (await parts.limiter.reads.workspaces(sort="name", limit=100)).rows
        found = {row.workspace_id: (row.spent_micros, row.held_micros, row.live) for row in rows}
        assert found == {name: (number, 5, True) for number, name in enumerate(WORKSPACES)}
        for name in WORKSPACES[::10]:
            assert [hold.held_micros for hold in await parts.limiter.reads.holds(name)] == [5]


async def test_every_node_is_looked_at_and_a_denial_explained(
    cluster: TestCluster, settings_of: MakeSettings
) -> None:
    settings = settings_of(cluster)
    async with open_parts(settings) as parts:
        for name in WORKSPACES[:3]:
            await parts.limiter.configure(name, WorkspacePatch(budget_limits={"daily": 10}))
            await record(parts.limiter, name, cost_micros=4)
        await parts.snapshot.run_once()
    found = {one.check: one.status for one in await doctor(settings)}
    nodes = [f"redis {number} of 3" for number in (1, 2, 3)]
    assert [found[node] for node in nodes] == ["ok"] * 3
    assert [found[f"{node} clock"] for node in nodes] == ["ok"] * 3
    assert found["stream"] == "ok"
    for name in WORKSPACES[:3]:
        explained = await explain(settings, name, None, 7)
        assert [limit.period for limit in explained.limits] == ["daily"]
        partition = Keys(settings.partitions).partition(name)
        assert f"'lim:{{{partition}}}:{name}:workspace'" in explained.limits[0].commands[0].command
