"""Denials of a check: statuses, problems, headers, and the plain answer for policy engines."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from limiter.http.problems import denial_problem
from limiter.models import Denied, Reason, Refused, Scope, Violation
from tests.http.support import CHECK, ToldLimiter, client_of, problem

RESETS_AT = "2026-02-07T10:12:05.400Z"


def violation(
    period: str = "hourly",
    *,
    reason: Reason = "limit_exceeded",
    limit_micros: int = 2_000_000,
    spent_micros: int = 1_990_000,
    held_micros: int = 4_000,
    retry_after_ms: int | None = 725_400,
    transient: bool = True,
    chat_id: str | None = None,
) -> Violation:
    scope: Scope = "account_period" if chat_id is None else "chat_lifetime"
    return Violation(
        scope=scope,
        chat_id=chat_id,
        period=period if chat_id is None else "lifetime",
        reason=reason,
        limit_micros=limit_micros,
        spent_micros=spent_micros,
        held_micros=held_micros,
        remaining_micros=limit_micros - spent_micros - held_micros,
        retry_after_ms=retry_after_ms,
        transient=transient,
    )


def denied(first: Violation, *others: Violation, estimate_micros: int = 12_000) -> Denied:
    """As the Limiter puts violations together."""
    violations = [first, *others]
    waits = [each.retry_after_ms for each in violations]
    wait = None if None in waits else max(each for each in waits if each is not None)
    return Denied(
        reason=first.reason,
        scope=first.scope,
        exceeded_periods=[v.period for v in violations if v.scope == "account_period"],
        estimate_micros=estimate_micros,
        limit_micros=first.limit_micros,
        spent_micros=first.spent_micros,
        held_micros=first.held_micros,
        retry_after_ms=wait,
        resets_at=None if wait is None else RESETS_AT,
        violations=violations,
    )


BY_PERIODS = denied(violation("hourly"), violation("daily", limit_micros=1_994_001))
BY_CHAT = denied(
    violation(chat_id="c1", retry_after_ms=None, transient=False),
    violation("monthly"),
)


async def test_periods_deny_with_402_and_everything_that_binds() -> None:
    async with client_of(ToldLimiter(check=BY_PERIODS)) as client:
        response = await client.post("/check", json=CHECK)
    assert response.status_code == 402
    assert response.headers["retry-after"] == "726"
    assert response.headers["x-should-retry"] == "true"
    assert problem(response) == {
        **msgspec.to_builtins(BY_PERIODS),
        "type": "urn:limiter:problem:limit_exceeded",
        "title": "Limit exceeded",
        "status": 402,
        "detail": "The hourly limit is $2.00: $1.99 is spent and $0.004 is held, and this call may "
        f"cost $0.012. One more limit denies it. It fits from {RESETS_AT} on.",
        "code": "limit_exceeded",
    }
    assert response.json()["exceeded_periods"] == ["hourly", "daily"]
    assert response.json()["allowed"] is False


async def test_a_chat_denies_with_409_and_no_reset() -> None:
    async with client_of(ToldLimiter(check=BY_CHAT)) as client:
        response = await client.post("/check", json=CHECK)
    assert response.status_code == 409
    assert "retry-after" not in response.headers
    assert response.headers["x-should-retry"] == "false"
    body = problem(response)
    assert body["scope"] == "chat_lifetime"
    assert body["resets_at"] is None
    assert body["exceeded_periods"] == ["monthly"]
    assert [each["scope"] for each in body["violations"]] == ["chat_lifetime", "account_period"]
    assert body["detail"].startswith("The limit of chat c1 is $2.00: ")


async def test_without_redis_and_with_policy_deny_it_is_503() -> None:
    async with client_of(ToldLimiter(check=Refused())) as client:
        response = await client.post("/check", json=CHECK)
    assert response.status_code == 503
    assert response.headers["x-should-retry"] == "true"
    assert problem(response) == {
        "allowed": False,
        "degraded": True,
        "type": "urn:limiter:problem:redis_unavailable",
        "title": "Redis unavailable",
        "status": 503,
        "detail": "Redis cannot be reached, and the policy for that is to deny.",
        "code": "redis_unavailable",
    }


@pytest.mark.parametrize("denial", [BY_PERIODS, BY_CHAT, Refused()])
async def test_as_a_decision_it_is_200_with_the_same_body(denial: Denied | Refused) -> None:
    async with client_of(ToldLimiter(check=denial)) as client:
        plain = await client.post("/check", json=CHECK)
        also_plain = await client.post("/check?decision=false", json=CHECK)
        decision = await client.post("/check?decision=true", json=CHECK)
    assert decision.status_code == 200
    assert decision.headers["content-type"] == "application/json"
    assert decision.content == plain.content == also_plain.content
    assert plain.status_code == also_plain.status_code >= 400
    assert "retry-after" not in decision.headers
    assert "x-should-retry" not in decision.headers


@pytest.mark.parametrize(
    "query", ["decision=yes", "decision=", "decision", "decision=true&decision=true"]
)
async def test_a_decision_is_true_or_false(query: str) -> None:
    limiter = ToldLimiter(check=BY_PERIODS)
    async with client_of(limiter) as client:
        response = await client.post(f"/check?{query}", json=CHECK)
    assert response.status_code == 400
    assert problem(response)["field"] == "decision"
    assert limiter.calls == []


@pytest.mark.parametrize(
    ("retry_after_ms", "seconds"), [(1, "1"), (999, "1"), (1_000, "1"), (1_001, "2")]
)
async def test_retry_after_is_whole_seconds_rounded_up(retry_after_ms: int, seconds: str) -> None:
    denial = denied(violation(retry_after_ms=retry_after_ms))
    async with client_of(ToldLimiter(check=denial)) as client:
        response = await client.post("/check", json=CHECK)
    assert response.headers["retry-after"] == seconds


async def test_one_limit_that_time_does_not_mend_makes_retrying_useless() -> None:
    for others, should_retry in (
        ((), "true"),
        ((violation("daily", retry_after_ms=None, transient=True),), "true"),
        ((violation("daily", retry_after_ms=None, transient=False),), "false"),
    ):
        async with client_of(ToldLimiter(check=denied(violation(), *others))) as client:
            response = await client.post("/check", json=CHECK)
        assert response.headers["x-should-retry"] == should_retry


@pytest.mark.parametrize(
    ("denial", "code", "detail"),
    [
        (
            denied(
                violation(
                    reason="blocked",
                    limit_micros=0,
                    spent_micros=0,
                    held_micros=0,
                    retry_after_ms=None,
                    transient=False,
                )
            ),
            "blocked",
            "The hourly limit is $0.00: every call is blocked.",
        ),
        (
            denied(
                violation(
                    "daily", reason="estimate_exceeds_limit", retry_after_ms=None, transient=False
                ),
                estimate_micros=3_000_000,
            ),
            "estimate_exceeds_limit",
            "The daily limit is $2.00: a call that may cost $3.00 never fits.",
        ),
        (
            denied(violation(held_micros=10_000), estimate_micros=0),
            "limit_exceeded",
            (
                "The hourly limit is $2.00: $1.99 is spent and $0.01 is held. "
                f"It fits from {RESETS_AT} on."
            ),
        ),
        (
            denied(
                violation(chat_id="c1", retry_after_ms=None),
                violation(chat_id="c2", retry_after_ms=None),
                violation("weekly"),
            ),
            "limit_exceeded",
            (
                "The limit of chat c1 is $2.00: $1.99 is spent and $0.004 is held, and this call "
                "may cost $0.012. 2 more limits deny it."
            ),
        ),
    ],
)
def test_the_detail_is_a_sentence_with_dollars(denial: Denied, code: str, detail: str) -> None:
    described: Any = denial_problem(denial)
    assert described.code == code == denial.reason
    assert described.type == f"urn:limiter:problem:{code}"
    assert described.detail == detail
