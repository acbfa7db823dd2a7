"""Waiting for what other processes do: a condition with a bound, never a sleep in hope."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

WAIT_MS_MAX = 20_000
POLL_MS = 20


def eventually(ask: Callable[[], T], holds: Callable[[T], bool]) -> T:
    """Asks until the answer holds, and returns it; the last one when time is up."""
    deadline = time.monotonic() + WAIT_MS_MAX / 1000
    while True:
        answer = ask()
        if holds(answer) or time.monotonic() > deadline:
            return answer
        time.sleep(POLL_MS / 1000)
