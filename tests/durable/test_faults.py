"""Processes die, databases are locked, full, restarted or gone: nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import Connection

from limiter.durable import Storage
from limiter.durable.engine import WAITING_MAX, Database
from limiter.errors import StoreUnavailable
from tests.durable.oracle import Oracle
from tests.durable.stream import UNLIMITED, Stream
from tests.durable.test_property import assert_agrees
from tests.durable.worker import BATCHES, WORKSPACES, worker, workload
from tests.repo.tree import ROOT
from tests.support.postgres import PostgresCluster, postgres_cluster

WAIT_S = 60
KILLS = 12


def oracles(seed: int) -> dict[str, Oracle]:
    found = {f"w{number}": Oracle() for number in range(WORKSPACES)}
    for batch in workload(seed):
        for workspace_id, oracle in found.items():
            oracle.deliver(entry for entry in batch if entry.workspace_id == workspace_id)
    return found


async def assert_applied_once(storage: Storage, seed: int) -> None:
    for workspace_id, oracle in oracles(seed).items():
        await assert_agrees(storage, workspace_id, oracle)


# --------------------------------------------------------------------------- processes


async def test_kill_9_between_commit_and_acknowledgement(store_url: str) -> None:
    """Whatever was committed and never acknowledged comes again, and changes nothing."""
    seed = 7
    chance = random.Random(seed)
    acknowledged = 0
    kills = 0
    while acknowledged < BATCHES:
        with worker("apply", store_url, str(seed), str(acknowledged)) as process:
            assert process.stdout is not None
            if kills < KILLS:
                said = await asyncio.to_thread(_read_lines, process, chance.randrange(1, 6))
                # A moment somewhere in the next batches, whose commits nobody hears of.
                time.sleep(chance.random() * 0.05)  # noqa: ASYNC251 - nothing else runs here
                process.kill()
                kills += 1
                # The last that was said counts as lost on its way, too.
                acknowledged += max(0, said - 1)
            else:
                assert await asyncio.to_thread(_read_lines, process, BATCHES) > 0
                assert process.wait(WAIT_S) == 0
                acknowledged = BATCHES
    assert kills == KILLS
    async with Storage(store_url) as storage:
        await assert_applied_once(storage, seed)


def _read_lines(process: subprocess.Popen[str], most: int) -> int:
    assert process.stdout is not None
    for count in range(most):
        if not process.stdout.readline():
            return count
    return most


async def test_processes_that_apply_the_same_entries_at_once(store_url: str) -> None:
    seed = 11
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(worker("apply", store_url, str(seed), "0")) for _ in "123"]
        done = await asyncio.gather(
            *(asyncio.to_thread(_read_lines, process, BATCHES) for process in processes)
        )
        assert [process.wait(WAIT_S) for process in processes] == [0, 0, 0]
    assert done == [BATCHES] * 3
    async with Storage(store_url) as storage:
        await assert_applied_once(storage, seed)


async def test_storages_that_share_the_entries_in_any_order(
    storage: Storage, store_url: str
) -> None:
    seed = 13
    batches = workload(seed)
    random.Random(seed).shuffle(batches)
    # Second charges depend on which came first, so that each event is delivered here once.
    seen: set[str] = set()
    for batch in batches:
        for entry in list(batch):
            event_id = getattr(entry, "event_id", None)
            if event_id is not None:
                name = f"{entry.workspace_id} {event_id}"
                if name in seen:
                    batch.remove(entry)
                seen.add(name)
    expected = {f"w{number}": Oracle() for number in range(WORKSPACES)}
    for workspace_id, oracle in expected.items():
        for batch in batches:
            oracle.deliver(entry for entry in batch if entry.workspace_id == workspace_id)
    async with Storage(store_url) as other:
        await asyncio.gather(
            *(
                (storage, other)[number % 2].apply(batch)
                for number, batch in enumerate([*batches, *reversed(batches)])
            )
        )
    for workspace_id, oracle in expected.items():
        await assert_agrees(storage, workspace_id, oracle)


async def test_a_caller_that_gives_up_leaves_nothing_half_done(storage: Storage) -> None:
    stream = Stream()
    calls = [
        asyncio.ensure_future(storage.apply([stream.record(f"e{number}", 1)]))
        for number in range(20)
    ]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await storage.create_workspace("acme", UNLIMITED, actor="test")
    rows = [row.event_id async for row in storage.ledger_rows("acme")]
    assert {f"e{number}" for number in range(1, 20, 2)} <= set(rows)
    assert await storage.drift("acme") == []


# --------------------------------------------------------------------------- a database in trouble


async def test_sqlite_that_another_process_has_locked(tmp_path: Path) -> None:
    path = tmp_path / "limiter.db"
    stream = Stream()
    async with Storage(f"sqlite:///{path}", lock_wait_ms=50) as storage:
        await storage.apply([stream.record("e1", 1)])
        with worker("lock", str(path)) as process:
            assert process.stdin is not None
            assert await asyncio.to_thread(_read_lines, process, 1) == 1
            entry = stream.record("e2", 2)
            for _ in range(3):
                with pytest.raises(StoreUnavailable, match="SQLITE_BUSY"):
                    await storage.apply([entry])
            # Reading goes on meanwhile.
            assert [row.event_id async for row in storage.ledger_rows("acme")] == ["e1"]
            process.stdin.close()
            assert process.wait(WAIT_S) == 0
        assert (await storage.apply([entry])).inserted == 1
        assert await storage.drift("acme") == []


async def test_postgresql_rows_that_another_has_locked(postgres: PostgresCluster) -> None:
    url = postgres.create_database()
    stream = Stream()
    other = Database(url)
    async with Storage(url, lock_wait_ms=50) as storage:
        await storage.apply([stream.record("e1", 1)])
        held, release = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def hold(connection: Connection) -> None:
            connection.exec_driver_sql("SELECT * FROM workspaces FOR UPDATE")
            loop.call_soon_threadsafe(held.set)
            asyncio.run_coroutine_threadsafe(release.wait(), loop).result(WAIT_S)

        holding = asyncio.ensure_future(other.write(hold))
        await held.wait()
        entry = stream.record("e2", 2)
        with pytest.raises(StoreUnavailable, match="LockNotAvailable"):
            await storage.apply([entry])
        assert [row.event_id async for row in storage.ledger_rows("acme")] == ["e1"]
        release.set()
        await holding
        assert (await storage.apply([entry])).inserted == 1
    await other.close()
    postgres.drop_database(url)


async def test_postgresql_that_goes_away_and_comes_back() -> None:
    stream = Stream()
    with postgres_cluster() as cluster:
        url = cluster.create_database()
        async with Storage(url) as storage:
            await storage.apply([stream.record("e1", 1)])
            await storage.create_workspace("acme", UNLIMITED, actor="test")
            await asyncio.to_thread(cluster.stop)
            entry = stream.record("e2", 2)
            for _ in range(2):
                with pytest.raises(StoreUnavailable) as raised:
                    await storage.apply([entry])
                with pytest.raises(StoreUnavailable):
                    await storage.workspace("acme")
            assert str(cluster.folder) not in str(raised.value)
            await asyncio.to_thread(cluster.start)
            # The first call finds that its connections are dead, and is not harmed by it.
            workspace = await storage.workspace("acme")
            assert workspace is not None
            assert (await storage.apply([entry])).inserted == 1
            assert await storage.drift("acme") == []


async def test_a_postgresql_that_is_not_there(tmp_path: Path) -> None:
    storage = Storage(f"postgresql://ann:secret@/limiter?host={tmp_path}")
    with pytest.raises(StoreUnavailable) as raised:
        await storage.start()
    assert "secret" not in str(raised.value)
    await storage.close()


DISK_FULL = """
import asyncio, resource, sys
from limiter.durable import Storage
from limiter.errors import StoreUnavailable
from tests.durable.stream import Stream

