"""Turns at a database: one process at a time, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from limiter.durable import Storage
from limiter.durable import turns as turns_module

HOLDER = """
import asyncio, sys
from limiter.durable import Storage

async def hold():
    async with Storage(sys.argv[1]) as storage, storage.turn():
        print("taken", flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(hold())
"""
SHORT_MS = 200


@pytest.fixture
async def storage(store_url: str) -> AsyncIterator[Storage]:
    async with Storage(store_url) as storage:
        yield storage


@pytest.fixture
def holder(store_url: str, storage: Storage) -> Iterator[subprocess.Popen[bytes]]:
    """Another process, which has the turn."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, store_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"taken\n"
        yield process
    finally:
        process.kill()
        process.communicate()


async def test_turns_are_taken_one_after_the_other(storage: Storage, store_url: str) -> None:
    inside = most = 0

    async def take(by: Storage) -> None:
        nonlocal inside, most
        async with by.turn():
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    async with Storage(store_url) as other:
        for _ in range(20):
            await asyncio.gather(take(storage), take(other))
    assert (inside, most) == (0, 1)


@pytest.mark.parametrize("end", ["it ends its turn", "it is killed"])
async def test_the_turn_of_another_process_is_waited_for(
    storage: Storage, holder: subprocess.Popen[bytes], end: str
) -> None:
    waiting = asyncio.create_task(_taken(storage))
    done, _ = await asyncio.wait([waiting], timeout=SHORT_MS / 1000)
    assert done == set()
    if end == "it is killed":
        os.kill(holder.pid, signal.SIGKILL)
    else:
        assert holder.stdin is not None
        holder.stdin.write(b"\n")
        holder.stdin.flush()
    async with asyncio.timeout(10):
        await waiting


async def test_a_process_that_keeps_its_turn_holds_up_nobody_for_ever(
    storage: Storage,
    holder: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(turns_module, "WAIT_MS_MAX", SHORT_MS)
    begun_s = time.monotonic()
    await _taken(storage)
    assert time.monotonic() - begun_s >= SHORT_MS / 1000
    assert "keeps its turn" in caplog.text


async def test_who_goes_away_while_it_waits_takes_no_turn(
    storage: Storage, holder: subprocess.Popen[bytes]
) -> None:
    waiting = asyncio.create_task(_taken(storage))
    await asyncio.wait([waiting], timeout=SHORT_MS / 1000)
    waiting.cancel()
    holder.kill()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(10):
        await _taken(storage)


async def _taken(storage: Storage) -> None:
    async with storage.turn():
        pass
