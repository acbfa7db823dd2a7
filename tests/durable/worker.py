"""A process of its own on a database, for tests that need several, or one that they can kill.

python -m tests.durable.worker start URL
python -m tests.durable.worker apply URL SEED FIRST
python -m tests.durable.worker lock PATH
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import subprocess
import sys
from contextlib import AbstractContextManager

from limiter.durable import Entry, Storage
from tests.durable.oracle import History
from tests.durable.stream import Stream
from tests.support.module import running_module

WORKSPACES = 3
BATCHES = 60


def workload(seed: int) -> list[list[Entry]]:
    """The same batches for the same seed, over a few workspaces."""
    chance = random.Random(seed)
    histories = [History(Stream(f"w{number}")) for number in range(WORKSPACES)]
    batches: list[list[Entry]] = []
    done = [0] * WORKSPACES
    for _ in range(BATCHES):
        for _ in range(40):
            history = chance.choice(histories)
            history.act(
                (chance.randrange(History.KINDS), chance.randrange(60), chance.randrange(99))
            )
        batch = []
        for number, history in enumerate(histories):
            batch += history.entries[done[number] :]
            done[number] = len(history.entries)
        batches.append(batch)
    return batches


def worker(*arguments: str) -> AbstractContextManager[subprocess.Popen[str]]:
    """Runs a worker; kills it at the end if it is still there."""
    return running_module("tests.durable.worker", *arguments)


async def _start(url: str) -> None:
    async with Storage(url):
        pass


async def _apply(url: str, seed: int, first: int) -> None:
    """Applies batches from `first` on, and says the number of each once it is committed."""
    async with Storage(url) as storage:
        for number, batch in enumerate(workload(seed)[first:], start=first):
            await storage.apply(batch)
            print(number, flush=True)  # noqa: T201 - this is how it is followed


def _lock(path: str) -> None:
    """Holds the write lock until standard input ends."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        print("locked", flush=True)  # noqa: T201 - this is how it is followed
        sys.stdin.read()
        connection.execute("ROLLBACK")


def main(command: str, target: str, *numbers: str) -> None:
    if command == "start":
        asyncio.run(_start(target))
    elif command == "apply":
        asyncio.run(_apply(target, *map(int, numbers)))
    elif command == "lock":
        _lock(target)
    else:
        raise ValueError(command)


if __name__ == "__main__":
    main(*sys.argv[1:])
