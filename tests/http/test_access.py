"""Keys in front of the routes: who is let through, and what those hear who are not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from limiter import logs
from limiter.access import Demand, Role, demand_of, demands
from limiter.durable import Storage
from limiter.errors import StoreUnavailable
from limiter.http import examples
from limiter.http.access import Guard
from limiter.http.answers import Answer
from limiter.http.endpoint import Endpoint
from limiter.http.operations import OPERATIONS
from limiter.keyring import Keyring
from limiter.worker import worker_app
from tests.http.support import BODIES, ToldLimiter, address, app_of, client_of, problem
from tests.support.api_keys import MadeKey, added_key, new_key

# What describes the service, and has nothing of anybody.
OPEN_PAGES = {"/openapi.json"}
Way = tuple[str, str]
DEMANDS: dict[Way, Demand] = {(each.method, each.path): each.demand for each in OPERATIONS}
GUARDED = [route for route, demand in DEMANDS.items() if demand is not Demand.NOTHING]
OF_CALLERS = [route for route, demand in DEMANDS.items() if demand is Demand.CALLER]

UNFIT = [
    (role, route)
    for role, demand in (("caller", Demand.CALLER), ("monitor", Demand.MONITOR))
    for route in GUARDED
    if DEMANDS[route] is not demand
]


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    async with Storage(f"sqlite:///{tmp_path}/limiter.db") as storage:
        yield storage


@pytest.fixture
def keyring(storage: Storage) -> Keyring:
    return Keyring(storage.api_keys)


def body_of(route: Way, workspace_id: str) -> dict[str, Any] | None:
    body = BODIES.get(route)
    return body and {**body, "workspace_id": workspace_id}


def path_of(route: Way, workspace_id: str) -> str:
    return address(route[1].replace("{workspace_id}", workspace_id))


# ------------------------------------------------------------------ what routes declare


def undeclared(routes: list[BaseRoute]) -> list[str]:
    """The paths of routes of which nothing says what they demand."""
    found = []
    for route in routes:
        assert isinstance(route, Route)
        if route.path in OPEN_PAGES:
            continue
        by_method = getattr(route.endpoint, "demands", None)
        if by_method is not None:
            if set(by_method) - {"HEAD"} != (route.methods or set()) - {"HEAD"}:
                found.append(route.path)
            continue
        try:
            demand_of(route.endpoint)
        except TypeError:
            found.append(route.path)
    return found


def test_every_route_of_a_worker_declares_what_it_demands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMITER_SUPERVISOR_PID", "1")
    monkeypatch.setenv("LIMITER_METRICS_FOLDER", str(tmp_path))
    # This process is no worker, and its log is that of the tests.
    monkeypatch.setattr(logs, "set_up", lambda _: None)
    routes = worker_app().routes
    assert len(routes) > len({path for _, path in DEMANDS})
    assert undeclared(routes) == []


def test_a_route_that_declares_nothing_is_found() -> None:
    async def bare(_: Request) -> Answer:
        return Answer(200, b"")

    @demands(Demand.ADMIN)
    async def declared(_: Request) -> Response:
        return Response()

    app: FastAPI = app_of(ToldLimiter())
    app.add_route("/bare", bare)
    app.add_route("/declared", declared)
    assert undeclared(app.routes) == ["/bare"]
    for guard in (None, Guard(app.state)):
        with pytest.raises(TypeError, match="demand"):
            Endpoint({"GET": bare}, guard)


def test_the_document_says_what_the_handlers_declare() -> None:
    declared = {
        (method, route.path): demand
        for route in app_of(ToldLimiter()).routes
        if isinstance(route, Route) and isinstance(route.endpoint, Endpoint)
        for method, demand in route.endpoint.demands.items()
    }
    # The page that shows the document is not in it.
    assert declared.pop(("GET", "/docs")) is Demand.NOTHING
    assert declared == DEMANDS


def test_the_document_has_the_schemes_and_where_they_are_needed() -> None:
    document = app_of(ToldLimiter()).openapi()
    schemes = document["components"]["securitySchemes"]
    assert {scheme["type"] for scheme in schemes.values()} == {"http", "apiKey"}
    for (method, path), demand in DEMANDS.items():
        operation = document["paths"][path][method.lower()]
        is_open = demand is Demand.NOTHING
        assert operation["security"] == ([] if is_open else [{name: []} for name in schemes])
        assert ("401" in operation["responses"]) is not is_open


# ------------------------------------------------------------------ without a valid key


def spoilt(made: MadeKey) -> str:
    return made.text[:-1] + ("0" if made.text[-1] != "0" else "1")


@pytest.mark.parametrize("route", GUARDED, ids=" ".join)
async def test_without_a_valid_key_nothing_is_done(
    storage: Storage, keyring: Keyring, route: Way
) -> None:
    admin, revoked = (
        await added_key(storage, "admin"),
        await added_key(storage, "admin", revoked_at_ms=2),
    )
    limiter = ToldLimiter()
    presented: list[dict[str, str]] = [
        {},
        {"authorization": admin.text},
        {"authorization": "Basic bGltOg=="},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer secret"},
        {"authorization": f"Bearer {spoilt(admin)}"},
        {"authorization": f"Bearer {new_key('admin').text}"},
        {"authorization": f"Bearer {revoked.text}"},
        {"authorization": f"Bearer {admin.text}", "x-api-key": revoked.text},
        {"x-api-key": f"Bearer {admin.text}"},
        {"x-api-key": ""},
    ]
    async with client_of(limiter, keyring=keyring) as client:
        for headers in presented:
            # A body that is none: it is not looked at.
            response = await client.request(
                route[0], path_of(route, "acme"), content=b"{", headers=headers
            )
            assert response.status_code == 401, headers
            assert response.headers["www-authenticate"] == 'Bearer realm="limiter"'
            body = problem(response)
            assert body["code"] == "unauthenticated"
            for key in (admin, revoked):
                assert key.text[21:] not in response.text
    assert limiter.calls == []


async def test_while_the_store_is_away_an_unknown_key_is_503_and_no_pass(
    storage: Storage, keyring: Keyring
) -> None:
    known, other = [await added_key(storage, "caller") for _ in range(2)]
    limiter = ToldLimiter(check=examples.ADMITTED["held"])
    check = BODIES["POST", "/check"]
    async with client_of(limiter, keyring=keyring) as client:
        assert (await client.post("/check", json=check, headers=known.headers)).status_code == 200
        await storage.close()
        assert (await client.post("/check", json=check, headers=known.headers)).status_code == 200
        unknown = await client.post("/check", json=check, headers=other.headers)
    assert unknown.status_code == 503
    assert problem(unknown)["code"] == StoreUnavailable.code
    assert len(limiter.calls) == 2


# ------------------------------------------------------------------ with one


async def test_both_headers_are_read(storage: Storage, keyring: Keyring) -> None:
    made = await added_key(storage, "caller", "acme")
    limiter = ToldLimiter(check=examples.ADMITTED["held"])
    accepted: list[dict[str, str]] = [
        made.headers,
        {"authorization": f"bearer   {made.text}"},
        {"x-api-key": made.text},
        {"x-api-key": made.text, **made.headers},
        # What a proxy on the way asks for is not for us.
        {"x-api-key": made.text, "authorization": "Basic bGltOg=="},
    ]
    async with client_of(limiter, keyring=keyring) as client:
        for headers in accepted:
            response = await client.post("/check", json=BODIES["POST", "/check"], headers=headers)
            assert response.status_code == 200, headers
    assert len(limiter.calls) == len(accepted)


@pytest.mark.parametrize(("role", "route"), UNFIT)
async def test_a_role_that_does_not_fit_is_403_before_the_body_is_read(
    storage: Storage, keyring: Keyring, role: Role, route: Way
) -> None:
    made = await added_key(storage, role)
    limiter = ToldLimiter()
    async with client_of(limiter, keyring=keyring) as client:
        response = await client.request(
            route[0], path_of(route, "acme"), content=b"{", headers=made.headers
        )
    assert response.status_code == 403
    assert problem(response)["code"] == "forbidden"
    assert limiter.calls == []


@pytest.mark.parametrize("route", OF_CALLERS, ids=" ".join)
async def test_of_other_workspaces_a_caller_hears_the_same_whether_they_exist_or_not(
    storage: Storage, keyring: Keyring, route: Way
) -> None:
    made = await added_key(storage, "caller", "acme")
    limiter = ToldLimiter()
    answers = []
    async with client_of(limiter, keyring=keyring) as client:
        for workspace_id in ("zeta", "nowhere", "acme2", "ACME"):
            response = await client.request(
                route[0],
                path_of(route, workspace_id),
                json=body_of(route, workspace_id),
                headers={**made.headers, "x-request-id": "one"},
            )
            assert response.status_code == 403
            assert problem(response)["code"] == "forbidden"
            answers.append((response.content, list(response.headers.items())))
    assert answers == [answers[0]] * 4
    # Neither Redis nor the store was asked.
    assert limiter.calls == []


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("PATCH", "/config/workspaces/acme", "configure"),
        ("PUT", "/config/workspaces/acme", "configure"),
        ("PATCH", "/config/workspaces/acme/chats/c1", "configure_chat"),
        ("PUT", "/config/workspaces/acme/chats/c1", "configure_chat"),
        ("DELETE", "/config/workspaces/acme/chats/c1", "delete_chat"),
    ],
)
async def test_the_audit_is_told_the_key_and_not_the_secret(
    storage: Storage, keyring: Keyring, method: str, path: str, name: str
) -> None:
    made = await added_key(storage, "admin")
    limiter = ToldLimiter(
        configure=examples.WORKSPACE_CONFIGS["limits by the hour and the day"],
        configure_chat=examples.CHAT_CONFIGS["a root"],
        delete_chat=None,
    )
    async with client_of(limiter, keyring=keyring) as client:
        response = await client.request(
            method, path, content=None if method == "DELETE" else b"{}", headers=made.headers
        )
    assert response.is_success
    ((called, _, options),) = limiter.calls
    assert (called, options["actor"]) == (name, f"key:{made.key.key_id}")


async def test_what_is_open_asks_nobody(storage: Storage, keyring: Keyring) -> None:
    limiter = ToldLimiter(readiness=next(iter(examples.READY.values())))
    nobody = {"authorization": f"Bearer {new_key('admin').text}"}
    async with client_of(limiter, keyring=keyring) as client:
        for path in ("/healthz", "/readyz", *OPEN_PAGES):
            for headers in ({}, nobody):
                assert (await client.get(path, headers=headers)).status_code == 200


async def test_where_no_keys_are_demanded_none_is_looked_at() -> None:
    limiter = ToldLimiter(check=examples.ADMITTED["held"])
    async with client_of(limiter) as client:
        for headers in ({}, {"authorization": "Bearer nonsense"}, {"x-api-key": ""}):
            response = await client.post("/check", json=BODIES["POST", "/check"], headers=headers)
            assert response.status_code == 200
