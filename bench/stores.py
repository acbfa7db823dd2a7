"""Places to measure durable storage: a store of each kind, each with a Redis of its own.

And rows put into a store directly, for states that would take a month of calls to come about.
It must not measure.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import redis
from pydantic import SecretStr

from limiter.durable.bulk import Values, insert_new
from limiter.durable.engine import Database
from limiter.durable.schema import (
    WORKSPACE_SCOPE,
    budget_limits,
    chats,
    window_buckets,
    workspaces,
)
from limiter.periods import PERIODS
from limiter.redis.embedded import EmbeddedServer
from limiter.runtime import Parts, database_url, open_parts
from limiter.settings import Settings
from tests.support.postgres import PostgresCluster

# A slow moment of a shared machine is to show in a figure, and not to end the run.
DEADLINE_MS = 10_000
LIMIT_MICROS = 10**14
BUCKET_MICROS = 1_000

# A window has its whole buckets and one that is open.
BUCKETS_FULL = max(period.window_ms // period.bucket_ms for period in PERIODS) + 1


@dataclass(frozen=True, slots=True)
class Site:
    """A store and a Redis that nobody else uses. `client` is for looking after the latter."""

    name: str
    settings: Settings
    client: redis.Redis

    def now_ms(self) -> int:
        seconds, micros = self.client.time()
        return int(seconds) * 1_000 + int(micros) // 1_000


@contextlib.contextmanager
def new_sites(cluster: PostgresCluster) -> Iterator[list[Site]]:
    """SQLite and PostgreSQL, both empty."""
    urls = {"SQLite": None, "PostgreSQL": SecretStr(cluster.create_database())}
    with contextlib.ExitStack() as stack:
        sites = []
        for name, url in urls.items():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            server = stack.enter_context(EmbeddedServer(folder))
            settings = Settings(
                data_dir=folder,
                redis_url=SecretStr(f"unix://{server.socket_path}"),
                database_url=url,
                redis_deadline_ms=DEADLINE_MS,
                redis_connect_ms=DEADLINE_MS,
            )
            client = redis.Redis(unix_socket_path=str(server.socket_path), protocol=2)
            stack.callback(client.close)
            sites.append(Site(name, settings, client))
        yield sites


@contextlib.asynccontextmanager
async def opened(sites: Sequence[Site]) -> AsyncIterator[list[tuple[Site, Parts]]]:
    """Each with the parts of a Limiter on it, which do nothing by themselves."""
    async with contextlib.AsyncExitStack() as stack:
        yield [(site, await stack.enter_async_context(open_parts(site.settings))) for site in sites]


async def put_workspaces(
    site: Site, ids: Sequence[str], *, buckets: int = BUCKETS_FULL, has_chat: bool = False
) -> None:
    """Workspaces whose store says that they have spent in their newest `buckets` of each window.

    The store has been made ready before. A chat, where there is one, has spent it all.
    """
    database = Database(database_url(site.settings))
    try:
        await asyncio.to_thread(_put, database, sorted(ids), site.now_ms(), buckets, has_chat)
    finally:
        await database.close()


def _put(database: Database, ids: Sequence[str], now_ms: int, buckets: int, has_chat: bool) -> None:
    heads: list[Values] = [(id_, 1, 1, "1-1", now_ms, now_ms) for id_ in ids]
    limits: list[Values] = [(id_, period.name, LIMIT_MICROS) for id_ in ids for period in PERIODS]
    windows: list[Values] = [
        (id_, WORKSPACE_SCOPE, period.name, start_ms, BUCKET_MICROS)
        for id_ in ids
        for period in PERIODS
        for start_ms in _starts_ms(now_ms, period.window_ms, period.bucket_ms, buckets)
    ]
    spent = buckets * BUCKET_MICROS
    trees: list[Values] = [
        (id_, "chat", "chat", 1, False, 0, spent, spent, 0, 0) for id_ in ids if has_chat
    ]
    with database.writing() as connection:
        names: tuple[str, ...]
        names = ("workspace_id", "revision", "seq", "stream_id", "clock_ms", "spent_at_ms")
        insert_new(connection, workspaces, names, heads)
        insert_new(connection, budget_limits, ("workspace_id", "period", "limit_micros"), limits)
        names = ("workspace_id", "scope", "period", "start_ms", "micros")
        insert_new(connection, window_buckets, names, windows)
        names = ("workspace_id", "chat_id", "root_chat_id", "depth", "provisional", "revision")
        sums = ("spent_micros", "own_spent_micros", "held_micros", "pruned_micros")
        insert_new(connection, chats, (*names, *sums), trees)


def _starts_ms(now_ms: int, window_ms: int, bucket_ms: int, buckets: int) -> list[int]:
    newest_ms = now_ms - now_ms % bucket_ms
    return [newest_ms - age * bucket_ms for age in range(min(buckets, window_ms // bucket_ms + 1))]