async def main(path):
    stream = Stream()
    async with Storage(f"sqlite:///{path}") as storage:
        await storage.apply([stream.record("e1", 1)])
        # No file may grow any more: what a full disk looks like to a process.
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        entry = stream.record("e2", 2, data="x" * 60_000)
        for _ in range(2):
            try:
                await storage.apply([entry])
            except StoreUnavailable as error:
                print(error)
        rows = [row.event_id async for row in storage.ledger_rows("acme")]
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        inserted = (await storage.apply([entry])).inserted
        print(rows, inserted, await storage.drift("acme"))

asyncio.run(main(sys.argv[1]))
"""


async def test_a_disk_that_is_full_is_reported_and_recovered_from(tmp_path: Path) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", DISK_FULL, str(tmp_path / "limiter.db")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *errors, last = done.stdout.splitlines()
    assert len(errors) == 2
    assert all(error.startswith("durable storage cannot answer: SQLITE_") for error in errors)
    assert last == "['e1'] 1 []"


async def test_sqlite_whose_file_is_read_only(tmp_path: Path) -> None:
    stream = Stream()
    path = tmp_path / "limiter.db"
    async with Storage(f"sqlite:///{path}") as storage:
        await storage.apply([stream.record("e1", 1)])
    # Permissions do not bind root, so that SQLite itself is told.
    storage = Storage(f"sqlite:///file:{path}?mode=ro&uri=true")
    with pytest.raises(StoreUnavailable, match="READONLY"):
        await storage.apply([stream.record("e2", 2)])
    await storage.close()


async def test_a_closed_storage_is_away(storage: Storage) -> None:
    await storage.close()
    await storage.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await storage.workspace("acme")


@pytest.fixture
def busy(tmp_path: Path) -> Database:
    return Database(f"sqlite:///{tmp_path}/limiter.db")


async def test_the_calls_that_wait_are_bounded(busy: Database) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def block(_: Connection) -> None:
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(WAIT_S)

    first = asyncio.ensure_future(busy.write(block))
    await begun.wait()
    waiting = [asyncio.ensure_future(busy.write(lambda _: 1)) for _ in range(WAITING_MAX - 1)]
    await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable, match="too many"):
        await busy.write(lambda _: 1)
    go_on.set()
    await first
    assert sum(await asyncio.gather(*waiting)) == WAITING_MAX - 1
    assert await busy.write(lambda _: 2) == 2
    await busy.close()
