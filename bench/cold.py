"""What it costs to bring workspaces from a store into Redis: one at a time, and all of them.

It owns the rows of that; `bench.durable` is the section they belong to.
"""

from __future__ import annotations

import statistics
import time

from bench.report import Row, median_row, quantile, ratios
from bench.stores import BUCKET_MICROS, BUCKETS_FULL, new_sites, opened, put_workspaces
from limiter.commands.restore import restore
from limiter.models import Admitted, CheckRequest
from limiter.runtime import Parts
from tests.support.postgres import PostgresCluster

LOADS = 100

RESTORED_WORKSPACES = 10_000
RESTORED_BUCKETS = 10
RESTORES_MAX = 1

CONDITIONS = (
    (
        "Cold workspace: a check without a hold that finds its workspace cold, all "
        f"{BUCKETS_FULL} buckets of all windows filled; {LOADS} a round, each with a hot one "
        "behind it."
    ),
    (
        f"Restore: the command's work in process, {RESTORED_WORKSPACES:,} workspaces of "
        f"{RESTORED_BUCKETS} buckets a window and one chat each, into an empty Redis; "
        f"{RESTORES_MAX} round."
    ),
)


async def loads(cluster: PostgresCluster, rounds: int) -> list[Row]:
    """A check that finds its workspace cold."""
    with new_sites(cluster) as sites:
        cold_ms: dict[str, list[list[float]]] = {site.name: [] for site in sites}
        hot_ms: dict[str, list[float]] = {site.name: [] for site in sites}
        async with opened(sites) as places:
            for round_number in range(rounds):
                for site, parts in places:
                    workspace_id = f"full-{round_number}"
                    # Anew in every round: within minutes the first buckets have left again.
                    await put_workspaces(site, [workspace_id])
                    cold, hot = await _load_often(parts, workspace_id)
                    cold_ms[site.name].append(cold)
                    hot_ms[site.name].append(statistics.median(hot))
    rows = []
    for name, found in cold_ms.items():
        medians = [statistics.median(latencies_ms) for latencies_ms in found]
        together = [latency_ms for latencies_ms in found for latency_ms in latencies_ms]
        label = f"check of a cold workspace, {name}"
        rows += [
            median_row(f"{label}, p50", medians, "ms"),
            Row(figure=f"{label}, p99 of all", value=quantile(together, 0.99), unit="ms"),
            median_row(f"{label}, p50 / a hot one's", ratios(medians, hot_ms[name]), "×"),
        ]
    return rows


async def restores(cluster: PostgresCluster, rounds: int) -> list[Row]:
    """All workspaces of a store."""
    ids = [f"ws-{number}" for number in range(RESTORED_WORKSPACES)]
    with new_sites(cluster) as sites:
        seconds: dict[str, list[float]] = {site.name: [] for site in sites}
        async with opened(sites):  # which prepares the stores
            for site in sites:
                await put_workspaces(site, ids, buckets=RESTORED_BUCKETS, has_chat=True)
        for _ in range(min(rounds, RESTORES_MAX)):
            for site in sites:
                site.client.flushall()
                started_at = time.perf_counter()
                restored = await restore(site.settings, lambda done, total: None)
                seconds[site.name].append(time.perf_counter() - started_at)
                assert restored.workspaces == restored.chats == len(ids)
    return [
        median_row(f"restore of {len(ids):,} workspaces, {name}", found, "s")
        for name, found in seconds.items()
    ]


async def _load_often(parts: Parts, workspace_id: str) -> tuple[list[float], list[float]]:
    """Milliseconds of checks that find the workspace cold, and of those right behind them."""
    request = CheckRequest(workspace_id=workspace_id, estimate_micros=0)
    cold_ms: list[float] = []
    hot_ms: list[float] = []
    for number in range(LOADS):
        was_hot = await parts.redis.forget(workspace_id)
        assert was_hot == (number > 0)
        for latencies_ms in (cold_ms, hot_ms):
            started_at = time.perf_counter()
            answer = await parts.limiter.check(request)
            latencies_ms.append((time.perf_counter() - started_at) * 1_000)
            assert isinstance(answer, Admitted)
            # A bucket may have left meanwhile, but not many.
            assert answer.periods["monthly"].spent_micros >= (BUCKETS_FULL - 2) * BUCKET_MICROS
    return cold_ms, hot_ms
