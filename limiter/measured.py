"""The Limiter with its calls counted and timed. It changes none of them."""

from __future__ import annotations

from time import perf_counter_ns

from limiter.models import (
    Admitted,
    CheckRequest,
    Denied,
    Recorded,
    RecordRequest,
    Refused,
    Released,
    ReleaseRequest,
)
from limiter.service import Limiter


class MeasuredLimiter(Limiter):
    """A Limiter that tells its metrics. A call that is cancelled has no answer, and is left out."""

    async def check(self, request: CheckRequest) -> Admitted | Denied | Refused:
        started_ns = perf_counter_ns()
        try:
            answer = await super().check(request)
        except Exception as error:
            self._metrics.failed("check", error, (perf_counter_ns() - started_ns) // 1_000)
            raise
        self._metrics.checked(answer, (perf_counter_ns() - started_ns) // 1_000)
        return answer

    async def record(self, request: RecordRequest) -> Recorded:
        started_ns = perf_counter_ns()
        try:
            answer = await super().record(request)
        except Exception as error:
            self._metrics.failed("record", error, (perf_counter_ns() - started_ns) // 1_000)
            raise
        self._metrics.recorded(answer, (perf_counter_ns() - started_ns) // 1_000)
        return answer

    async def release(self, request: ReleaseRequest) -> Released:
        started_ns = perf_counter_ns()
        try:
            answer = await super().release(request)
        except Exception as error:
            self._metrics.failed("release", error, (perf_counter_ns() - started_ns) // 1_000)
            raise
        self._metrics.released(answer, (perf_counter_ns() - started_ns) // 1_000)
        return answer
