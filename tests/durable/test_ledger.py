"""The ledger read back, and dead letters, on both stores."""

from __future__ import annotations

import json

import pytest

from limiter.durable import LedgerRow, Storage
from limiter.durable import storage as storage_module
from tests.durable.stream import START_MS, Stream


async def rows_of(storage: Storage, **bounds: int) -> list[str]:
    return [row.event_id async for row in storage.ledger_rows("acme", **bounds)]


async def test_rows_come_oldest_first_within_bounds(storage: Storage) -> None:
    stream = Stream()
    entries = []
    for number in range(6):
        stream.at_ms = START_MS + 1_000 * (number // 2)
        entries.append(stream.record(f"e{number}", 1))
    for entry in reversed(entries):
        await storage.apply([entry])
    assert sorted(await rows_of(storage)) == [f"e{number}" for number in range(6)]
    assert sorted(await rows_of(storage, since_ms=START_MS + 1_000)) == ["e2", "e3", "e4", "e5"]
    middle = await rows_of(storage, since_ms=START_MS + 1_000, until_ms=START_MS + 2_000)
    assert sorted(middle) == ["e2", "e3"]
    assert await rows_of(storage, limit=0) == []
    assert sorted(await rows_of(storage, limit=2)) == ["e0", "e1"]
    assert [row async for row in storage.ledger_rows("other")] == []


async def test_events_that_are_there_are_told_from_those_that_are_not(storage: Storage) -> None:
    stream, other = Stream(), Stream("other")
    await storage.apply([stream.record("e1", 1, fingerprint="f1"), stream.record("e2", 1)])
    await storage.apply([other.record("e3", 1, fingerprint="f3")])
    asked = [("acme", "e1"), ("acme", "e2"), ("acme", "e3"), ("other", "e1"), ("other", "e3")]
    assert await storage.fingerprints(asked) == {
        ("acme", "e1"): "f1",
        ("acme", "e2"): "fp",
        ("other", "e3"): "f3",
    }
    assert await storage.fingerprints([]) == {}


@pytest.mark.parametrize("limit", [None, 1, 7, 8, 9, 100])
async def test_pages_meet_without_gap_or_overlap(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    monkeypatch.setattr(storage_module, "PAGE_ROWS", 4)
    stream = Stream()
    # All at one moment, so that only the row ids tell where a page ended.
    await storage.apply([stream.record(f"e{number:02}", 1) for number in range(16)])
    rows = [row async for row in storage.ledger_rows("acme", limit=limit)]
    expected = [f"e{number:02}" for number in range(16)]
    assert [row.event_id for row in rows] == expected[:limit]


async def test_a_row_says_all_there_is(storage: Storage) -> None:
    stream = Stream()
    batch = [
        stream.record(
            "e1",
            5,
            chat="c1",
            reservation="r1",
            state="u",
            source="s",
            total=9,
            sequence=3,
            data="{}",
        ),
        stream.expire("r2", charged=4, chat="c1"),
    ]
    await storage.apply(batch)
    record, expiry = [row async for row in storage.ledger_rows("acme")]
    assert record == LedgerRow(
        id=record.id,
        workspace_id="acme",
        event_id="e1",
        at_ms=START_MS,
        charged_micros=5,
        chat_id="c1",
        reservation_id="r1",
        reservation_state="unknown",
        source="s",
        total_micros=9,
        sequence=3,
        priced=True,
        data="{}",
        applied=True,
    )
    assert (record.late, record.is_expiry) == (True, False)
    assert (expiry.late, expiry.is_expiry, expiry.reservation_id) == (False, True, "r2")


async def test_dead_letters_can_be_read(storage: Storage) -> None:
    fields = {b"type": b"record", b"raw": b"\xff\x00<script>", b"text": "é".encode()}
    for _ in range(2):
        await storage.dead_letter(3, b"5-1", fields, "type: not known")
    await storage.dead_letter(3, "5-2", {"type": "\0"}, "another")
    latest, first = await storage.dead_letters()
    assert (first.partition, first.stream_id, first.reason) == (3, "5-1", "type: not known")
    assert json.loads(first.fields) == {
        "type": "record",
        "raw": "\\xff\\x00<script>",
        "text": "é",
    }
    assert latest.stream_id == "5-2"
    assert await storage.dead_letters(limit=1) == [latest]
