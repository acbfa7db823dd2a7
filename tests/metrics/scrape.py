"""What /metrics says, as numbers, and which of them an event changed."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families

from limiter.metrics import CONTENT_TYPE, Metrics

# What passing time, or a call of any kind, changes.
RESTLESS = (
    "limiter_call_duration_seconds",
    "limiter_redis_batch_commands",
    "limiter_snapshot_age_seconds",
    "limiter_snapshot_entries_total",
    "limiter_snapshot_pass_duration_seconds",
    "limiter_snapshot_waiting_entries",
)

Numbers = dict[str, float]


def numbers(text: str) -> Numbers:
    """Every sample: `name` or `name{label=value,…}`, and its value."""
    return dict(_samples(text))


def _samples(text: str) -> Iterator[tuple[str, float]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            yield sample.name + (f"{{{labels}}}" if labels else ""), sample.value


def scraped(url: str) -> Numbers:
    """What a service answers a Prometheus."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as reply:  # noqa: S310  # loopback
        assert reply.status == 200
        assert reply.headers["content-type"] == CONTENT_TYPE
        return numbers(reply.read().decode())


class Watch:
    """Says what has changed since it was last asked, times and batches aside."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._before = self.now()

    def now(self) -> Numbers:
        return numbers(self._metrics.text().decode())

    def changed(self) -> Numbers:
        before, self._before = self._before, self.now()
        return {
            name: value - before[name]
            for name, value in self._before.items()
            if value != before[name] and not name.startswith(RESTLESS)
        }
