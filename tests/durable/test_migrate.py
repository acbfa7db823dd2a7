"""Databases are brought to this version at start: from nothing, once, by whoever comes first."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, CreateTable, inspect, text

from limiter import periods
from limiter.durable import Storage
from limiter.durable.engine import Database
from limiter.durable.schema import metadata
from limiter.errors import StartupError, StoreUnavailable
from limiter.periods import DAY_MS, HOUR_MS, Period
from tests.durable.stream import START_MS, UNLIMITED, Stream
from tests.durable.worker import worker

PROCESSES = 4
WAIT_S = 60


async def test_migrations_come_to_the_tables_of_the_program(
    storage: Storage, store_url: str
) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection)
        return list(compare_metadata(context, metadata))

    database = Database(store_url)
    try:
        assert await database.read(differences) == []
    finally:
        await database.close()


async def test_migrations_make_every_check_and_index(storage: Storage, store_url: str) -> None:
    """Alembic's comparison does not look at these."""

    def names(connection: Connection) -> dict[str, set[str | None]]:
        inspector = inspect(connection)
        return {
            table.name: {
                *(check["name"] for check in inspector.get_check_constraints(table.name)),
                *(index["name"] for index in inspector.get_indexes(table.name)),
            }
            for table in metadata.sorted_tables
        }

    def expected() -> dict[str, set[str]]:
        found = {}
        for table in metadata.sorted_tables:
            words = str(CreateTable(table)).split()
            checks = {word for word in words if word.startswith("ck_")}
            found[table.name] = {*checks, *(str(index.name) for index in table.indexes)}
        return found

    database = Database(store_url)
    try:
        made = await database.read(names)
    finally:
        await database.close()
    for name, wanted in expected().items():
        assert wanted <= made[name]


async def test_starting_again_changes_nothing(storage: Storage, store_url: str) -> None:
    await storage.apply([Stream().record("e1", 5)])
    async with Storage(store_url) as again:
        assert [row.event_id async for row in again.ledger_rows("acme")] == ["e1"]


async def test_processes_that_start_at_once_wait_for_each_other(store_url: str) -> None:
    with ExitStack() as stack:
        started = [stack.enter_context(worker("start", store_url)) for _ in range(PROCESSES)]
        ended = await asyncio.gather(
            *(asyncio.to_thread(process.wait, WAIT_S) for process in started)
        )
    assert ended == [0] * PROCESSES
    async with Storage(store_url) as storage:
        assert (await storage.apply([Stream().record("e1", 5)])).inserted == 1


async def test_a_database_of_a_newer_version_is_left_alone(
    storage: Storage, store_url: str
) -> None:
    database = Database(store_url)
    await database.write(lambda c: c.execute(text("UPDATE alembic_version SET version_num = '99'")))
    await database.close()
    newer = Storage(store_url)
    with pytest.raises(StartupError, match="newer"):
        await newer.start()
    await newer.close()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "no url",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "mysql://ann:secret@host/db",
        "postgresql+asyncpg://ann:secret@host/db",
        "secret",
    ],
)
def test_other_urls_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(StartupError) as raised:
        Storage(url)
    assert "secret" not in str(raised.value)


async def test_the_folder_of_a_file_is_made(tmp_path: Path) -> None:
    async with Storage(f"sqlite:///{tmp_path}/a/b/limiter.db") as storage:
        await storage.create_workspace("acme", UNLIMITED, actor="test")
    assert (tmp_path / "a" / "b" / "limiter.db").is_file()


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    storage = Storage(f"sqlite:///{tmp_path}/file/limiter.db")
    with pytest.raises(StartupError, match="folder"):
        await storage.start()
    await storage.close()


async def test_a_file_that_is_no_database_is_reported(tmp_path: Path) -> None:
    (tmp_path / "limiter.db").write_bytes(b"something else altogether" * 1_000)
    storage = Storage(f"sqlite:///{tmp_path}/limiter.db")
    with pytest.raises(StoreUnavailable):
        await storage.start()
    await storage.close()


# --------------------------------------------------------------------------- the period table


async def windows_of(storage: Storage) -> dict[str, list[tuple[int, int]]]:
    await storage.create_workspace("acme", UNLIMITED, actor="test")
    workspace = await storage.workspace("acme")
    assert workspace is not None
    assert await storage.drift("acme") == []
    return {name: list(buckets) for name, buckets in workspace.windows.items()}


async def test_a_period_that_is_new_is_filled_from_the_ledger(
    storage: Storage, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Stream()
    await storage.apply([stream.record("old", 1)])
    stream.at_ms += 2 * DAY_MS
    await storage.apply([stream.record("e1", 2), stream.record("e2", 4)])
    stream.at_ms += HOUR_MS
    await storage.apply([stream.record("e3", 8), stream.record("nothing", 0)])
    longer = Period("six-hourly", window_ms=6 * HOUR_MS, bucket_ms=HOUR_MS)
    monkeypatch.setattr(periods, "PERIODS", (*periods.PERIODS, longer))
    async with Storage(store_url) as again:
        expected = [(START_MS + 2 * DAY_MS, 6), (START_MS + 2 * DAY_MS + HOUR_MS, 8)]
        assert (await windows_of(again))["six-hourly"] == expected
        await again.apply([stream.record("e4", 16)])
        expected[1] = (expected[1][0], 24)
        assert (await windows_of(again))["six-hourly"] == expected


async def test_a_period_that_is_cut_otherwise_is_filled_anew(
    storage: Storage, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Stream(at_ms=START_MS + 45_000)
    await storage.apply([stream.record("e1", 2)])
    assert (await windows_of(storage))["hourly"] == [(START_MS + 30_000, 2)]
    coarse = Period("hourly", window_ms=HOUR_MS, bucket_ms=60_000)
    monkeypatch.setattr(periods, "PERIODS", (coarse, *periods.PERIODS[1:]))
    async with Storage(store_url) as again:
        assert (await windows_of(again))["hourly"] == [(START_MS, 2)]


async def test_a_period_that_went_and_came_back_misses_nothing(
    storage: Storage, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Stream()
    await storage.apply([stream.record("e1", 2)])
    with monkeypatch.context() as patch:
        patch.setattr(periods, "PERIODS", periods.PERIODS[1:])
        async with Storage(store_url) as without:
            await without.apply([stream.record("e2", 4)])
            assert "hourly" not in await windows_of(without)
    async with Storage(store_url) as again:
        assert (await windows_of(again))["hourly"] == [(START_MS, 6)]
