"""A pass of another process commits what it read from a Redis that was emptied meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from limiter.durable import Applied, Entry
from limiter.models import CheckRequest, RecordRequest, ReleaseRequest, WorkspacePatch
from limiter.runtime import open_parts
from limiter.settings import Settings
from tests.support.redis_process import RedisProcess


@pytest.mark.parametrize("end", ["release", "record"])
async def test_what_is_committed_late_is_told_to_a_redis_that_was_loaded_without_it(
    redis_server: RedisProcess, store_url: str, end: str
) -> None:
    settings = Settings.model_validate(
        {
            "database_url": store_url,
            "redis_url": redis_server.url,
            "redis_deadline_ms": 10_000,
            "snapshot_interval_ms": 3_600_000,
        }
    )
    async with open_parts(settings) as one, open_parts(settings) as other:
        limiter = one.limiter
        await limiter.configure("acme", WorkspacePatch(budget_limits={"hourly": 1_000}))
        await limiter.check(
            CheckRequest(workspace_id="acme", chat_id="c", estimate_micros=50, reservation_id="r")
        )
        await one.snapshot.run_once()
        if end == "release":
            await limiter.release(ReleaseRequest(workspace_id="acme", reservation_id="r"))
        else:
            await limiter.record(
                RecordRequest(workspace_id="acme", reservation_id="r", cost_micros=40)
            )

        reached, may_go_on = asyncio.Event(), asyncio.Event()
        apply = other.storage.apply

        async def apply_late(entries: Sequence[Entry]) -> Applied:
            reached.set()
            await may_go_on.wait()
            return await apply(entries)

        other.storage.apply = apply_late  # type: ignore[method-assign]
        late = asyncio.create_task(other.snapshot.run_once())
        await reached.wait()
        redis_server.client.flushall()
        # Loaded as the ledger knows it now, and one entry further: the late one has its number.
        await limiter.record(RecordRequest(workspace_id="acme", event_id="new", cost_micros=1))
        await one.snapshot.run_once()
        may_go_on.set()
        await late

        spent_micros = 1 if end == "release" else 41
        usage = await limiter.usage("acme")
        chat = await limiter.chat_usage("acme", "c")
        assert (usage.periods["hourly"].spent_micros, usage.held_micros) == (spent_micros, 0)
        assert (chat.spent_micros, chat.held_micros) == (spent_micros - 1, 0)
        assert await one.storage.drift("acme") == []
