"""Puts a Limiter together from settings, and takes it apart again.

Owns the order in which things start and stop; nothing is decided here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from limiter.comparing import Comparison
from limiter.driftwatch import DriftWatch
from limiter.durable import Storage
from limiter.durable.storage import wall_ms
from limiter.errors import RedisUnavailable, StartupError, Unavailable
from limiter.measured import MeasuredLimiter
from limiter.metrics import Metrics
from limiter.periods import DAY_MS
from limiter.pricing import Prices
from limiter.redis.cluster import open_link
from limiter.redis.embedded import EmbeddedServer
from limiter.redis.keys import Keys
from limiter.redis.keyspace import KeyspaceWalk
from limiter.redis.scripts import ScriptSet, bundled_scripts
from limiter.redis.server import Link
from limiter.redis.store import RedisStore
from limiter.redis.stream import LedgerStreams
from limiter.service import Limiter
from limiter.settings import Settings
from limiter.snapshot import Snapshot
from limiter.upkeep import Upkeep

logger = logging.getLogger(__name__)

# Whoever stops a service by force after its grace commonly waits ten seconds.
STOP_MS_MAX = 5_000
CANCELS_MAX = 50
CANCEL_POLL_MS = 100
# A server that began anew is told once more of what was changed in so long a time before.
DOUBTED_MS = DAY_MS

Steps = Sequence[Callable[[], Awaitable[object]]]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a Limiter is made of, ready to use."""

    limiter: Limiter
    redis: RedisStore
    storage: Storage
    streams: LedgerStreams
    snapshot: Snapshot
    upkeep: Upkeep
    comparison: Comparison
    drift_watch: DriftWatch
    keys: Keys
    link: Link
    metrics: Metrics


@contextlib.asynccontextmanager
async def open_limiter(
    settings: Settings,
    *,
    scripts: ScriptSet | None = None,
    metrics: Metrics | None = None,
    limiter_type: type[Limiter] = MeasuredLimiter,
    keeps: bool = True,
    takes_any_server: bool = False,
) -> AsyncIterator[Limiter]:
    """A running Limiter. Without `settings.redis_url` it brings its own server.

    A Redis of one's own that is away is waited for: until it comes, calls are answered as in any
    outage. What happens is counted in `metrics`; a `limiter_type` may do more about its calls, such
    as tracing them. It moves what calls leave in Redis into durable storage at every interval and
    compares the two, unless another process of the service `keeps`; that one `takes_any_server`,
    because others decide whether counters are safe there.

    Raises StartupError for a server on which counters would not be safe, and StoreUnavailable when
    the store cannot be reached.
    """
    async with open_running(
        settings,
        scripts=scripts,
        metrics=metrics,
        limiter_type=limiter_type,
        keeps=keeps,
        takes_any_server=takes_any_server,
    ) as parts:
        yield parts.limiter


@contextlib.asynccontextmanager
async def open_running(
    settings: Settings,
    *,
    scripts: ScriptSet | None = None,
    metrics: Metrics | None = None,
    limiter_type: type[Limiter] = MeasuredLimiter,
    keeps: bool = True,
    takes_any_server: bool = False,
) -> AsyncIterator[Parts]:
    """What `open_limiter` opens, with all its parts. Raises as that does."""
    async with open_parts(
        settings,
        scripts=scripts,
        metrics=metrics,
        limiter_type=limiter_type,
        waits_for_redis=True,
        takes_any_server=takes_any_server,
    ) as parts:
        stopping = asyncio.Event()
        interval_s = settings.snapshot_interval_ms / 1000
        work = _keep if keeps else _watch
        tasks = [asyncio.create_task(work(parts, stopping, interval_s=interval_s))]
        if keeps:
            # A task of its own, because a comparison must not keep passes waiting.
            tasks.append(asyncio.create_task(parts.drift_watch.run(stopping)))
        try:
            yield parts
        finally:
            stopping.set()
            parts.drift_watch.wake()
            if await _stopped(tasks) and keeps:
                await _last_pass(parts)


