"""Durable storage is away: keys that are known go on working, others are unavailable, not valid."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from limiter.durable import Storage
from limiter.errors import StoreUnavailable
from limiter.keyring import LOOK_UP_MS_MAX, Keyring
from tests.faults.scene import eventually
from tests.support.api_keys import MadeKey, added_key
from tests.support.postgres import PostgresCluster, postgres_cluster

ANSWER_MS_MAX = 2 * LOOK_UP_MS_MAX


@pytest.fixture
def cluster() -> Iterator[PostgresCluster]:
    """A PostgreSQL that this test may stop."""
    with postgres_cluster() as cluster:
        yield cluster


async def assert_known_keys_work_and_others_are_unavailable(
    keyring: Keyring, known: MadeKey, other: MadeKey
) -> None:
    started = time.monotonic()
    for _ in range(3):
        assert await keyring.principal(known.text) == known.key
        with pytest.raises(StoreUnavailable):
            await keyring.principal(other.text)
    assert (time.monotonic() - started) * 1_000 < 3 * ANSWER_MS_MAX


async def assert_recovers(keyring: Keyring, known: MadeKey, other: MadeKey) -> None:
    async def found() -> object:
        with contextlib.suppress(StoreUnavailable):
            return await keyring.principal(other.text)
        return None

    assert await eventually(found, lambda key: key is not None) == other.key
    assert await keyring.principal(known.text) == known.key


async def assert_ends_by_being_revoked(storage: Storage, keyring: Keyring, made: MadeKey) -> None:
    await storage.api_keys.revoke(made.key.key_id, 2)

    async def found() -> object:
        return await keyring.principal(made.text)

    assert await eventually(found, lambda key: key is None) is None


async def test_a_stopped_postgresql_locks_out_nobody_who_is_known(cluster: PostgresCluster) -> None:
    async with Storage(cluster.create_database()) as storage:
        known = await added_key(storage, "caller", "acme")
        async with Keyring(storage.api_keys, refresh_ms=50) as keyring:
            other = await added_key(storage, "caller", "acme")
            await asyncio.to_thread(cluster.stop)
            await assert_known_keys_work_and_others_are_unavailable(keyring, known, other)
            await asyncio.to_thread(cluster.start)
            await assert_recovers(keyring, known, other)
            await assert_ends_by_being_revoked(storage, keyring, known)


async def test_a_frozen_postgresql_locks_out_nobody_who_is_known(cluster: PostgresCluster) -> None:
    async with Storage(cluster.create_database()) as storage:
        known = await added_key(storage, "caller", "acme")
        async with Keyring(storage.api_keys, refresh_ms=50) as keyring:
            other = await added_key(storage, "caller", "acme")
            frozen = [] if cluster.pid is None else [cluster.pid, *children(cluster.pid)]
            assert frozen
            for pid in frozen:
                os.kill(pid, signal.SIGSTOP)
            try:
                await assert_known_keys_work_and_others_are_unavailable(keyring, known, other)
            finally:
                for pid in frozen:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)
            await assert_recovers(keyring, known, other)
            await assert_ends_by_being_revoked(storage, keyring, known)


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8")
    return [int(word) for word in text.split()]
