"""The servers that sections measure on, and what they call themselves.

PostgreSQL is a cluster of this run's own, as the tests start one, but with a disk that is waited
for. It must not measure.
"""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from bench.report import Missing
from limiter.redis.embedded import EmbeddedServer
from limiter.redis.keys import Keys
from tests.support.postgres import PostgresCluster, postgres_cluster

CATCH_UP_S_MAX = 120
POLL_MS = 10

# The last word on an option wins, and the tests' cluster does not wait for the disk.
DURABLE_OPTIONS = ("-c", "fsync=on", "-c", "synchronous_commit=on")


@contextlib.contextmanager
def embedded_client() -> Iterator[redis.Redis]:
    """A client of an embedded server of its own, which goes with the block."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        EmbeddedServer(Path(folder)) as server,
        redis.Redis(unix_socket_path=str(server.socket_path), protocol=2) as client,
    ):
        yield client


def catch_up(client: redis.Redis) -> float:
    """Waits until a snapshot pass has nothing left to do, and says how many seconds.

    What one round leaves would otherwise be a burden on the next.
    """
    begin = time.perf_counter()
    stream = Keys().partition_stream(0)
    while client.xlen(stream):
        if time.perf_counter() - begin > CATCH_UP_S_MAX:
            raise RuntimeError("the snapshot pass does not catch up")
        time.sleep(POLL_MS / 1000)
    return time.perf_counter() - begin


def redis_name(info: Mapping[str, Any]) -> str:
    """Engine and version of a server by its `INFO server`."""
    valkey = info.get("valkey_version")
    return f"Redis {info['redis_version']}" if valkey is None else f"Valkey {valkey}"


def sqlite_name() -> str:
    return f"SQLite {sqlite3.sqlite_version}"


def postgresql_name(cluster: PostgresCluster) -> str:
    with psycopg.connect(cluster.url()) as connection:
        version = str(connection.info.server_version)
    return f"PostgreSQL {int(version[:-4])}.{int(version[-4:])}"


@contextlib.contextmanager
def durable_postgresql() -> Iterator[PostgresCluster]:
    """A cluster that flushes at every commit. Raises Missing where there is none to be had."""
    with contextlib.ExitStack() as stack:
        try:
            cluster = stack.enter_context(postgres_cluster(*DURABLE_OPTIONS))
        except (pytest.skip.Exception, pytest.fail.Exception) as error:
            raise Missing(str(error)) from None
        yield cluster
