"""Copies durable storage from one database to another: every row of every table, as it is.

It reads one state of the source and writes one transaction of the target, so that the target has
all of it or stays empty. It must not interpret rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

from sqlalchemy import Connection, Table, delete, func, select, tuple_

from limiter.durable.bulk import AnyRow, insert_new
from limiter.durable.engine import SQLITE, Database
from limiter.durable.migrate import migrate
from limiter.durable.schema import (
    api_keys,
    chats,
    config_audit,
    dead_letters,
    metadata,
    spend_events,
    window_periods,
    workspaces,
)
from limiter.errors import StartupError

PAGE_ROWS = 5_000

# Called with the rows copied by now, and how many there are.
Progress = Callable[[int, int], None]


async def copy_store(source_url: str, target_url: str, progress: Progress) -> dict[str, int]:
    """Copies everything; returns how many rows each table has.

    Both databases are brought to this version of the program first. No service may use either of
    them. Raises StartupError if there is no source, or anything in the target, and
    StoreUnavailable.
    """
    source, target = Database(source_url), Database(target_url)
    try:
        if source.url == target.url:
            raise StartupError("the databases to copy from and to are the same")
        _require_file(source)
        await source.prepare(migrate)
        await target.prepare(migrate)
        return await asyncio.to_thread(_copy, source, target, progress)
    finally:
        await source.close()
        await target.close()


def _copy(source: Database, target: Database, progress: Progress) -> dict[str, int]:
    with target.writing() as to:
        counts, marks = _copy_rows(source, to, progress)
        with source.reading() as here:
            if _marks(here) != marks:
                raise StartupError("the source changed meanwhile: stop its service first")
    return counts


def _copy_rows(
    source: Database, to: Connection, progress: Progress
) -> tuple[dict[str, int], list[int]]:
    """The rows of each table, and the marks of the state that was copied."""
    with source.reading() as here:
        _require_empty(to)
        # The only table that a migration fills.
        to.execute(delete(window_periods))
        counts = {table.name: _count(here, table) for table in metadata.sorted_tables}
        total, done = sum(counts.values()), 0
        for table in metadata.sorted_tables:
            names = tuple(column.name for column in table.columns)
            for page in _pages(here, table):
                insert_new(to, table, names, [tuple(row) for row in page])
                done += len(page)
                progress(done, total)
            if _count(to, table) != counts[table.name]:
                raise StartupError(f"not all rows of {table.name} arrived; nothing was kept")
            _number_on(to, table)
        return counts, _marks(here)


def _marks(connection: Connection) -> list[int]:
    """Numbers of which one grows with whatever a service writes."""
    sources = (
        func.sum(workspaces.c.seq),
        func.sum(workspaces.c.revision),
        func.sum(workspaces.c.told_revision),
        func.sum(chats.c.told_revision),
        func.max(spend_events.c.id),
        func.max(config_audit.c.id),
        func.max(dead_letters.c.id),
        func.count(api_keys.c.key_id),
        func.count(api_keys.c.revoked_at_ms),
    )
    return [int(connection.scalar(select(source)) or 0) for source in sources]


def _require_file(source: Database) -> None:
    """Opening it would make an empty one."""
    path = source.url.database
    if source.dialect == SQLITE and not Path(path or "").is_file():
        raise StartupError(f"there is no database file {path!r} to copy from")


def _require_empty(connection: Connection) -> None:
    for table in metadata.sorted_tables:
        if table is not window_periods and connection.execute(select(table).limit(1)).first():
            raise StartupError(f"the database to copy to is not empty: {table.name} has rows")


def _count(connection: Connection, table: Table) -> int:
    return connection.scalar(select(func.count()).select_from(table)) or 0


def _pages(connection: Connection, table: Table) -> Iterator[list[AnyRow]]:
    """All rows in the order of the primary key, each page from behind the last one."""
    key = list(table.primary_key)
    query = select(table).order_by(*key).limit(PAGE_ROWS)
    page = list(connection.execute(query))
    while page:
        yield page
        last = [page[-1]._mapping[column.name] for column in key]
        page = list(connection.execute(query.where(tuple_(*key) > tuple_(*last))))


def _number_on(connection: Connection, table: Table) -> None:
    """Makes PostgreSQL number new rows from behind the copied ones, as SQLite does by itself."""
    if connection.dialect.name == SQLITE or "id" not in table.columns:
        return
    latest = connection.scalar(select(func.max(table.c.id)))
    if latest is not None:
        sequence = func.pg_get_serial_sequence(table.name, "id")
        connection.execute(select(func.setval(sequence, latest)))
