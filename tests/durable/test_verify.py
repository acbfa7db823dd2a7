"""Sums worked out again from the ledger, and what was tampered with, on both stores."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from limiter.durable import ChatSums, Drift, Storage
from limiter.durable.engine import Database
from limiter.periods import HOUR_MS, PERIOD_NAMES
from tests.durable.stream import START_MS, Stream


async def fill(storage: Storage) -> None:
    stream = Stream()
    await storage.apply(
        [
            stream.chat("root"),
            stream.chat("leaf", "root"),
            stream.record("e1", 5, chat="leaf", priced=False),
            stream.record("e2", 3, chat="root"),
            stream.record("e3", 1),
            stream.hold("r1", 7, chat="leaf"),
        ]
    )


async def test_recomputing_needs_nothing_but_the_ledger(storage: Storage) -> None:
    await fill(storage)
    recomputed = await storage.recompute("acme")
    assert recomputed is not None
    assert recomputed.windows == {name: [(START_MS, 9)] for name in PERIOD_NAMES}
    assert (recomputed.spent_at_ms, recomputed.unpriced_records) == (START_MS, 1)
    assert recomputed.chats == {
        "root": ChatSums(own_spent_micros=3, spent_micros=8, held_micros=7),
        "leaf": ChatSums(own_spent_micros=5, spent_micros=5, held_micros=7),
    }
    assert await storage.drift("acme") == []


async def test_what_is_not_there_does_not_drift(storage: Storage) -> None:
    assert await storage.recompute("acme") is None
    assert await storage.drift("acme") == []


@pytest.mark.parametrize(
    ("statement", "drifts"),
    [
        (
            "UPDATE window_buckets SET micros = micros + 1 WHERE period = 'daily'",
            [(f"window daily {START_MS}", 10, 9)],
        ),
        (
            "DELETE FROM window_buckets WHERE period = 'weekly'",
            [(f"window weekly {START_MS}", 0, 9)],
        ),
        (
            "UPDATE window_buckets SET start_ms = start_ms + 30000 WHERE period = 'hourly'",
            [(f"window hourly {START_MS}", 0, 9), (f"window hourly {START_MS + 30_000}", 9, 0)],
        ),
        (
            "UPDATE chats SET spent_micros = 6 WHERE chat_id = 'leaf'",
            [("chat leaf spent_micros", 6, 5)],
        ),
        (
            "UPDATE chats SET own_spent_micros = 1 WHERE chat_id = 'root'",
            [("chat root own_spent_micros", 1, 3)],
        ),
        (
            "UPDATE chats SET held_micros = 0 WHERE chat_id = 'leaf'",
            [("chat leaf held_micros", 0, 7)],
        ),
        (
            "DELETE FROM reservations",
            [("chat leaf held_micros", 7, 0), ("chat root held_micros", 7, 0)],
        ),
        ("UPDATE workspaces SET unpriced_records = 0", [("unpriced_records", 0, 1)]),
        ("UPDATE workspaces SET spent_at_ms = 1", [("spent_at_ms", 1, START_MS)]),
        (
            "UPDATE spend_events SET charged_micros = 4 WHERE event_id = 'e3'",
            [(f"window {name} {START_MS}", 9, 12) for name in PERIOD_NAMES],
        ),
        (
            "DELETE FROM spend_events WHERE event_id = 'e1'",
            [
                ("unpriced_records", 1, 0),
                *((f"window {name} {START_MS}", 9, 4) for name in PERIOD_NAMES),
                ("chat leaf own_spent_micros", 5, 0),
                ("chat leaf spent_micros", 5, 0),
                ("chat root spent_micros", 8, 3),
            ],
        ),
        (
            "DELETE FROM chats WHERE chat_id = 'leaf'",
            [
                ("chat leaf own_spent_micros", 0, 5),
                ("chat leaf spent_micros", 0, 5),
                ("chat leaf held_micros", 0, 7),
                ("chat root spent_micros", 8, 3),
                ("chat root held_micros", 7, 0),
            ],
        ),
    ],
)
async def test_tampering_is_noticed(
    storage: Storage, store_url: str, statement: str, drifts: list[tuple[str, int, int]]
) -> None:
    await fill(storage)
    database = Database(store_url)
    await database.write(lambda connection: connection.execute(text(statement)))
    await database.close()
    assert await storage.drift("acme") == [
        Drift(workspace_id="acme", what=what, stored=stored, recomputed=recomputed)
        for what, stored, recomputed in drifts
    ]


async def test_buckets_that_left_their_window_are_not_compared(
    storage: Storage, store_url: str
) -> None:
    await fill(storage)
    stream = Stream(seq=6, at_ms=START_MS + 2 * HOUR_MS)
    await storage.apply([stream.record("e4", 1)])
    database = Database(store_url)
    await database.write(
        lambda connection: connection.execute(
            text(
                "UPDATE window_buckets SET micros = 77"
                " WHERE start_ms = :start AND period = 'hourly'"
            ),
            {"start": START_MS},
        )
    )
    await database.close()
    assert await storage.drift("acme") == []
