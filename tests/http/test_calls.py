"""POST /check, /record and /release: what goes in, and what comes out with which status."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from limiter.errors import IdReused, RedisUnavailable, StoreUnavailable
from limiter.http import examples
from limiter.models import CheckRequest, RecordRequest, RecordUsage, ReleaseRequest
from tests.http.support import CHECK, RECORD, RELEASE, ToldLimiter, client_of, problem

ADMITTED = examples.ADMITTED["held"]
RECORDED = examples.RECORDED["charged"]
QUEUED = examples.QUEUED["in the ledger, until Redis is back"]
RELEASED = examples.RELEASED["given back"]


@pytest.mark.parametrize("name", examples.ADMITTED)
async def test_an_admitted_check_is_200_with_the_result_as_it_is(name: str) -> None:
    result = examples.ADMITTED[name]
    async with client_of(ToldLimiter(check=result)) as client:
        response = await client.post("/check", json=CHECK)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-store"
    assert response.json() == msgspec.to_builtins(result)


async def test_the_limiter_gets_the_body_as_a_struct() -> None:
    limiter = ToldLimiter(check=ADMITTED, record=RECORDED, release=RELEASED)
    async with client_of(limiter) as client:
        await client.post("/check", json=CHECK)
        await client.post("/record", json=RECORD)
        await client.post("/release", json=RELEASE)
    assert limiter.calls == [
        ("check", (CheckRequest(workspace_id="acme", estimate_micros=12_000),), {}),
        ("record", (RecordRequest(workspace_id="acme", cost_micros=9_000, event_id="e1"),), {}),
        ("release", (ReleaseRequest(workspace_id="acme", reservation_id="r1"),), {}),
    ]


@pytest.mark.parametrize("name", examples.CHECKS)
async def test_every_example_of_a_check_is_taken(name: str) -> None:
    limiter = ToldLimiter(check=ADMITTED)
    async with client_of(limiter) as client:
        content = msgspec.json.encode(examples.CHECKS[name])
        response = await client.post("/check", content=content)
    assert response.status_code == 200
    assert limiter.calls[0][1] == (examples.CHECKS[name],)


async def test_a_record_is_200_and_202_when_it_is_queued() -> None:
    for result, status in ((RECORDED, 200), (QUEUED, 202)):
        async with client_of(ToldLimiter(record=result)) as client:
            response = await client.post("/record", json=RECORD)
        assert response.status_code == status
        assert response.json() == msgspec.to_builtins(result)


async def test_a_release_is_200_whatever_it_found() -> None:
    for result in examples.RELEASED.values():
        async with client_of(ToldLimiter(release=result)) as client:
            response = await client.post("/release", json=RELEASE)
        assert response.status_code == 200
        assert response.json() == msgspec.to_builtins(result)


async def test_an_id_with_another_payload_is_422_and_names_the_field() -> None:
    async with client_of(ToldLimiter(record=IdReused("event_id", "e1"))) as client:
        response = await client.post("/record", json=RECORD)
    assert response.status_code == 422
    assert response.headers["x-should-retry"] == "false"
    assert problem(response) | {"detail": ""} == {
        "type": "urn:limiter:problem:id_reused",
        "title": "Id reused",
        "status": 422,
        "detail": "",
        "code": "id_reused",
        "field": "event_id",
    }


# --------------------------------------------------------------------------- Idempotency-Key


def _without_event_id(**more: Any) -> dict[str, Any]:
    return {"workspace_id": "acme", "cost_micros": 9_000, **more}


@pytest.mark.parametrize("key", ["call-1", '"call-1"'])
async def test_the_idempotency_key_is_the_event_id(key: str) -> None:
    limiter = ToldLimiter(record=RECORDED)
    async with client_of(limiter) as client:
        response = await client.post(
            "/record", json=_without_event_id(), headers={"Idempotency-Key": key}
        )
    assert response.status_code == 200
    assert limiter.calls[0][1] == (
        RecordRequest(workspace_id="acme", cost_micros=9_000, event_id="call-1"),
    )


async def test_key_and_event_id_may_be_the_same() -> None:
    limiter = ToldLimiter(record=RECORDED)
    async with client_of(limiter) as client:
        response = await client.post("/record", json=RECORD, headers={"Idempotency-Key": "e1"})
    assert response.status_code == 200


async def test_key_and_event_id_must_not_differ() -> None:
    limiter = ToldLimiter(record=RECORDED)
    async with client_of(limiter) as client:
        response = await client.post("/record", json=RECORD, headers={"Idempotency-Key": "e2"})
    assert problem(response)["field"] == "event_id"
    assert response.status_code == 400
    assert limiter.calls == []


@pytest.mark.parametrize(
    "key", ["", '""', '"', "a b", "a:b", "{a}", "x" * 129, "a\tb", "a/b", '"a', "ä"]
)
async def test_a_key_is_an_id_like_any_other(key: str) -> None:
    limiter = ToldLimiter(record=RECORDED)
    async with client_of(limiter) as client:
        response = await client.post(
            "/record",
            json=_without_event_id(),
            headers=[(b"Idempotency-Key", key.encode())],
        )
    assert response.status_code == 400
    assert problem(response)["field"] == "Idempotency-Key"
    assert limiter.calls == []


async def test_two_keys_must_not_differ() -> None:
    limiter = ToldLimiter(record=RECORDED)
    async with client_of(limiter) as client:
        headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
        response = await client.post("/record", json=_without_event_id(), headers=headers)
    assert response.status_code == 400
    assert problem(response)["field"] == "Idempotency-Key"
    assert limiter.calls == []


# --------------------------------------------------------------------------- unavailable


@pytest.mark.parametrize(
    ("body", "should_retry"),
    [
        (_without_event_id(), "false"),
        (_without_event_id(event_id="e1"), "true"),
        (_without_event_id(reservation_id="r1"), "true"),
        ({"workspace_id": "acme", "cumulative_micros": 5, "source": "s"}, "true"),
    ],
)
async def test_a_record_without_an_id_is_not_to_be_sent_again(
    body: dict[str, Any], should_retry: str
) -> None:
    async with client_of(ToldLimiter(record=StoreUnavailable("not now"))) as client:
        response = await client.post("/record", json=body)
    assert response.status_code == 503
    assert problem(response)["code"] == "store_unavailable"
    assert response.headers["x-should-retry"] == should_retry


async def test_the_key_makes_a_record_safe_to_send_again() -> None:
    async with client_of(ToldLimiter(record=RedisUnavailable("not now"))) as client:
        response = await client.post(
            "/record", json=_without_event_id(), headers={"Idempotency-Key": "e1"}
        )
    assert response.status_code == 503
    assert response.headers["x-should-retry"] == "true"


async def test_tokens_reach_the_limiter_as_sent() -> None:
    limiter = ToldLimiter(record=RECORDED)
    usage = {"model": "m", "input_tokens": 10, "output_tokens": 2, "cache_read_tokens": 4}
    async with client_of(limiter) as client:
        await client.post("/record", json={"workspace_id": "acme", "usage": usage})
    (record,) = limiter.calls[0][1]
    assert isinstance(record, RecordRequest)
    assert record.usage == RecordUsage(
        model="m", input_tokens=10, output_tokens=2, cache_read_tokens=4
    )