@contextlib.asynccontextmanager
async def open_parts(
    settings: Settings,
    *,
    scripts: ScriptSet | None = None,
    metrics: Metrics | None = None,
    limiter_type: type[Limiter] = MeasuredLimiter,
    waits_for_redis: bool = False,
    takes_any_server: bool = False,
) -> AsyncIterator[Parts]:
    """The parts of a Limiter that does nothing by itself. Raises as `open_limiter` does.

    Raises RedisUnavailable as well, unless it `waits_for_redis`: scripts run then once
    `link.verify` has found a server that is safe.
    """
    metrics = metrics or Metrics()
    async with contextlib.AsyncExitStack() as stack:
        if settings.redis_url is None:
            server = EmbeddedServer(settings.data_dir, settings.redis_binary)
            redis_url = await asyncio.to_thread(server.start)
            stack.push_async_callback(asyncio.to_thread, server.stop)
        else:
            redis_url = settings.redis_url.get_secret_value()
        link = open_link(
            redis_url,
            settings,
            scripts or bundled_scripts(),
            metrics,
            takes_any_server=takes_any_server,
        )
        stack.push_async_callback(link.close)
        try:
            await link.verify()
        except RedisUnavailable as error:
            # The embedded server has just answered; whatever ails it, waiting is no cure.
            if settings.redis_url is None or not waits_for_redis:
                raise
            logger.error("started without Redis, by the outage policy until it is there: %s", error)
        except StartupError:
            if not takes_any_server:
                raise

        storage = Storage(database_url(settings))
        await storage.start()
        stack.push_async_callback(storage.close)

        keys = Keys(settings.partitions)
        redis = RedisStore(link, keys, memory_ms=settings.idempotency_ms)
        streams = LedgerStreams(link.client, keys, deadline_ms=settings.redis_deadline_ms)
        snapshot = Snapshot(streams, redis, storage, keys, metrics=metrics)
        limiter = limiter_type(
            redis=redis,
            storage=storage,
            snapshot=snapshot,
            prices=Prices(
                settings.unpriced_models,
                ceiling_input_micros_per_million=settings.ceiling_input_micros_per_million,
                ceiling_output_micros_per_million=settings.ceiling_output_micros_per_million,
            ),
            settings=settings,
            metrics=metrics,
        )
        upkeep = Upkeep(
            redis,
            storage,
            snapshot,
            KeyspaceWalk(link.clients, keys, deadline_ms=settings.redis_deadline_ms),
            keys,
            retention_days=settings.retention_days,
            idle_workspace_ms=settings.idle_workspace_ms,
        )
        comparison = Comparison(redis, storage, snapshot)
        yield Parts(
            limiter=limiter,
            redis=redis,
            storage=storage,
            streams=streams,
            snapshot=snapshot,
            upkeep=upkeep,
            comparison=comparison,
            drift_watch=DriftWatch(
                comparison,
                storage,
                metrics,
                interval_ms=settings.drift_interval_ms,
                pass_interval_ms=settings.snapshot_interval_ms,
            ),
            keys=keys,
            link=link,
            metrics=metrics,
        )


async def _keep(parts: Parts, stopping: asyncio.Event, *, interval_s: float) -> None:
    """The work of every interval, until `stopping`. An outage on either side is waited out."""
    parts.metrics.passes_begin()
    reconciled: dict[int, str] = {}
    steps = (
        parts.snapshot.run_once,
        parts.limiter.bring_back,
        parts.limiter.bring_into_force,
        parts.upkeep.tick,
    )
    while not stopping.is_set():
        try:
            run_ids = await _run_ids_if_safe(parts)
            first = partial(_reconcile, parts, run_ids, reconciled)
            if parts.link.is_verified:
                if not await _all_made((first, *steps), stopping):
                    return
                parts.drift_watch.pass_made()
        except Unavailable as error:
            logger.warning("the snapshot pass failed and will be repeated: %s", error)
        except Exception:
            # A pass that ended for good would only show when the stream has filled the memory.
            logger.exception("the snapshot pass failed, and will be repeated")
        await _wait(stopping, interval_s)


