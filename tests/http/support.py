"""What the tests of this folder share: a limiter that answers as told, and a client that reads
every answer against the OpenAPI document.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

import httpx2
from fastapi import FastAPI
from openapi_schema_validator import OAS31Validator

from limiter.http.app import create_app
from limiter.http.operations import OPERATIONS
from limiter.keyring import Keyring
from limiter.settings import Settings

CHECK = {"workspace_id": "acme", "estimate_micros": 12_000}
RECORD = {"workspace_id": "acme", "cost_micros": 9_000, "event_id": "e1"}
RELEASE = {"workspace_id": "acme", "reservation_id": "r1"}

# What a path's ids are replaced by to make an address of it.
IDS = {"{workspace_id}": "acme", "{chat_id}": "c1"}

# Every route that takes a body, with a body that it takes.
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/check"): CHECK,
    ("POST", "/record"): RECORD,
    ("POST", "/release"): RELEASE,
    ("PATCH", "/config/workspaces/{workspace_id}"): {"budget_limits": {"hourly": 1}},
    ("PUT", "/config/workspaces/{workspace_id}"): {"budget_limits": {"hourly": 1}},
    ("PATCH", "/config/workspaces/{workspace_id}/chats/{chat_id}"): {"spend_limit_micros": 1},
    ("PUT", "/config/workspaces/{workspace_id}/chats/{chat_id}"): {"spend_limit_micros": 1},
}
ROUTES = [(operation.method, operation.path) for operation in OPERATIONS]
ROUTES_WITH_IDS = [(method, path) for method, path in ROUTES if "{" in path]

# The Limiter's method behind every route that asks it.
METHODS = {
    ("POST", "/check"): "check",
    ("POST", "/record"): "record",
    ("POST", "/release"): "release",
    ("GET", "/config/workspaces/{workspace_id}"): "workspace_config",
    ("PATCH", "/config/workspaces/{workspace_id}"): "configure",
    ("PUT", "/config/workspaces/{workspace_id}"): "configure",
    ("GET", "/config/workspaces/{workspace_id}/chats/{chat_id}"): "chat_config",
    ("PATCH", "/config/workspaces/{workspace_id}/chats/{chat_id}"): "configure_chat",
    ("PUT", "/config/workspaces/{workspace_id}/chats/{chat_id}"): "configure_chat",
    ("DELETE", "/config/workspaces/{workspace_id}/chats/{chat_id}"): "delete_chat",
    ("GET", "/usage/workspaces/{workspace_id}"): "usage",
    ("GET", "/usage/workspaces/{workspace_id}/chats/{chat_id}"): "chat_usage",
    ("GET", "/readyz"): "readiness",
}


def address(path: str) -> str:
    """A route's path with ids in it."""
    for name, value in IDS.items():
        path = path.replace(name, value)
    return path


class ToldLimiter:
    """Stands where a Limiter stands, answers what it is told to, and remembers the calls."""

    def __init__(self, **answers: object) -> None:
        self._answers = answers
        self.calls: list[tuple[str, tuple[object, ...], dict[str, object]]] = []

    def __getattr__(self, method: str) -> Any:
        async def call(*args: object, **options: object) -> object:
            self.calls.append((method, args, options))
            answer = self._answers[method]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


@contextlib.asynccontextmanager
async def _no_lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield


def app_of(limiter: object, *, keyring: Keyring | None = None, **settings: Any) -> FastAPI:
    """The real app, in front of `limiter`. With a `keyring` it demands keys."""
    if keyring is not None:
        settings["auth"] = "keys"
    app = create_app(Settings(**settings), lifespan=_no_lifespan)
    app.state.limiter, app.state.keyring = limiter, keyring
    return app


class ReadAgainstOpenAPI(httpx2.ASGITransport):
    """Calls the app in this process, and checks that each answer is one that is documented."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(app)
        self._document = app.openapi()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        body = await response.aread()
        check_answer(self._document, request.method, request.url.path, response, body)
        return response


def check_answer(
    document: dict[str, Any], method: str, path: str, response: httpx2.Response, body: bytes
) -> None:
    """Fails unless the document has this status for the route, with a schema that fits."""
    operation = _operation(document, method, path)
    if operation is None:
        return
    described = operation["responses"].get(str(response.status_code))
    assert described is not None, f"{method} {path}: {response.status_code} is not documented"
    if "content" not in described:
        assert body == b""
        return
    media_type = response.headers["content-type"]
    schema = {**described["content"][media_type]["schema"], "components": document["components"]}
    is_text = media_type.startswith("text/")
    OAS31Validator(schema).validate(response.text if is_text else response.json())
    assert ("x-should-retry" in described.get("headers", {})) == (
        "x-should-retry" in response.headers
    )
    assert ("x-request-id" in described.get("headers", {})) == ("x-request-id" in response.headers)
    if "retry-after" in response.headers:
        assert "Retry-After" in described["headers"]


def _operation(document: dict[str, Any], method: str, path: str) -> dict[str, Any] | None:
    for template, operations in document["paths"].items():
        parts, wanted = path.split("/"), template.split("/")
        fits = len(parts) == len(wanted) and all(
            part == want or want.startswith("{") for part, want in zip(parts, wanted, strict=True)
        )
        if fits:
            return cast(dict[str, Any] | None, operations.get(method.lower()))
    return None


@contextlib.asynccontextmanager
async def client_of(
    limiter: object, *, keyring: Keyring | None = None, **settings: Any
) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the real app in front of `limiter`. With a `keyring` it demands keys."""
    transport = ReadAgainstOpenAPI(app_of(limiter, keyring=keyring, **settings))
    async with httpx2.AsyncClient(transport=transport, base_url="http://limiter") as client:
        yield client


def problem(response: httpx2.Response) -> dict[str, Any]:
    """A problem's body, after looking at what all problems have in common."""
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    body: dict[str, Any] = response.json()
    assert body["status"] == response.status_code
    assert body["type"] == f"urn:limiter:problem:{body['code']}"
    assert body["title"]
    return body


def base_body(path: str) -> dict[str, Any]:
    """A body that the route at this address takes."""
    for method, template in BODIES:
        if address(template) == path and method != "PUT":
            return dict(BODIES[method, template])
    raise AssertionError(path)


async def send(path: str, content: bytes) -> tuple[httpx2.Response, ToldLimiter]:
    """Sends a body to an address, in front of a limiter that must not be asked."""
    limiter = ToldLimiter()
    method = "PATCH" if path.startswith("/config") else "POST"
    async with client_of(limiter) as client:
        return await client.request(method, path, content=content), limiter


def assert_refused(response: httpx2.Response, limiter: ToldLimiter) -> dict[str, Any]:
    """A 400 that nothing was done for, and that shows nothing raw."""
    assert response.status_code == 400
    assert response.headers["x-should-retry"] == "false"
    assert limiter.calls == []
    body = problem(response)
    assert body["code"] == "invalid_request"
    for text in (*body, *(value for value in body.values() if isinstance(value, str))):
        assert text.isascii()
        assert text.isprintable()
        assert len(text) < 400
    for name, value in response.headers.items():
        assert "\r" not in value
        assert name != "x-evil"
    return body
