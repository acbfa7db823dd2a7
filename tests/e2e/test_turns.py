"""Calls go on beside a pass: a batch does not keep the event loop to itself."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from limiter import snapshot
from limiter.durable import parse_entry
from limiter.models import RecordRequest
from limiter.runtime import open_parts
from limiter.settings import Settings
from limiter.snapshot import BATCH_MAX, UNDERSTOOD_AT_ONCE_MAX

RECORDS = BATCH_MAX + 50


async def test_others_have_their_turn_while_a_batch_is_understood(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loop = asyncio.get_running_loop()
    turn, parsed_in = 0, Counter[int]()

    def next_turn() -> None:
        nonlocal turn
        turn += 1
        if parsed_in.total() < RECORDS:
            loop.call_soon(next_turn)

    def count(*args: Any, **options: Any) -> object:
        parsed_in[turn] += 1
        return parse_entry(*args, **options)

    async with open_parts(Settings(data_dir=tmp_path, redis_deadline_ms=10_000)) as parts:
        request = RecordRequest(workspace_id="acme", cost_micros=1)
        await asyncio.gather(*(parts.limiter.record(request) for _ in range(RECORDS)))
        monkeypatch.setattr(snapshot, "parse_entry", count)
        next_turn()
        assert await parts.snapshot.run_once() == RECORDS
        assert parsed_in.total() == RECORDS
        assert max(parsed_in.values()) <= UNDERSTOOD_AT_ONCE_MAX
