"""The keeper as its supervisor sees it: a process that is started, told to begin, and ended.

The supervisor starts it, tells it by a line on its standard input to begin, starts it again when it
dies, and tells it to end by closing that pipe: which also happens when the supervisor is killed. It
must not import what the keeper does: that takes most of a service's start, and is imported by both
at the same time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from typing import IO, cast

from limiter.metrics import Metrics

logger = logging.getLogger(__name__)

# An end takes the step that is under way, and a last pass over what the workers left.
STOP_MS_MAX = 30_000
RESTART_PAUSE_MS = 1_000
START_MS_MAX = 10_000
START_POLL_MS = 5
BEGIN = b"begin\n"


class Keeper:
    """The process, as its supervisor sees it. `metrics_folder`: where the workers count theirs."""

    def __init__(self, metrics_folder: str) -> None:
        """It gets ready at once, and waits for `begin`."""
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
            pipe.write(BEGIN)
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
