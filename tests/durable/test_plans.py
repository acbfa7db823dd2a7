"""Queries that run often or over large tables find their rows by an index, on both stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection, event

from limiter.durable import (
    Storage,
    ledger,
    lists,
    load,
    queue,
    retention,
    revisions,
    sums,
    verify,
)
from limiter.durable.books import open_books
from limiter.durable.engine import SQLITE, Database
from limiter.durable.fold import wanted_by
from limiter.stored import ResolvedRecord
from tests.durable.stream import UNLIMITED, Stream

LARGE = ("spend_events", "reservations", "chats", "window_buckets")


@contextmanager
def statements(connection: Connection) -> Iterator[list[tuple[str, object]]]:
    """Every query that is run meanwhile."""
    seen: list[tuple[str, object]] = []

    def note(_c: object, _k: object, statement: str, parameters: object, *_: object) -> None:
        seen.append((statement, parameters))

    event.listen(connection, "before_cursor_execute", note)
    yield seen
    event.remove(connection, "before_cursor_execute", note)


def plan(connection: Connection, statement: str, parameters: object) -> str:
    if connection.dialect.name == SQLITE:
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)  # type: ignore[arg-type]
        return "\n".join(row.detail for row in rows)
    # Small tables are read whole whatever indexes they have, unless that is ruled out.
    connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
    rows = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)  # type: ignore[arg-type]
    return "\n".join(row[0] for row in rows)


STREAM = Stream()
BATCH = [
    STREAM.chat("root"),
    STREAM.chat("leaf", "root"),
    STREAM.hold("r1", 5, chat="leaf"),
    STREAM.record("e1", 3, chat="leaf", reservation="r1", source="s", total=3),
]


@pytest.mark.parametrize(
    "work",
    [
        lambda c: open_books(c, wanted_by(BATCH)),
        lambda c: load.workspace(c, "acme"),
        lambda c: load.chat(c, "acme", "leaf"),
        lambda c: load.chat_children(c, "acme", "root", 10),
        lambda c: load.source(c, "acme", "s"),
        lambda c: queue.unapplied(c, 10),
        lambda c: revisions.untold_chats(c, ("acme", "leaf"), 10),
        lambda c: ledger.fingerprints(c, [("acme", "e1"), ("acme", "e9")]),
        lambda c: ledger.ledger_page(c, "acme", 1, 2, None, 10),
        lambda c: lists.standings(c, ["acme", "zeta"], 1),
        lambda c: lists.chat_page(c, "acme", None, None, 10),
        lambda c: lists.chat_page(c, "acme", "root", "a", 10),
        lambda c: lists.holds(c, "acme", 1, 10),
        lambda c: lists.placed_ms(c, "acme", ["r1", "r2"]),
        lambda c: lists.latest_records(c, "acme", 10),
        lambda c: lists.spenders(c, "acme", 1, 10, 5),
        lambda c: lists.roots(c, "acme", ["leaf", "root"]),
        lambda c: lists.window(c, "acme", "hourly", 1),
        lambda c: retention.prunable(c, 1),
        lambda c: lists.chat_ids(c, "acme", "a", 10),
        lambda c: sums.sums(c, "acme", ["leaf", "root"]),
        lambda c: verify.drift(c, "acme"),
    ],
)
async def test_no_large_table_is_read_whole(
    storage: Storage, store_url: str, work: Callable[[Connection], object]
) -> None:
    await storage.create_workspace("acme", UNLIMITED, actor="test")
    await storage.apply(BATCH)
    # Something waits for Redis, so that the queries which leave that out are run, too.
    await storage.queue_record(
        ResolvedRecord(
            workspace_id="acme", event_id="e2", fingerprint="fp", cost_micros=1, chat_id="leaf"
        )
    )

    def plans(connection: Connection) -> list[str]:
        with statements(connection) as seen:
            work(connection)
        return [plan(connection, *each) for each in list(seen)]

    database = Database(store_url)
    try:
        found = await database.write(plans)
    finally:
        await database.close()
    assert found
    for text in found:
        for table in LARGE:
            assert f"SCAN {table}" not in text.replace(f"SCAN {table} USING INDEX", ""), text
            assert f"Seq Scan on {table}" not in text, text


@pytest.mark.parametrize("table", ["workspaces", "chats"])
async def test_what_is_untold_is_found_without_looking_at_the_rest(
    storage: Storage, store_url: str, table: str
) -> None:
    def plans(connection: Connection) -> list[str]:
        with statements(connection) as seen:
            if table == "chats":
                revisions.untold_chats(connection, None, 10)
            else:
                revisions.untold_workspaces(connection, None, 10)
        return [plan(connection, *each) for each in list(seen)]

    database = Database(store_url)
    try:
        found = await database.read(plans)
    finally:
        await database.close()
    assert f"ix_{table}_untold" in found[0]
