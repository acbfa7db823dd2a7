"""The process that keeps durable storage up to date, beside those that answer calls.

A snapshot pass takes a core for as long as there is something to move. In a process of its own it
holds up no call, and one is enough for any number of workers. `limiter.keeperprocess` is what its
supervisor does with it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

from limiter import logs
from limiter.garbage import spare_collections
from limiter.keeperprocess import BEGIN
from limiter.metrics import Metrics
from limiter.runtime import open_limiter
from limiter.settings import load_settings


def main(metrics_folder: Path) -> None:
    """Keeps from the first line of standard input until it ends."""
    # Who stops everything at once, as systemd does, stops this one too early.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.read(sys.stdin.fileno(), len(BEGIN)) == BEGIN:
        asyncio.run(_keep(metrics_folder))
    # A supervisor that was killed has left it behind.
    shutil.rmtree(metrics_folder, ignore_errors=True)


async def _keep(metrics_folder: Path) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), stopping.set)
    settings = load_settings()
    logs.set_up(settings)
    metrics = Metrics(metrics_folder)
    async with open_limiter(settings, metrics=metrics, takes_any_server=True):
        spare_collections()
        await stopping.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
