"""`limiter top`: of very many workspaces it waits for the order, and an outage does not end it."""

from __future__ import annotations

import asyncio
import io
from time import monotonic

import pytest
from rich.console import Console

from limiter import overview
from limiter.commands.top import top, watch
from limiter.durable.reads import StorageReads
from limiter.errors import StoreUnavailable
from limiter.models import RecordRequest, WorkspacePatch
from limiter.runtime import open_parts
from limiter.settings import Settings

WORKSPACES = 9
WAIT_S_MAX = 20


@pytest.fixture
async def built(settings: Settings) -> Settings:
    """Workspaces w0 … w8, each closer to its limit than the one before."""
    async with open_parts(settings) as parts:
        for number in range(WORKSPACES):
            name = f"w{number}"
            await parts.limiter.configure(name, WorkspacePatch(budget_limits={"hourly": 100}))
            await parts.limiter.record(RecordRequest(workspace_id=name, cost_micros=number))
    return settings


async def test_it_waits_until_all_have_been_looked_at(
    built: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "LIVE_MAX", 2)
    monkeypatch.setattr(overview, "LOOK_BATCH", 2)
    monkeypatch.setattr(overview, "FIRST_S_MAX", 0)
    page = await top(built, 3)
    assert ([row.workspace_id for row in page.rows], page.complete) == (["w8", "w7", "w6"], True)


async def test_an_outage_is_shown_and_does_not_end_it(
    built: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system=None, width=80, height=20)
    watching = asyncio.create_task(watch(built, console, 5, 0.01))
    try:
        await shows(file, "w8")
        with monkeypatch.context() as away:
            away.setattr(StorageReads, "workspace_ids", refuse)
            await shows(file, "durable storage cannot answer: gone")
        file.truncate(0)
        await shows(file, "w8")
        assert not watching.done()
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def refuse(*_: object) -> list[str]:
    raise StoreUnavailable("durable storage cannot answer: gone")


async def shows(file: io.StringIO, text: str) -> None:
    deadline = monotonic() + WAIT_S_MAX
    while text not in file.getvalue():
        assert monotonic() < deadline, f"not shown: {text}"
        await asyncio.sleep(0.01)
