"""The numbers that the kill table compares losses with."""

from __future__ import annotations

import pytest

from limiter.metrics import Metrics
from tests.crash.load import Acknowledged
from tests.crash.losses import most_at_once, most_within
from tests.crash.passes import unsaved_s
from tests.metrics.scrape import numbers


def acknowledged(at_s: float) -> Acknowledged:
    return Acknowledged(
        workspace_id="acme",
        event_id=f"e-{at_s}",
        chat_id="root",
        cost_micros=1,
        queued=False,
        sent_s=at_s - 0.01,
        at_s=at_s,
    )


@pytest.mark.parametrize(
    ("moments_s", "most"),
    [
        ([], 0),
        ([5.0], 1),
        ([0.0, 0.25], 1),
        ([0.0, 0.2499], 2),
        ([0.9, 0.0, 0.7, 0.1, 0.8, 0.94], 4),
    ],
)
def test_the_most_within_any_interval(moments_s: list[float], most: int) -> None:
    assert most_within(moments_s, 0.25) == most


def test_the_most_that_one_kill_lost() -> None:
    losses = [(0.5, 1.1), (8.5, 9.1)]
    lost = [acknowledged(at_s) for at_s in (0.6, 8.6, 8.7, 9.05)]
    assert most_at_once(lost, losses) == 3
    assert most_at_once(lost[:1], losses) == 1
    assert most_at_once([], losses) == 0
    assert most_at_once([acknowledged(at_s) for at_s in (0.4, 8.4)], losses) == 2


def test_how_long_ago_the_last_pass_began() -> None:
    metrics = Metrics()
    name = "limiter_snapshot_age_seconds"
    for elapsed_ms in (3, 70, 20):
        metrics.pass_completed(elapsed_ms * 1_000)
    later = {**numbers(metrics.text().decode()), name: 0.5}
    longest_s = unsaved_s(later, 0.25) - 0.5
    assert 0.07 <= longest_s <= 0.1
    # Another process may be in the middle of a pass.
    assert unsaved_s({**later, name: 0.01}, 0.25) == 0.25 + 2 * longest_s
