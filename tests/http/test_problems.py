"""The table of errors: every class has its status, its code and its words, and none leaks."""

from __future__ import annotations

import logging
from typing import Annotated

import httpx2
import pytest
from fastapi import Query

from limiter import errors
from limiter.errors import LimiterError, ScriptError, StartupError
from limiter.http import bodies
from limiter.http.bodies import RequestError
from limiter.http.operations import OPERATIONS
from limiter.http.problems import KINDS, kind_of, problem_of, title_of
from tests.http.support import (
    BODIES,
    METHODS,
    ToldLimiter,
    address,
    app_of,
    client_of,
    problem,
)

# By code: what a client may rely on.
STATUSES = {
    "invalid_request": (400, "false"),
    "counter_overflow": (400, "false"),
    "unauthenticated": (401, "false"),
    "forbidden": (403, "false"),
    "workspace_not_found": (404, "false"),
    "chat_not_found": (404, "false"),
    "reservation_not_found": (404, "false"),
    "body_too_slow": (408, "true"),
    "body_too_large": (413, "false"),
    "unsupported_media_type": (415, "false"),
    "id_reused": (422, "false"),
    "reservation_settled": (422, "false"),
    "reservation_chat_mismatch": (422, "false"),
    "chat_parent_unknown": (422, "false"),
    "chat_parent_immutable": (422, "false"),
    "chat_cycle": (422, "false"),
    "chat_too_deep": (422, "false"),
    "model_unpriced": (422, "false"),
    "redis_unavailable": (503, "true"),
    "store_unavailable": (503, "true"),
    "not_in_force_yet": (503, "true"),
    "script_error": (500, "false"),
    "internal_error": (500, "false"),
}
# Classes that are never raised themselves, and what only commands raise.
BASES = {"limiter_error", "access_denied", "not_found", "conflict", "unavailable"}
COMMANDS = {"startup", "key_not_found"}
# What a connection is told before there is a route.
CONNECTIONS = {"head_too_large"}

EXAMPLES = {
    problem_of(error).code: (operation, error)
    for operation in OPERATIONS
    for error in operation.errors
    if (operation.method, operation.path) in METHODS
}


def _all_classes(base: type[Exception]) -> set[type[Exception]]:
    return {base}.union(*(_all_classes(each) for each in base.__subclasses__()))


def test_every_error_has_a_status_and_an_example() -> None:
    raised = _all_classes(LimiterError) | _all_classes(RequestError) - {RequestError}
    ours = {each for each in raised if each.__module__ in (errors.__name__, bodies.__name__)}
    codes = {each.code for each in ours if issubclass(each, (LimiterError, RequestError))}
    assert codes - BASES - COMMANDS - CONNECTIONS == set(STATUSES) - {"internal_error"}
    assert set(EXAMPLES) == set(STATUSES)


def test_no_error_falls_through_to_the_last_row() -> None:
    for error in _all_classes(LimiterError) - {LimiterError, StartupError}:
        if error.__module__ == errors.__name__:
            assert kind_of(error) is not KINDS[Exception]


@pytest.mark.parametrize("code", STATUSES)
async def test_an_error_is_answered_by_the_table(code: str) -> None:
    operation, error = EXAMPLES[code]
    route = operation.method, operation.path
    async with client_of(ToldLimiter(**{METHODS[route]: error})) as client:
        response = await client.request(
            operation.method, address(operation.path), json=BODIES.get(route)
        )
    body = problem(response)
    assert (response.status_code, response.headers["x-should-retry"]) == STATUSES[code]
    assert body["code"] == code
    assert body["title"] == title_of(code)
    assert body.get("detail") == (None if code == "internal_error" else str(error))