async def _reconcile(parts: Parts, run_ids: Mapping[int, str], reconciled: dict[int, str]) -> None:
    """Looks at what servers have that are others than those in `reconciled`, which is updated.

    Another server, or the same one started again, may know less than it did.
    """
    others = {p for p, run_id in run_ids.items() if reconciled.get(p) != run_id}
    if others:
        await parts.snapshot.reconcile(others)
        # A change of limits leaves no number by which it could be missed.
        await parts.storage.revisions.doubt(wall_ms() - DOUBTED_MS)
    if not run_ids:
        reconciled.clear()
    reconciled.update(run_ids)


async def _all_made(steps: Steps, stopping: asyncio.Event) -> bool:
    """Makes every step, for one that is kept waiting by a part of Redis must not stop the others.

    Returns False once it is `stopping`. Raises the first step's Unavailable after the last one.
    """
    failure: RedisUnavailable | None = None
    for step in steps:
        if stopping.is_set():
            return False
        try:
            await step()
        except RedisUnavailable as error:
            failure = failure or error
    if failure is not None:
        raise failure
    return True


async def _watch(parts: Parts, stopping: asyncio.Event, *, interval_s: float) -> None:
    """Looks whether Redis is safe to count on, until `stopping`."""
    while not stopping.is_set():
        try:
            await _run_ids_if_safe(parts)
        except Unavailable as error:
            logger.warning("Redis is away: %s", error)
        await _wait(stopping, interval_s)


async def _wait(stopping: asyncio.Event, interval_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(interval_s):
            await stopping.wait()


async def _stopped(tasks: Collection[asyncio.Task[None]]) -> bool:
    """Ends what was asked to stop: between two of its steps, and by force when that takes too long.

    On Python 3.11 a cancellation can get lost in `asyncio.wait_for`, by which redis-py sends, so
    that it is repeated. Returns whether all have ended, which takes a bounded time.
    """
    try:
        await asyncio.wait(tasks, timeout=STOP_MS_MAX / 1000)
    finally:
        # Whoever closes may be cancelled as well, and the parts are about to be taken apart.
        for _ in range(CANCELS_MAX):
            left = [task for task in tasks if not task.done()]
            if not left:
                break
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=CANCEL_POLL_MS / 1000)
    has_ended = all(task.done() for task in tasks)
    if not has_ended:
        logger.error("the snapshot pass does not end, and is left behind")
    return has_ended


async def _run_ids_if_safe(parts: Parts) -> Mapping[int, str]:
    """Which server has which partition; none if counters are not safe. Raises RedisUnavailable.

    A server that was safe and is not any more is still counted on, and emptied into the ledger as
    before: it may drop something, where answers by the outage policy know no limit at all. Once it
    is mended, it is reconciled like a new one.
    """
    try:
        return await parts.link.verify()
    except StartupError as error:
        logger.critical("this Redis server is not safe to count on: %s", error)
        return {}


def database_path(settings: Settings) -> Path | None:
    """The file of SQLite in the data folder; None where a URL says something else."""
    return None if settings.database_url is not None else settings.data_dir / "limiter.db"


def database_url(settings: Settings) -> str:
    """Where durable storage is."""
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    return f"sqlite:///{database_path(settings)}"


async def _last_pass(parts: Parts) -> None:
    """What is in the stream stays there if this fails, and the next start moves it."""
    if not parts.link.is_verified:
        return
    try:
        await parts.snapshot.run_once()
    except Unavailable as error:
        logger.warning("the last snapshot pass failed: %s", error)
