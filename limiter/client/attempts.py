"""How often and for how long a request is sent: within a deadline, with growing pauses.

Only requests that take effect once are ever sent, so each may be repeated. It must not send
anything, nor sleep.
"""

from __future__ import annotations

import random
import time
from typing import Any, NoReturn

from limiter.client.errors import NoAnswer
from limiter.client.exchanges import Exchange, NotAnswered

_PAUSE_MS_MIN = 50
_PAUSE_MS_MAX = 1_000


class Attempts:
    """The attempts at one request. All of them together take at most `deadline_ms`.

    The pauses have a lower bound, so the deadline bounds the number of attempts, too.
    """

    def __init__(self, exchange: Exchange[Any], deadline_ms: int) -> None:
        self._what = f"{exchange.method} {exchange.path}"
        self._deadline_ms = deadline_ms
        self._ends_at_s = time.monotonic() + deadline_ms / 1000
        self._pause_ms = _PAUSE_MS_MIN

    @property
    def timeout_s(self) -> float:
        """How long the next attempt may take: half of the time, so that there can be a second."""
        return max(0.001, min(self._deadline_ms / 2000, self._ends_at_s - time.monotonic()))

    def pause_after(self, failure: Exception) -> float:
        """The seconds until the next attempt.

        Raises what the service said, or NoAnswer, where the deadline leaves no time for one.
        """
        pause_s = self._pause_ms * random.uniform(0.5, 1.0) / 1000  # noqa: S311  # only spreads
        self._pause_ms = min(2 * self._pause_ms, _PAUSE_MS_MAX)
        if isinstance(failure, NotAnswered) and failure.retry_after_ms is not None:
            pause_s = max(pause_s, failure.retry_after_ms / 1000)
        if time.monotonic() + pause_s >= self._ends_at_s:
            self._give_up(failure)
        return pause_s

    def _give_up(self, failure: Exception) -> NoReturn:
        if isinstance(failure, NotAnswered):
            raise failure.error from None
        raise NoAnswer(
            f"{self._what} found no answer within {self._deadline_ms} ms"
            f" ({type(failure).__name__}: {failure})"
        ) from failure
