"""Configuration, usage and health: what reaches the Limiter, and what comes back."""

from __future__ import annotations

import msgspec
import pytest

from limiter.http import examples
from limiter.models import WorkspacePatch
from tests.http.support import ToldLimiter, client_of, problem

WORKSPACE_CONFIG = examples.WORKSPACE_CONFIGS["limits by the hour and the day"]
CHAT_CONFIG = examples.CHAT_CONFIGS["a root"]
WORKSPACE_USAGE = examples.WORKSPACE_USAGES["one call under way"]
CHAT_USAGE = examples.CHAT_USAGES["a sub-agent"]


async def test_a_workspace_is_read() -> None:
    limiter = ToldLimiter(workspace_config=WORKSPACE_CONFIG, usage=WORKSPACE_USAGE)
    async with client_of(limiter) as client:
        config = await client.get("/config/workspaces/acme")
        usage = await client.get("/usage/workspaces/acme")
    assert config.status_code == usage.status_code == 200
    assert config.json() == msgspec.to_builtins(WORKSPACE_CONFIG)
    assert usage.json() == msgspec.to_builtins(WORKSPACE_USAGE)
    assert config.headers["cache-control"] == "no-store"
    assert limiter.calls == [("workspace_config", ("acme",), {}), ("usage", ("acme",), {})]


@pytest.mark.parametrize(("method", "replace"), [("PATCH", False), ("PUT", True)])
@pytest.mark.parametrize("name", examples.WORKSPACE_PATCHES)
async def test_a_workspace_is_configured(method: str, replace: bool, name: str) -> None:
    patch = examples.WORKSPACE_PATCHES[name]
    limiter = ToldLimiter(configure=WORKSPACE_CONFIG)
    async with client_of(limiter) as client:
        content = msgspec.json.encode(patch)
        response = await client.request(method, "/config/workspaces/acme", content=content)
    assert response.status_code == 200
    assert response.json() == msgspec.to_builtins(WORKSPACE_CONFIG)
    assert limiter.calls == [("configure", ("acme", patch), {"replace": replace, "actor": "http"})]


async def test_what_a_patch_does_not_name_is_unset_and_null_is_not() -> None:
    limiter = ToldLimiter(configure=WORKSPACE_CONFIG)
    async with client_of(limiter) as client:
        await client.patch("/config/workspaces/acme", json={})
        await client.patch("/config/workspaces/acme", json={"budget_limit": None})
    (_, (_, nothing), _), (_, (_, removal), _) = limiter.calls
    assert nothing == WorkspacePatch()
    assert isinstance(removal, WorkspacePatch)
    assert removal.budget_limit is None
    assert removal.budget_limits is msgspec.UNSET


async def test_a_chat_is_read() -> None:
    limiter = ToldLimiter(chat_config=CHAT_CONFIG, chat_usage=CHAT_USAGE)
    async with client_of(limiter) as client:
        config = await client.get("/config/workspaces/acme/chats/c1")
        usage = await client.get("/usage/workspaces/acme/chats/c1")
    assert config.status_code == usage.status_code == 200
    assert config.json() == msgspec.to_builtins(CHAT_CONFIG)
    assert usage.json() == msgspec.to_builtins(CHAT_USAGE)
    assert limiter.calls == [
        ("chat_config", ("acme", "c1"), {}),
        ("chat_usage", ("acme", "c1"), {}),
    ]


@pytest.mark.parametrize(("method", "replace"), [("PATCH", False), ("PUT", True)])
@pytest.mark.parametrize("name", examples.CHAT_PATCHES)
async def test_a_chat_is_configured(method: str, replace: bool, name: str) -> None:
    patch = examples.CHAT_PATCHES[name]
    limiter = ToldLimiter(configure_chat=CHAT_CONFIG)
    path = "/config/workspaces/acme/chats/c1"
    async with client_of(limiter) as client:
        response = await client.request(method, path, content=msgspec.json.encode(patch))
    assert response.status_code == 200
    assert response.json() == msgspec.to_builtins(CHAT_CONFIG)
    assert limiter.calls == [
        ("configure_chat", ("acme", "c1", patch), {"replace": replace, "actor": "http"})
    ]


async def test_deleting_a_chats_limit_is_204_without_a_body() -> None:
    limiter = ToldLimiter(delete_chat=None)
    async with client_of(limiter) as client:
        response = await client.delete("/config/workspaces/acme/chats/c1")
    assert response.status_code == 204
    assert response.content == b""
    assert "content-length" not in response.headers
    assert limiter.calls == [("delete_chat", ("acme", "c1"), {"actor": "http"})]


async def test_ids_may_be_percent_encoded() -> None:
    limiter = ToldLimiter(usage=WORKSPACE_USAGE)
    async with client_of(limiter) as client:
        response = await client.get("/usage/workspaces/a%2Db%40c")
    assert response.status_code == 200
    assert limiter.calls == [("usage", ("a-b@c",), {})]


async def test_head_is_get() -> None:
    limiter = ToldLimiter(usage=WORKSPACE_USAGE)
    async with client_of(limiter) as client:
        response = await client.head("/usage/workspaces/acme")
    assert response.status_code == 200
    assert response.headers["content-length"] == str(len(msgspec.json.encode(WORKSPACE_USAGE)))


# --------------------------------------------------------------------------- health


async def test_the_process_lives_whatever_else_does_not() -> None:
    limiter = ToldLimiter()
    async with client_of(limiter) as client:
        response = await client.get("/healthz?at=1")
    assert response.status_code == 200
    assert response.json() == {"alive": True}
    assert limiter.calls == []


async def test_readiness_is_503_until_everything_answers() -> None:
    for readiness in (*examples.READY.values(), *examples.NOT_READY.values()):
        async with client_of(ToldLimiter(readiness=readiness)) as client:
            response = await client.get("/readyz?at=1")
        assert response.status_code == (200 if readiness.ready else 503)
        assert response.headers["content-type"] == "application/json"
        assert response.json() == msgspec.to_builtins(readiness)


# --------------------------------------------------------------------------- queries


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/check"),
        ("POST", "/record"),
        ("POST", "/release"),
        ("GET", "/config/workspaces/acme"),
        ("PATCH", "/config/workspaces/acme"),
        ("DELETE", "/config/workspaces/acme/chats/c1"),
        ("GET", "/usage/workspaces/acme"),
        ("GET", "/usage/workspaces/acme/chats/c1"),
    ],
)
async def test_a_parameter_that_does_nothing_is_refused(method: str, path: str) -> None:
    limiter = ToldLimiter()
    async with client_of(limiter) as client:
        response = await client.request(method, f"{path}?decison%0A=true")
    assert response.status_code == 400
    assert problem(response)["field"] == "decison\\n"
    assert limiter.calls == []
