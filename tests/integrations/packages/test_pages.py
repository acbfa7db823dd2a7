"""The examples of the how-to pages are code that runs, with the packages that they name."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import litellm
import pytest
import yaml

from limiter.client import AsyncClient, Client
from limiter.client.integrations.litellm import LimitCallback
from limiter.client.integrations.payer import Payer, current_payer

HOWTO = Path(__file__).parents[3] / "docs" / "howto"
PAGES = ["integrations.md", "litellm.md", "gateway.md"]


def blocks(page: str, language: str) -> list[str]:
    text = (HOWTO / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
async def closing() -> AsyncIterator[list[Any]]:
    made: list[Any] = []
    yield made
    for client in made:
        if isinstance(client, AsyncClient):
            await client.aclose()
        elif isinstance(client, Client):
            client.close()


@pytest.mark.parametrize("page", PAGES)
async def test_the_examples_run(
    page: str, closing: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "not-a-key")
    paid: list[Payer] = []

    async def sub_agent(*_: object) -> None:
        paid.append(current_payer(Payer("nobody")))

    names: dict[str, Any] = {"asyncio": asyncio, "sub_agent": sub_agent}
    for block in blocks(page, "python"):
        code = compile(block, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        running = eval(code, names)  # noqa: S307  # our own page
        if inspect.isawaitable(running):
            await running
        closing.extend(names.values())
    if page == "integrations.md":
        assert paid == [Payer("acme", f"sub-{n}", parent_chat_id="chat-1") for n in range(3)]
    if page == "litellm.md":
        assert isinstance(names["callback"], LimitCallback)
        team = {"user_api_key_team_id": "acme", "requester_metadata": {"chat_id": "c1"}}
        assert names["payer_of"](team) == Payer("acme", "c1")
        assert names["payer_of"]({}) == Payer("no-team")
        assert len(litellm.callbacks) == 1
        litellm.callbacks = []


def test_the_proxys_settings_name_the_callback_of_the_page() -> None:
    (settings,) = blocks("litellm.md", "yaml")
    assert yaml.safe_load(settings) == {
        "litellm_settings": {"callbacks": "limiter_callback.callback"}
    }
    file, *_ = blocks("litellm.md", "python")
    assert file.startswith("# limiter_callback.py\n")
    assert "\ncallback = " in file
