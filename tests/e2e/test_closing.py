"""Closing comes to an end, whatever the work of the moment does with a cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from limiter import runtime
from limiter.commands.data import for_each
from limiter.models import RecordRequest
from limiter.runtime import open_limiter, open_parts
from limiter.settings import Settings
from limiter.snapshot import Snapshot

CLOSE_S_MAX = 20


class Passes:
    """Stands in for a limiter's first passes; the later ones are real. A test drives it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *first: Callable[[], Awaitable[object]]):
        self.begun, self.ended = asyncio.Event(), asyncio.Event()
        self.under_way = 0
        real, left = Snapshot.run_once, list(first)

        async def run_once(snapshot: Snapshot) -> int:
            if not left:
                return await real(snapshot)
            async with snapshot._lock:  # as a pass keeps others out
                self.under_way += 1
                self.begun.set()
                try:
                    await left.pop(0)()
                finally:
                    self.under_way -= 1
                    self.ended.set()
            return 0

        monkeypatch.setattr(Snapshot, "run_once", run_once)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, snapshot_interval_ms=10, redis_deadline_ms=10_000)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STOP_MS_MAX", "CANCEL_POLL_MS"):
        monkeypatch.setattr(runtime, name, 20)


@asynccontextmanager
async def closing(settings: Settings, passes: Passes) -> AsyncIterator[asyncio.Task[None]]:
    """A limiter with a charge in its stream that closes once a pass is under way, as a task."""
    async with open_parts(settings) as parts:
        await parts.limiter.record(RecordRequest(workspace_id="acme", cost_micros=7))

    async def live() -> None:
        async with open_limiter(settings):
            await passes.begun.wait()

    task = asyncio.create_task(live())
    async with asyncio.timeout(CLOSE_S_MAX):
        await passes.begun.wait()
    yield task


async def has_ended(task: asyncio.Task[None]) -> bool:
    await asyncio.wait([task], timeout=CLOSE_S_MAX)
    return task.done()


async def charged(settings: Settings) -> int:
    async with open_parts(settings) as parts:
        return sum([row.charged_micros async for row in parts.storage.ledger_rows("acme")])


async def test_a_pass_under_way_may_finish(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    may_finish, finished = asyncio.Event(), asyncio.Event()

    async def finish() -> None:
        await may_finish.wait()
        finished.set()

    passes = Passes(monkeypatch, finish)
    async with closing(settings, passes) as task:
        for _ in range(100):
            await asyncio.sleep(0)
        assert passes.under_way == 1
        may_finish.set()
        assert await has_ended(task)
        await task
    assert finished.is_set()
    assert await charged(settings) == 7


async def test_a_cancellation_that_gets_lost_is_repeated(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, impatient: None
) -> None:
    swallowed = 0

    async def swallow() -> None:
        # What redis-py does on Python 3.11 when the reply and the cancellation come together.
        nonlocal swallowed
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            swallowed += 1
        await asyncio.Event().wait()

    async with closing(settings, Passes(monkeypatch, swallow)) as task:
        assert await has_ended(task)
        await task
    assert swallowed == 1
    assert await charged(settings) == 7


async def test_a_lost_cancellation_begins_no_other_pass(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, impatient: None
) -> None:
    async def swallow() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    async def never() -> None:
        raise AssertionError("nothing is begun any more")

    async def last() -> None:
        """The pass of closing itself."""

    passes = Passes(monkeypatch, swallow, last, never)
    async with closing(settings, passes) as task:
        assert await has_ended(task)
        await task
    assert passes.under_way == 0


async def test_a_pass_that_never_ends_is_left_behind(
    monkeypatch: pytest.MonkeyPatch,
    settings: Settings,
    impatient: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    may_end = asyncio.Event()

    async def stay() -> None:
        while not may_end.is_set():
            try:
                await may_end.wait()
            except asyncio.CancelledError:
                continue

    passes = Passes(monkeypatch, stay)
    async with closing(settings, passes) as task:
        assert await has_ended(task)
        await task
        assert passes.under_way == 1
        assert "does not end" in caplog.text
        may_end.set()
        async with asyncio.timeout(CLOSE_S_MAX):
            await passes.ended.wait()
    # What was in the stream has stayed there, and the next start moves it.
    async with open_limiter(settings):
        pass
    assert await charged(settings) == 7


async def test_closing_that_is_cancelled_leaves_nothing_running(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    passes = Passes(monkeypatch, asyncio.Event().wait)
    async with closing(settings, passes) as task:
        for _ in range(100):
            await asyncio.sleep(0)
        assert passes.under_way == 1
        task.cancel()
        assert await has_ended(task)
        assert task.cancelled()
    assert passes.under_way == 0


async def test_work_on_many_items_that_failed_begins_no_other() -> None:
    begun: list[int] = []
    failed = asyncio.Event()

    async def work(item: int) -> None:
        begun.append(item)
        if item == 2:
            failed.set()
            raise ValueError(item)
        await failed.wait()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    async def everything() -> None:
        await for_each(range(1_000), work, concurrency=3)

    task = asyncio.create_task(everything())
    assert await has_ended(task)
    with pytest.raises(ValueError, match="2"):
        await task
    assert begun == [0, 1, 2]
