"""The rules by which the board's and the alerts' expressions are judged do catch mistakes."""

from __future__ import annotations

import pytest

from tests.deploy.promql import faults, metrics_of

DECISIONS = "limiter_decisions_total"
SECONDS = "limiter_call_duration_seconds"


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("rate(limiter_decision_total[5m])", "there is no series limiter_decision_total"),
        (f"rate({DECISIONS}{{result='denied'}}[5m])", f"{DECISIONS} has no label result"),
        (f"rate({DECISIONS}{{outcome='deny'}}[5m])", "selects nothing"),
        (f"rate({DECISIONS}{{outcome!~'.+'}}[5m])", "selects nothing"),
        (f"sum({DECISIONS})", "is read without rate or increase"),
        (f"rate({SECONDS}[5m])", f"there is no series {SECONDS}"),
        ("rate(limiter_breaker_open[5m])", "which is a gauge"),
        (f"sum by (workspace) (rate({DECISIONS}[5m]))", "sums by ['workspace']"),
        (f"histogram_quantile(0.5, sum by (call) (rate({SECONDS}_bucket[5m])))", "no buckets"),
        (f"histogram_quantile(0.5, rate({SECONDS}_sum[5m]))", "no buckets"),
        (
            f"sum by (job) (rate({DECISIONS}[5m])) / sum by (instance) (rate({DECISIONS}[5m]))",
            "never match",
        ),
    ],
)
def test_a_mistake_is_named(expression: str, fault: str) -> None:
    assert [each for each in faults(expression) if fault in each], faults(expression)


@pytest.mark.parametrize("expression", ["rate(", "sum by () (", "rate(limiter_breaker_open)"])
def test_what_is_no_promql_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        faults(expression)


@pytest.mark.parametrize(
    "expression",
    [
        f"sum(rate({SECONDS}_sum[5m])) / sum(rate({SECONDS}_count[5m]))",
        f"histogram_quantile(0.9, rate({SECONDS}_bucket{{call=~'check|record'}}[5m])) > 0.1",
        'max(limiter_breaker_open{job="$job", instance=~"$instance"}) or absent(up)',
    ],
)
def test_what_is_right_passes(expression: str) -> None:
    assert faults(expression) == []


def test_a_piece_of_a_histogram_stands_for_it() -> None:
    asked = metrics_of(
        f"rate({SECONDS}_sum[5m]) / rate({SECONDS}_count[5m]) / limiter_breaker_open"
    )
    assert asked == {SECONDS, "limiter_breaker_open"}
