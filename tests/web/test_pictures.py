"""Spend over time as rectangles, and the audit as sentences."""

from __future__ import annotations

import pytest

from limiter.models import iso_ms
from limiter.periods import PERIODS, Period
from limiter.views import AuditView, Bucket
from limiter.web.changes import changes
from limiter.web.charts import HEIGHT, chart

NOW_MS = 1_699_941_612_345


@pytest.mark.parametrize("period", PERIODS, ids=lambda period: period.name)
def test_the_open_bucket_is_last_and_the_oldest_first(period: Period) -> None:
    width_ms = period.bucket_ms
    last_ms = NOW_MS - NOW_MS % width_ms
    oldest_ms = last_ms - period.window_ms
    buckets = [Bucket(start_ms=oldest_ms, micros=50), Bucket(start_ms=last_ms, micros=200)]
    drawn = chart(period, buckets, NOW_MS)
    assert drawn.width == period.window_ms // width_ms + 1
    assert [(column.x, column.y, column.height) for column in drawn.columns] == [
        (0, HEIGHT - HEIGHT // 4, HEIGHT // 4),
        (drawn.width - 1, 0, HEIGHT),
    ]
    assert (drawn.total, drawn.peak) == ("$0.00025", "$0.0002")


def test_little_is_seen_beside_much() -> None:
    hourly = PERIODS[0]
    start_ms = NOW_MS - NOW_MS % hourly.bucket_ms
    much = Bucket(start_ms=start_ms - hourly.bucket_ms, micros=10**12)
    drawn = chart(hourly, [much, Bucket(start_ms=start_ms, micros=1)], NOW_MS)
    assert drawn.columns[1].height > 0
    assert drawn.columns[1].title == f"{iso_ms(start_ms)[11:19]}: $0.000001"


def test_nothing_was_spent() -> None:
    drawn = chart(PERIODS[0], [], NOW_MS)
    assert (drawn.columns, drawn.peak, drawn.total) == ([], None, "$0.00")
    assert drawn.label == "Nothing was spent in this window."


def test_changes_say_what_is_different() -> None:
    rules = {"default_estimate_micros": 0, "on_hold_expiry": "refund", "outage_policy": None}
    unlimited = {"hourly": None, "monthly": None}
    first = {"limits": unlimited, **rules}
    then = {"limits": {"hourly": 0, "monthly": None}, **rules, "outage_policy": "deny"}
    audit = [
        AuditView(at="t3", actor="page", chat_id=None, before=then, after=then),
        AuditView(at="t2", actor="page", chat_id=None, before=first, after=then),
        AuditView(at="t1", actor="http", chat_id=None, before=None, after=first),
        AuditView(
            at="t0",
            actor="http",
            chat_id="c2",
            before=None,
            after={"parent_chat_id": "c1", "limit_micros": 5_000_000},
        ),
    ]
    found = [
        (change.is_new, [(one.name, one.before, one.after) for one in change.differences])
        for change in changes(audit)
    ]
    assert found == [
        (False, []),
        (
            False,
            [
                ("hourly", "unlimited", "$0.00"),
                ("while Redis is away", "the service's default", "deny"),
            ],
        ),
        (True, []),
        (True, [("parent", None, "c1"), ("limit", None, "$5.00")]),
    ]
