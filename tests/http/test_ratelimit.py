"""RateLimit and RateLimit-Policy: structured fields that say what the body says."""

from __future__ import annotations

from typing import Any, cast

import httpx2
import msgspec
import pytest
from http_sf import parse, ser

from limiter.http import examples
from limiter.models import Admitted, ChatUsage, Denied, Recorded
from limiter.periods import PERIODS
from tests.http.support import CHECK, RECORD, ToldLimiter, client_of

USAGE = examples.WORKSPACE_USAGES["one call under way"]
CHAT_USAGE = examples.CHAT_USAGES["a sub-agent"]
DENIALS = {**examples.DENIED_BY_PERIOD, **examples.DENIED_BY_CHAT}
FIELDS = tuple(Denied.__struct_fields__)


def parsed(response: httpx2.Response) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both fields by the name of the limit."""
    policy = parse(response.headers["ratelimit-policy"].encode(), tltype="list")
    left = parse(response.headers["ratelimit"].encode(), tltype="list")
    return dict(cast(Any, policy)), dict(cast(Any, left))


def denied(name: str, **changes: object) -> Denied:
    told = msgspec.structs.asdict(DENIALS[name])
    return Denied(**{field: told[field] for field in FIELDS} | changes)


@pytest.mark.parametrize("name", DENIALS)
async def test_a_denial_has_the_limits_that_bind(name: str) -> None:
    denial = denied(name)
    async with client_of(ToldLimiter(check=denial)) as client:
        policy, left = parsed(await client.post("/check", json=CHECK))
    windows = {period.name: period.window_ms // 1_000 for period in PERIODS}
    assert list(policy) == list(left) == [violation.period for violation in denial.violations]
    for violation in denial.violations:
        assert policy[violation.period] == {
            "q": violation.limit_micros,
            "qu": "micros",
            **({"w": windows[violation.period]} if violation.period in windows else {}),
        }
        expected = {"r": violation.remaining_micros}
        if violation.retry_after_ms is not None:
            expected["t"] = -(-violation.retry_after_ms // 1_000)
        assert left[violation.period] == expected


OF_A_LIMITED_CHAT = msgspec.structs.replace(
    next(answer for answer in examples.ADMITTED.values() if answer.chat is not None),
    chat=msgspec.convert(
        {field: getattr(CHAT_USAGE, field) for field in ChatUsage.__struct_fields__}
        | {"limit_micros": 9_000, "remaining_micros": 7},
        ChatUsage,
    ),
)
COUNTED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("/check", CHECK, {"check": OF_A_LIMITED_CHAT}),
    *(("/check", CHECK, {"check": answer}) for answer in examples.ADMITTED.values()),
    *(("/record", RECORD, {"record": answer}) for answer in examples.RECORDED.values()),
    *(("/record", RECORD, {"record": answer}) for answer in examples.QUEUED.values()),
]


@pytest.mark.parametrize(("path", "body", "told"), COUNTED)
async def test_what_is_counted_tells_every_limit_where_that_is_wanted(
    path: str, body: dict[str, Any], told: dict[str, Admitted | Recorded]
) -> None:
    (answer,) = told.values()
    limits: dict[str, tuple[int, int | None]] = {
        name: (usage.limit_micros, usage.remaining_micros)
        for name, usage in answer.periods.items()
        if usage.limit_micros is not None
    }
    if answer.chat is not None and answer.chat.limit_micros is not None:
        limits["lifetime"] = (answer.chat.limit_micros, answer.chat.remaining_micros)
    async with client_of(ToldLimiter(**told)) as client:
        silent = await client.post(path, json=body)
    assert "ratelimit" not in silent.headers
    async with client_of(ToldLimiter(**told), ratelimit_headers="all") as client:
        response = await client.post(path, json=body)
    assert response.is_success
    assert response.content == silent.content
    if not limits:
        assert "ratelimit" not in response.headers
        return
    policy, left = parsed(response)
    assert {name: (policy[name]["q"], left[name]["r"]) for name in policy} == limits
    # All of it is as the library writes it.
    again = [(name, {"r": remaining}) for name, (_, remaining) in limits.items()]
    assert response.headers["ratelimit"] == ser(cast(Any, again))


async def test_usage_has_the_limits_that_there_are() -> None:
    async with client_of(ToldLimiter(usage=USAGE, chat_usage=CHAT_USAGE)) as client:
        policy, left = parsed(await client.get("/usage/workspaces/acme"))
        limited = {
            name: usage for name, usage in USAGE.periods.items() if usage.limit_micros is not None
        }
        assert limited
        assert {name: told["q"] for name, told in policy.items()} == {
            name: usage.limit_micros for name, usage in limited.items()
        }
        assert {name: told["r"] for name, told in left.items()} == {
            name: usage.remaining_micros for name, usage in limited.items()
        }
        chat = await client.get("/usage/workspaces/acme/chats/c1")
        assert ("ratelimit" in chat.headers) == (CHAT_USAGE.limit_micros is not None)


@pytest.mark.parametrize(
    ("limit_micros", "remaining_micros", "told"),
    [(5, -3, (5, 0)), (0, 0, (0, 0)), (None, None, None), (10**15 - 1, 1, (10**15 - 1, 1))],
)
async def test_a_limit_at_its_edges(
    limit_micros: int | None, remaining_micros: int | None, told: tuple[int, int] | None
) -> None:
    usage = msgspec.structs.replace(
        CHAT_USAGE, limit_micros=limit_micros, remaining_micros=remaining_micros
    )
    async with client_of(ToldLimiter(chat_usage=usage)) as client:
        response = await client.get("/usage/workspaces/acme/chats/c1")
    if told is None:
        assert "ratelimit" not in response.headers
        assert "ratelimit-policy" not in response.headers
        return
    policy, left = parsed(response)
    assert (policy["lifetime"]["q"], left["lifetime"]["r"]) == told
    assert "w" not in policy["lifetime"]


async def test_a_limit_that_no_structured_field_can_say_is_left_out() -> None:
    usage = msgspec.structs.replace(CHAT_USAGE, limit_micros=10**15, remaining_micros=10**15)
    async with client_of(ToldLimiter(chat_usage=usage)) as client:
        response = await client.get("/usage/workspaces/acme/chats/c1")
    assert response.status_code == 200
    assert "ratelimit" not in response.headers


async def test_of_several_chats_the_first_is_told() -> None:
    (violation,) = denied("the tree of c1 has spent its limit").violations
    above = msgspec.structs.replace(violation, chat_id="c0", limit_micros=7, remaining_micros=1)
    denial = denied("the tree of c1 has spent its limit", violations=[violation, above])
    async with client_of(ToldLimiter(check=denial)) as client:
        policy, left = parsed(await client.post("/check", json=CHECK))
    assert [told["q"] for told in policy.values()] == [violation.limit_micros]
    assert [told["r"] for told in left.values()] == [violation.remaining_micros]
