"""Durable storage: how fast the snapshot pass moves entries, and what a cold workspace costs.

Every figure is taken on SQLite and on PostgreSQL, which take turns in each round.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path

import uvloop

from bench import cold
from bench.pace import steady_pace
from bench.report import Results, Row, median_row, quantile, ratios
from bench.servers import durable_postgresql, postgresql_name, redis_name, sqlite_name
from bench.stores import Site, new_sites, opened
from limiter.models import Admitted, CheckRequest, RecordRequest
from limiter.runtime import open_limiter
from limiter.service import Limiter
from tests.support.postgres import PostgresCluster

NAME = "durable"

# A pair is two entries of the stream: a hold, and the record that settles it.
PAIRS = 10_000
WORKSPACES = 100
CALLERS = 64
HELD_MICROS = 12_000
SPENT_MICROS = 9_000

PACE_PAIRS_PER_SECOND = 500
PACE_CALLERS = 32
PACE_S = 4
PACE_ROUNDS_MAX = 3
PACED_S_MAX = 60
INTERVAL_MS = 1_000
NEVER_MS = 3_600_000

FLUSHES = 50
FLUSH_BYTES = 4_096

CONDITIONS = (
    "Both stores wait for the disk at every commit. Redis, store and callers share the machine.",
    (
        f"Snapshot pass: {2 * PAIRS:,} entries a round, made by check (holding) and record over "
        f"{WORKSPACES} workspaces with a chat tree two deep, drained by one pass."
    ),
    *cold.CONDITIONS,
    (
        f"Calls beside passes: {PACE_PAIRS_PER_SECOND} pairs of check and record a second for "
        f"{PACE_S} s, a pass every {INTERVAL_MS:,} ms against none, {PACE_ROUNDS_MAX} rounds at "
        "most. A check that the busy event loop kept from starting counts from when it was due."
    ),
)


def measure(rounds: int) -> Results:
    """Raises Missing without PostgreSQL."""
    rows = [_flush_row(rounds)]
    # uvloop is what the service runs on.
    with (
        durable_postgresql() as cluster,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        for part in (_passes, cold.loads, cold.restores, _calls_beside_passes):
            rows += runner.run(part(cluster, rounds))
        with new_sites(cluster) as sites:
            server = redis_name(sites[0].client.info("server"))
        software = [server, sqlite_name(), postgresql_name(cluster)]
    return Results(
        name=NAME,
        title="What durable storage costs",
        rows=rows,
        rounds=rounds,
        conditions=CONDITIONS,
        software=software,
    )


def _flush_row(rounds: int) -> Row:
    """What the disk itself takes: no commit can be faster."""
    found = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for number in range(rounds):
            with (Path(folder) / str(number)).open("wb", buffering=0) as file:
                started_at = time.perf_counter()
                for _ in range(FLUSHES):
                    file.write(bytes(FLUSH_BYTES))
                    os.fsync(file.fileno())
                found.append((time.perf_counter() - started_at) * 1_000 / FLUSHES)
    return median_row("one flush of the disk", found, "ms")


# ------------------------------------------------------------------ the pass by itself


async def _passes(cluster: PostgresCluster, rounds: int) -> list[Row]:
    with new_sites(cluster) as sites:
        rates: dict[str, list[float]] = {site.name: [] for site in sites}
        async with opened(sites) as places:
            for _, parts in places:
                await _make_chats(parts.limiter)
                await parts.snapshot.run_once()
            for _ in range(rounds):
                for site, parts in places:
                    await _make_pairs(parts.limiter)
                    started_at = time.perf_counter()
                    moved = await parts.snapshot.run_once()
                    rates[site.name].append(moved / (time.perf_counter() - started_at))
                    assert moved == 2 * PAIRS, f"the pass moved {moved} entries"
    return [
        median_row(f"snapshot pass into {name}", found, "entries/s")
        for name, found in rates.items()
    ]


async def _make_pairs(limiter: Limiter) -> None:
    numbers = iter(range(PAIRS))
    prefix = str(time.monotonic_ns())

    async def caller() -> None:
        for number in numbers:
            await _check(limiter, prefix, number)
            await _record(limiter, prefix, number)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))


# ------------------------------------------------------------------ calls beside passes


async def _calls_beside_passes(cluster: PostgresCluster, rounds: int) -> list[Row]:
    shares = {"p50": 0.5, "p99": 0.99}
    beside_ms: dict[tuple[str, str], list[float]] = {}
    alone_ms: dict[tuple[str, str], list[float]] = {}
    with new_sites(cluster) as sites:
        for _ in range(min(rounds, PACE_ROUNDS_MAX)):
            for site in sites:
                for interval_ms, found in ((INTERVAL_MS, beside_ms), (NEVER_MS, alone_ms)):
                    latencies_ms = await _paced(site, interval_ms)
                    for name, share in shares.items():
                        value = quantile(latencies_ms, share)
                        found.setdefault((site.name, name), []).append(value)
    rows = []
    for site_name, share_name in beside_ms:
        beside, alone = beside_ms[site_name, share_name], alone_ms[site_name, share_name]
        label = f"check, {site_name}, {share_name}"
        rows += [
            median_row(f"{label}, a pass every second", beside, "ms"),
            median_row(f"{label}, no pass", alone, "ms"),
            median_row(f"{label}, with / without passes", ratios(beside, alone), "×"),
        ]
    return rows


async def _paced(site: Site, interval_ms: int) -> list[float]:
    """Milliseconds of checks at a steady pace, beside passes at that interval."""
    settings = site.settings.model_copy(update={"snapshot_interval_ms": interval_ms})
    prefix = str(time.monotonic_ns())
    async with asyncio.timeout(PACED_S_MAX), open_limiter(settings) as limiter:
        await _make_chats(limiter)
        return await steady_pace(
            lambda number: _check(limiter, prefix, number),
            lambda number: _record(limiter, prefix, number),
            per_second=PACE_PAIRS_PER_SECOND,
            count=PACE_PAIRS_PER_SECOND * PACE_S,
            callers=PACE_CALLERS,
        )


# ------------------------------------------------------------------ the calls


async def _make_chats(limiter: Limiter) -> None:
    """All workspaces, each with a root and a leaf. Harmless to repeat."""
    for number in range(WORKSPACES):
        for chat_id, parent_chat_id in (("root", None), ("leaf", "root")):
            await limiter.check(
                CheckRequest(
                    workspace_id=f"ws-{number}",
                    chat_id=chat_id,
                    parent_chat_id=parent_chat_id,
                    estimate_micros=0,
                )
            )


async def _check(limiter: Limiter, prefix: str, number: int) -> None:
    answer = await limiter.check(
        CheckRequest(
            workspace_id=f"ws-{number % WORKSPACES}",
            chat_id="leaf",
            parent_chat_id="root",
            estimate_micros=HELD_MICROS,
            reservation_id=f"{prefix}-{number}",
        )
    )
    assert isinstance(answer, Admitted)
    assert answer.reservation is not None


async def _record(limiter: Limiter, prefix: str, number: int) -> None:
    answer = await limiter.record(
        RecordRequest(
            workspace_id=f"ws-{number % WORKSPACES}",
            chat_id="leaf",
            parent_chat_id="root",
            reservation_id=f"{prefix}-{number}",
            cost_micros=SPENT_MICROS,
        )
    )
    assert answer.charged_micros == SPENT_MICROS
