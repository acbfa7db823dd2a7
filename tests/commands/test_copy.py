"""`limiter copy-store`: all of one database in another, or nothing of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, select

from limiter.commands.keys import create_key
from limiter.commands.snapshot import snapshot
from limiter.durable import Storage, copy_store
from limiter.durable import copy as copying
from limiter.durable.engine import parse_url
from limiter.durable.schema import metadata
from limiter.errors import StartupError
from limiter.models import RecordRequest
from limiter.runtime import open_parts
from limiter.settings import Settings
from tests.commands.scene import build, no_progress
from tests.support.stores import STORES, empty_database


@pytest.fixture(params=STORES)
def target_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield from empty_database(request, tmp_path / "copy" / "limiter.db")


@pytest.fixture
async def source_url(settings: Settings) -> str:
    """A store with something in every table."""
    async with open_parts(settings) as parts:
        await build(parts.limiter)
        await parts.storage.dead_letter(0, "5-0", {"type": "?"}, "unheard of")
    await create_key(settings, "caller", workspace_id="acme")
    await snapshot(settings)
    assert settings.database_url is not None
    return settings.database_url.get_secret_value()


def rows_of(url: str) -> dict[str, list[Any]]:
    """Every row of every table, in order."""
    engine = create_engine(parse_url(url))
    try:
        with engine.connect() as connection:
            return {
                table.name: [
                    tuple(row)
                    for row in connection.execute(select(table).order_by(*table.primary_key))
                ]
                for table in metadata.sorted_tables
            }
    finally:
        engine.dispose()


async def test_every_row_of_every_table_arrives(
    source_url: str, target_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "PAGE_ROWS", 3)  # so that every table takes several pages
    before = rows_of(source_url)
    assert all(before.values()), "a table is empty, and shows nothing"
    steps: list[tuple[int, int]] = []
    counts = await copy_store(source_url, target_url, lambda *step: steps.append(step))
    assert rows_of(target_url) == before
    assert rows_of(source_url) == before
    assert counts == {name: len(rows) for name, rows in before.items()}
    total = sum(counts.values())
    assert steps[-1] == (total, total)


async def test_new_rows_are_numbered_on(
    source_url: str, target_url: str, settings: Settings
) -> None:
    await copy_store(source_url, target_url, no_progress)
    async with Storage(target_url) as storage:
        await storage.dead_letter(0, "6-0", {"type": "?"}, "unheard of")
        assert len(await storage.dead_letters()) == 2
    moved = Settings.model_validate({**dict(settings), "database_url": target_url})
    async with open_parts(moved) as parts:
        await parts.limiter.record(RecordRequest(workspace_id="acme", cost_micros=1))
        await parts.snapshot.run_once()
        assert await parts.storage.drift("acme") == []


async def test_a_target_with_anything_in_it_is_left_as_it_is(
    source_url: str, target_url: str
) -> None:
    async with Storage(target_url) as storage:
        await storage.dead_letter(0, "9-0", {}, "mine")
    before = rows_of(target_url)
    with pytest.raises(StartupError, match="not empty: dead_letters has rows"):
        await copy_store(source_url, target_url, no_progress)
    assert rows_of(target_url) == before


async def test_a_copy_that_fails_half_way_leaves_nothing(source_url: str, target_url: str) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            raise Interrupted

    async with Storage(target_url):
        empty = rows_of(target_url)
    with pytest.raises(Interrupted):
        await copy_store(source_url, target_url, interrupt)
    assert rows_of(target_url) == empty
    await copy_store(source_url, target_url, no_progress)
    assert rows_of(target_url) == rows_of(source_url)


async def test_a_source_that_changes_meanwhile_is_noticed(source_url: str, target_url: str) -> None:
    async with Storage(target_url):
        empty = rows_of(target_url)
    engine = create_engine(parse_url(source_url))

    def change(done: int, total: int) -> None:
        if done == total:
            with engine.begin() as connection:
                workspaces = metadata.tables["workspaces"]
                connection.execute(workspaces.update().values(seq=workspaces.c.seq + 1))

    with pytest.raises(StartupError, match="changed meanwhile"):
        await copy_store(source_url, target_url, change)
    engine.dispose()
    assert rows_of(target_url) == empty


def test_a_source_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    source, target = (f"sqlite:///{tmp_path}/{name}.db" for name in ("nothing", "copy"))
    with pytest.raises(StartupError, match="no database file"):
        asyncio.run(copy_store(source, target, no_progress))
    assert list(tmp_path.iterdir()) == []


async def test_a_database_is_not_copied_onto_itself(source_url: str) -> None:
    with pytest.raises(StartupError, match="the same"):
        await copy_store(source_url, source_url, no_progress)
