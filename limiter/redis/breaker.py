"""A circuit breaker: while Redis is away, callers are told at once instead of each waiting for it.

It must not know what is called.
"""

from __future__ import annotations

from collections.abc import Callable

from limiter.metrics import Metrics


class Breaker:
    """Opens after `failures` calls in a row failed; every `reset_ms` it lets one through to see.

    `monotonic_s` is the clock, which tests drive.
    """

    def __init__(
        self,
        *,
        failures: int,
        reset_ms: int,
        monotonic_s: Callable[[], float],
        metrics: Metrics | None = None,
    ) -> None:
        self._failures_max = failures
        self._reset_s = reset_ms / 1000
        self._monotonic_s = monotonic_s
        self._metrics = metrics or Metrics()
        self._failures = 0
        self._next_probe_at = 0.0

    @property
    def is_open(self) -> bool:
        return self._failures >= self._failures_max

    def admits(self) -> bool:
        """Whether the next call may be made. While open, one caller a period is the probe."""
        if not self.is_open:
            return True
        now = self._monotonic_s()
        if now < self._next_probe_at:
            return False
        self._next_probe_at = now + self._reset_s
        return True

    def succeeded(self) -> None:
        if self.is_open:
            self._metrics.breaker_closed()
        self._failures = 0

    def failed(self) -> None:
        self._failures += 1
        if self._failures == self._failures_max:
            self._metrics.breaker_opened()
            self._next_probe_at = self._monotonic_s() + self._reset_s
