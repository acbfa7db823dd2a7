"""Entries as the scripts write them are those that the snapshot pass expects."""

from __future__ import annotations

import pytest

from limiter.durable import parse, parse_entry
from tests.durable.stream import flat
from tests.support.clock import DrivenClock
from tests.support.driver import HOLD_MS, Driver


def test_fields_come_in_the_order_that_is_the_fast_one(
    acme: Driver, clock: DrivenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme.check(5, "r1", chat="c1", new=True)
    acme.check(5, "r2")
    acme.check(5, "r3")
    acme.record(4, "e1", "r1")
    acme.record(9, "e2", source="s1", sequence=2, stored_total=0)
    acme.release("r2")
    clock.advance(HOLD_MS)
    acme.usage()

    def refuse(*_: object) -> None:
        raise AssertionError("the fields come in another order")

    monkeypatch.setattr(parse, "_in_another_order", refuse)
    parsed = [
        parse_entry(flat(fields), partition=0, stream_id=stream_id.encode())
        for stream_id, fields in acme.entries()
    ]
    assert [type(entry).__name__ for entry in parsed] == [
        *("ChatEntry", "HoldEntry", "HoldEntry", "HoldEntry"),
        *("RecordEntry", "RecordEntry", "ReleaseEntry", "ExpireEntry"),
    ]
