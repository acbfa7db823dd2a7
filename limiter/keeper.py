"""The process that keeps durable storage up to date, beside those that answer calls.

A snapshot pass takes a core for as long as there is something to move. In a process of its own it
holds up no call, and one is enough for any number of workers. The supervisor starts it, tells it by
a line on its standard input to begin, starts it again when it dies, and tells it to end by closing
that pipe: which also happens when the supervisor is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, cast

from limiter import logs
from limiter.metrics import Metrics
from limiter.runtime import open_limiter
from limiter.settings import load_settings

logger = logging.getLogger(__name__)

# An end takes the step that is under way, and a last pass over what the workers left.
STOP_MS_MAX = 30_000
RESTART_PAUSE_MS = 1_000
START_MS_MAX = 10_000
START_POLL_MS = 5
_BEGIN = b"begin\n"


class Keeper:
    """The process, as its supervisor sees it. `metrics_folder`: where the workers count theirs."""

    def __init__(self, metrics_folder: str) -> None:
        """It gets ready at once, which takes most of a service's start, and waits for `begin`."""
        self._command = [sys.executable, "-m", "limiter.keeper", metrics_folder]
        # What is meant for the workers alone comes later.
        self._environment = dict(os.environ)
        self._stopping = threading.Event()
        # A start and a stop that meet must not leave a process that nobody ends.
        self._changing = threading.Lock()
        self._process = self._started()
        self._watch = threading.Thread(target=self._restart, name="keeper", daemon=True)

    def begin(self) -> None:
        """From here on it keeps, and is started again when it dies."""
        self._tell()
        self._watch.start()

    def wait_for_pass(self, metrics: Metrics) -> None:
        """Returns once the keeper has completed a pass. What is acknowledged from then on waits no
        longer for durable storage than an interval and a pass. `metrics`: those of the folder.
        """
        deadline = time.monotonic() + START_MS_MAX / 1000
        while not metrics.passes_completed():
            if time.monotonic() > deadline:
                logger.error("the keeper has made no pass yet; the service starts all the same")
                return
            time.sleep(START_POLL_MS / 1000)

    def stop(self) -> None:
        """Lets it finish, for a bounded time. The workers have ended: it moves what they left."""
        with self._changing:
            self._stopping.set()
        try:
            # Closes its standard input.
            self._process.communicate(timeout=STOP_MS_MAX / 1000)
        except subprocess.TimeoutExpired:
            logger.error("the keeper does not end; the next start moves what it leaves")
            self._process.kill()
        if self._watch.ident is not None:
            self._watch.join()

    def _tell(self) -> None:
        pipe = cast(IO[bytes], self._process.stdin)
        # One that has ended already is started again.
        with contextlib.suppress(BrokenPipeError):
            pipe.write(_BEGIN)
            pipe.flush()

    def _started(self) -> subprocess.Popen[bytes]:
        # In a group of its own, where a terminal's Ctrl-C does not reach it: it goes last.
        return subprocess.Popen(
            self._command, env=self._environment, stdin=subprocess.PIPE, process_group=0
        )

    def _restart(self) -> None:
        while True:
            status = self._process.wait()
            if self._stopping.wait(RESTART_PAUSE_MS / 1000):
                return
            with self._changing:
                if self._stopping.is_set():
                    return
                logger.error("the keeper ended with status %d, and is started again", status)
                self._process = self._started()
                self._tell()


def main(metrics_folder: Path) -> None:
    """Keeps from the first line of standard input until it ends."""
    # Who stops everything at once, as systemd does, stops this one too early.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.read(sys.stdin.fileno(), len(_BEGIN)) == _BEGIN:
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
        await stopping.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