async def test_what_nobody_foresaw_is_500_and_tells_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    secret = "redis://user:password@host"
    for (method, path), name in METHODS.items():
        caplog.clear()
        async with client_of(ToldLimiter(**{name: RuntimeError(secret)})) as client:
            response = await client.request(method, address(path), json=BODIES.get((method, path)))
        assert response.status_code == 500
        assert problem(response) == {
            "type": "urn:limiter:problem:internal_error",
            "title": "Internal error",
            "status": 500,
            "code": "internal_error",
        }
        assert secret not in response.text
        assert len(caplog.records) == 1
        assert caplog.records[0].levelno == logging.ERROR
        assert caplog.records[0].exc_info is not None


async def test_a_script_error_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with client_of(ToldLimiter(usage=ScriptError("usage.lua, line 3: no"))) as client:
        response = await client.get("/usage/workspaces/acme")
    assert response.status_code == 500
    assert "usage.lua, line 3: no" in caplog.text


# --------------------------------------------------------------------------- the router's own


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/checks",
        "/check/",
        "/config",
        "/config/workspaces",
        "/config/workspaces/",
        "/config/workspaces/acme/",
        "/config/workspaces/acme/chats",
        "/config/workspaces/acme/chats/",
        "/config/workspaces//chats/c1",
        "/usage/workspaces/acme/chats/c1/more",
        # A slash in an id makes it another path.
        "/config/workspaces/a%2Fb",
        "/usage/workspaces/%2E%2E%2Fcheck",
        "/redoc",
        "/docs/oauth2-redirect",
    ],
)
async def test_no_such_route(path: str) -> None:
    limiter = ToldLimiter()
    async with client_of(limiter) as client:
        for method in ("GET", "POST"):
            response = await client.request(method, path, follow_redirects=False)
            assert response.status_code == 404
            assert problem(response)["code"] == "not_found"
            assert response.headers["x-should-retry"] == "false"
            assert "location" not in response.headers
    assert limiter.calls == []


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/check", {"POST"}),
        ("PUT", "/record", {"POST"}),
        ("OPTIONS", "/release", {"POST"}),
        ("POST", "/config/workspaces/acme", {"GET", "HEAD", "PATCH", "PUT"}),
        ("DELETE", "/config/workspaces/acme", {"GET", "HEAD", "PATCH", "PUT"}),
        ("POST", "/config/workspaces/acme/chats/c1", {"GET", "HEAD", "PATCH", "PUT", "DELETE"}),
        ("POST", "/usage/workspaces/acme", {"GET", "HEAD"}),
        ("DELETE", "/usage/workspaces/acme/chats/c1", {"GET", "HEAD"}),
        ("POST", "/healthz", {"GET", "HEAD"}),
        ("TRACE", "/readyz", {"GET", "HEAD"}),
    ],
)
async def test_no_such_method(method: str, path: str, allowed: set[str]) -> None:
    limiter = ToldLimiter()
    async with client_of(limiter) as client:
        response = await client.request(method, path)
    assert response.status_code == 405
    assert problem(response)["code"] == "method_not_allowed"
    assert set(response.headers["allow"].split(", ")) == allowed
    assert limiter.calls == []


async def test_routes_that_fastapi_makes_speak_the_same_problems() -> None:
    app = app_of(ToldLimiter())

    @app.get("/later")
    async def later(count: Annotated[int, Query(le=10)]) -> dict[str, int]:
        if count < 0:
            raise ScriptError("x.lua, line 1: no")
        return {"count": count}

    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://limiter") as client:
        assert (await client.get("/later?count=1")).json() == {"count": 1}
        bad = await client.get("/later?count=x%1B")
        failed = await client.get("/later?count=-1")
        document = (await client.get("/openapi.json")).json()
    assert bad.status_code == 400
    assert problem(bad)["code"] == "invalid_request"
    assert problem(bad)["field"] == "count"
    assert failed.status_code == 500
    assert problem(failed)["code"] == "script_error"
    assert {"/later", "/check"} <= set(document["paths"])
    assert {"CheckRequest", "HTTPValidationError"} <= set(document["components"]["schemas"])
