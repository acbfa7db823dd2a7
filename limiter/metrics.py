"""Every metric of the service: its name, its meaning, and the one way in which it is counted.

Counting adds to cells that all workers of a service share, so that each of them answers for all.
Prometheus' own values would cost a check several times as much. No other module imports Prometheus,
and no label ever carries what a caller sent. It must not know where things happen.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Final, Literal

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from limiter.cells import CELL_LIMIT, Cells
from limiter.errors import Conflict, InvalidRequest, NotFound, RedisUnavailable, StoreUnavailable
from limiter.families import Family, Plan
from limiter.models import Admitted, Denied, Recorded, Refused, Released
from limiter.periods import LIFETIME, PERIOD_NAMES

Call = Literal["check", "record", "release"]
Scope = Literal["workspace", "chat", "source"]
Loss = Literal["behind", "rewound"]
Compared = Literal["equal", "drifted", "unsettled"]

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

# Times are counted in microseconds: the sum of one worker's calls then fits a cell for ages.
_US = 1_000_000
_CALL_BOUNDS_MS = (0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500)
_PASS_BOUNDS_MS = (5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000)

# --------------------------------------------------------------------------- what there is


def _us(bounds_ms: Sequence[float]) -> tuple[int, ...]:
    return tuple(int(bound_ms * 1_000) for bound_ms in bounds_ms)


def _now_us() -> int:
    """A clock that all processes of a machine share and nobody sets."""
    return time.monotonic_ns() // 1_000


def _age_s(completed_at_us: Sequence[int]) -> float:
    """Since the latest of them; a process that makes no passes has none."""
    latest = max(completed_at_us)
    return (_now_us() - latest) / _US if latest else 0.0


_plan = Plan()

_DECISIONS = _plan.counter(
    "limiter_decisions_total",
    "Checks answered. Degraded: let pass uncounted, because Redis was away. Refused: for the same "
    "reason not let pass.",
    outcome=("admitted", "denied", "degraded", "refused"),
)
_DENIALS = _plan.counter(
    "limiter_denials_total",
    "Denied checks by the first limit that bound. Lifetime: the limit of a chat.",
    reason=("limit_exceeded", "estimate_exceeds_limit", "blocked"),
    period=(*PERIOD_NAMES, LIFETIME),
)
_RECORDS = _plan.counter(
    "limiter_records_total",
    "Records taken, each once. Queued: by the ledger alone, because Redis was away.",
    outcome=("charged", "queued"),
)
_LATE_RECORDS = _plan.counter(
    "limiter_late_records_total", "Records that came after their hold had expired."
)
_UNPRICED_RECORDS = _plan.counter(
    "limiter_unpriced_records_total", "Records of a model without a price."
)
_DUPLICATES = _plan.counter(
    "limiter_duplicates_total",
    "Calls that were made before, and were answered again without effect.",
    call=("check", "record", "release"),
)
_CALL_SECONDS = _plan.histogram(
    "limiter_call_duration_seconds",
    "Time from a call's request to its answer or failure, without HTTP.",
    unit=_US,
    bounds=_us(_CALL_BOUNDS_MS),
    call=("check", "record", "release"),
)
_FAILURES = _plan.counter(
    "limiter_call_failures_total",
    "Calls that ended in an error: the caller's fault, Redis or the store away, or a bug.",
    call=("check", "record", "release"),
    cause=("caller", "redis", "store", "internal"),
)
_HOLDS_PLACED = _plan.counter("limiter_holds_placed_total", "Holds placed, as the ledger has them.")
_HOLDS_ENDED = _plan.counter(
    "limiter_holds_ended_total",
    "Holds ended, as the ledger has them: settled by a record, given back, or expired.",
    by=("record", "release", "expiry"),
)
_CHARGED_MICROS = _plan.counter(
    "limiter_charged_micros_total",
    "What was charged, expired holds included, as the ledger has it. Millionths of a US dollar.",
)
_RETRACTED = _plan.counter(
    "limiter_retracted_records_total",
    "Second charges of a record, made after Redis had forgotten its id and taken back since.",
)
_PASS_SECONDS = _plan.histogram(
    "limiter_snapshot_pass_duration_seconds",
    "Time that a complete snapshot pass over all partitions took.",
    unit=_US,
    bounds=_us(_PASS_BOUNDS_MS),
)
_PASS_FAILURES = _plan.counter(
    "limiter_snapshot_pass_failures_total", "Snapshot passes that failed and were repeated."
)
_PASS_ENTRIES = _plan.counter(
    "limiter_snapshot_entries_total", "Stream entries moved from Redis into durable storage."
)
_PASS_AGE = _plan.gauge(
    "limiter_snapshot_age_seconds",
    "Time since a snapshot pass over all partitions was last completed, by whichever process; "
    "before the first one, since the start.",
    merge=_age_s,
    outlives=True,
)
_WAITING = _plan.gauge(
    "limiter_snapshot_waiting_entries",
    "Stream entries that waited for durable storage when a pass last began.",
    merge=max,
)
_POISONED = _plan.counter(
    "limiter_poisoned_entries_total",
    "Stream entries that could not be understood or applied, and were put aside as dead letters.",
)
_FORGOTTEN = _plan.counter(
    "limiter_forgotten_workspaces_total",
    "Workspaces loaded again because Redis had lost a part of them: it was behind the ledger, or "
    "told another story.",
    cause=("behind", "rewound"),
)
_DRIFT_CHECKS = _plan.counter(
    "limiter_drift_checks_total",
    "Comparisons of a workspace in Redis with durable storage. Unsettled: it was called all the "
    "while, and comes by again.",
    outcome=("equal", "drifted", "unsettled"),
)
_DRIFT_MICROS = _plan.gauge(
    "limiter_drift_micros",
    "By how much Redis and durable storage differ, over all counters that did when they were last "
    "compared. Millionths of a US dollar.",
    merge=max,
)
_COLD_LOADS = _plan.counter(
    "limiter_cold_loads_total",
    "Scopes that were not in Redis and were loaded from durable storage.",
    kind=("workspace", "chat", "source"),
)
_BATCH = _plan.histogram(
    "limiter_redis_batch_commands",
    "Calls that left for Redis in one write.",
    unit=1,
    bounds=(1, 2, 4, 8, 16),
)
_BREAKERS_OPEN = _plan.gauge(
    "limiter_breaker_open",
    "Workers whose circuit breaker is open: to them Redis is away.",
    merge=sum,
)
_BREAKER_OPENINGS = _plan.counter(
    "limiter_breaker_openings_total", "Times that a circuit breaker opened."
)

FAMILIES: Final = tuple(_plan.families)

# What the hot path adds to, found once.
_ADMITTED, _DENIED, _DEGRADED, _REFUSED = _DECISIONS.cells.values()
_CHARGED, _QUEUED = _RECORDS.cells.values()
_CHECK, _RECORD, _RELEASE = _CALL_SECONDS.cells.values()
_BATCH_CELL = _BATCH.cell()


# --------------------------------------------------------------------------- counting


class Metrics:
    """The metrics of this process and, with `folder`, of all workers that share it.

    One thread counts. It is a collector: `prometheus_client.REGISTRY.register(metrics)` puts a
    library's metrics beside those of the program that it is part of.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._cells = Cells(_plan.size, folder)
        self._values = self._cells.values
        # The cells may be those of a worker that is gone.
        self._values[_BREAKERS_OPEN.cell()] = self._breakers_open = 0
        self._values[_WAITING.cell()] = 0
        self._values[_DRIFT_MICROS.cell()] = 0

    def close(self) -> None:
        """Leaves the folder; what was counted stays there. Harmless to repeat."""
        self._cells.close()

    def checked(self, answer: Admitted | Denied | Refused, elapsed_us: int) -> None:
        """A check and its answer."""
        values = self._values
        if isinstance(answer, Admitted):
            values[_DEGRADED if answer.degraded else _ADMITTED] += 1
            if answer.duplicate:
                values[_DUPLICATES.cell("check")] += 1
        elif isinstance(answer, Denied):
            values[_DENIED] += 1
            values[_DENIALS.cell(answer.reason, answer.violations[0].period)] += 1
        else:
            values[_REFUSED] += 1
        self._observe(_CALL_SECONDS, _CHECK, elapsed_us)

    def recorded(self, answer: Recorded, elapsed_us: int) -> None:
        """A record and its answer."""
        values = self._values
        if answer.duplicate:
            values[_DUPLICATES.cell("record")] += 1
        else:
            values[_QUEUED if answer.queued else _CHARGED] += 1
            if answer.late:
                values[_LATE_RECORDS.cell()] += 1
            if not answer.priced:
                values[_UNPRICED_RECORDS.cell()] += 1
        self._observe(_CALL_SECONDS, _RECORD, elapsed_us)

    def released(self, answer: Released, elapsed_us: int) -> None:
        """A release and its answer."""
        if answer.duplicate:
            self._values[_DUPLICATES.cell("release")] += 1
        self._observe(_CALL_SECONDS, _RELEASE, elapsed_us)

    def failed(self, call: Call, error: Exception, elapsed_us: int) -> None:
        """A call that raised."""
        if isinstance(error, (InvalidRequest, NotFound, Conflict)):
            cause = "caller"
        elif isinstance(error, RedisUnavailable):
            cause = "redis"
        elif isinstance(error, StoreUnavailable):
            cause = "store"
        else:
            cause = "internal"
        self._values[_FAILURES.cell(call, cause)] += 1
        self._observe(_CALL_SECONDS, _CALL_SECONDS.cell(call), elapsed_us)

    def batch_sent(self, commands: int) -> None:
        """A write to Redis."""
        self._observe(_BATCH, _BATCH_CELL, commands)

    def breaker_opened(self) -> None:
        self._breakers_open += 1
        self._values[_BREAKERS_OPEN.cell()] = 1
        self._values[_BREAKER_OPENINGS.cell()] += 1

    def breaker_closed(self) -> None:
        """Each node of a cluster has a breaker; the worker counts while any is open."""
        self._breakers_open -= 1
        self._values[_BREAKERS_OPEN.cell()] = int(self._breakers_open > 0)

    def entries_waiting(self, entries: int) -> None:
        """So many lie in the streams now."""
        self._values[_WAITING.cell()] = entries

    def passes_begin(self) -> None:
        """This process makes passes from now on; the age of the snapshot counts from here."""
        cell = _PASS_AGE.cell()
        # One that died before it completed any had begun earlier.
        self._values[cell] = self._values[cell] or _now_us()

    def pass_completed(self, elapsed_us: int) -> None:
        self._observe(_PASS_SECONDS, _PASS_SECONDS.cell(), elapsed_us)
        self._values[_PASS_AGE.cell()] = _now_us()

    def pass_failed(self) -> None:
        self._values[_PASS_FAILURES.cell()] += 1

    def entries_moved(self, entries: int, *, charged_micros: int) -> None:
        """A batch that was committed and acknowledged, and what it charged in all."""
        self._values[_PASS_ENTRIES.cell()] += entries
        # Whoever reads a counter takes its going back for a start from zero.
        cell = _CHARGED_MICROS.cell()
        self._values[cell] = (self._values[cell] + charged_micros) % CELL_LIMIT

    def holds_moved(self, *, placed: int, recorded: int, released: int, expired: int) -> None:
        """The holds of such a batch."""
        values = self._values
        values[_HOLDS_PLACED.cell()] += placed
        values[_HOLDS_ENDED.cell("record")] += recorded
        values[_HOLDS_ENDED.cell("release")] += released
        values[_HOLDS_ENDED.cell("expiry")] += expired

    def entries_poisoned(self, entries: int) -> None:
        self._values[_POISONED.cell()] += entries

    def record_retracted(self) -> None:
        self._values[_RETRACTED.cell()] += 1

    def workspace_forgotten(self, cause: Loss) -> None:
        self._values[_FORGOTTEN.cell(cause)] += 1

    def drift_checked(self, outcome: Compared) -> None:
        """A workspace was compared in Redis with durable storage."""
        self._values[_DRIFT_CHECKS.cell(outcome)] += 1

    def drift_found(self, micros: int) -> None:
        """By so much do all differ now that were found to."""
        self._values[_DRIFT_MICROS.cell()] = min(micros, CELL_LIMIT - 1)

    def cold_load(self, kind: Scope) -> None:
        self._values[_COLD_LOADS.cell(kind)] += 1

    def _observe(self, family: Family, cell: int, value: int) -> None:
        self._values[cell + bisect_left(family.bounds, value)] += 1
        self._values[cell + len(family.bounds) + 1] += value

    # ------------------------------------------------------------------ telling

    def text(self) -> bytes:
        """All metrics of all workers, in Prometheus' text format."""
        return generate_latest(self)

    def snapshot_age_ms(self) -> int | None:
        """Of all processes of the service; None while none of them makes passes."""
        completed_at_us = [values[_PASS_AGE.cell()] for values in self._everyone()]
        return int(_age_s(completed_at_us) * 1_000) if any(completed_at_us) else None

    def passes_completed(self) -> int:
        """By all processes of the service, since its start."""
        first = _PASS_SECONDS.cell()
        buckets = slice(first, first + len(_PASS_SECONDS.bounds) + 1)
        return sum(sum(values[buckets]) for values in self._everyone())

    def _everyone(self) -> list[Sequence[int]]:
        return [self._values, *(values for values, _ in self._cells.others())]

    def collect(self) -> Iterator[Metric]:
        """The same as Prometheus' own objects."""
        others = list(self._cells.others())
        everyone = [self._values, *(values for values, _ in others)]
        living = [self._values, *(values for values, is_live in others if is_live)]
        for family in FAMILIES:
            yield _told(family, everyone, living)


def _told(
    family: Family, everyone: Sequence[Sequence[int]], living: Sequence[Sequence[int]]
) -> Metric:
    if family.kind == "gauge":
        cell = family.cell()
        value = family.merge([values[cell] for values in (everyone if family.outlives else living)])
        return GaugeMetricFamily(family.name, family.help, value=value)
    if family.kind == "counter":
        counter = CounterMetricFamily(family.name, family.help, labels=family.labels)
        for labels, cell in family.cells.items():
            counter.add_metric(labels, sum(values[cell] for values in everyone))
        return counter
    histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
    bounds = [*(str(bound / family.unit) for bound in family.bounds), "+Inf"]
    for labels, cell in family.cells.items():
        sums = [
            sum(values[at] for values in everyone) for at in range(cell, cell + len(bounds) + 1)
        ]
        buckets = list(zip(bounds, accumulate(sums[:-1]), strict=True))
        histogram.add_metric(labels, buckets, sums[-1] / family.unit)
    return histogram
