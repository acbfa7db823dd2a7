"""What the SDKs' requests may cost and their answers tell: every shape that changes the amounts."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from typing import Any

import httpx2
import openai
import pytest

from limiter.client.integrations.anthropic import AnthropicDialect
from limiter.client.integrations.bounds import Bounds
from limiter.client.integrations.openai import AsyncOpenAITransport, OpenAIDialect
from limiter.client.integrations.wire import Dialect, Planned
from limiter.errors import InvalidRequest
from limiter.models import EstimateUsage, RecordUsage
from tests.integrations.packages.model import OPENAI_MICROS, OPENAI_MODEL, answer_to
from tests.integrations.packages.scene import PLENTY_MICROS, Scene

BOUNDS = Bounds(input_tokens_max=200_000, output_tokens_max=1_000)
OPENAI = OpenAIDialect(bounds=BOUNDS)
ANTHROPIC = AnthropicDialect(bounds=BOUNDS)
MESSAGES = [{"role": "user", "content": "hello"}]
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {}}}


def planned(dialect: Dialect, path: str, **body: Any) -> EstimateUsage:
    found = dialect.plan(path, {"model": "m", **body})
    assert found is not None
    return found.usage


@pytest.mark.parametrize(
    ("path", "body", "output_tokens"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES}, 1_000),
        ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 50}, 50),
        ("/v1/chat/completions", {"messages": MESSAGES, "max_completion_tokens": 60}, 60),
        ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 50, "n": 3}, 150),
        ("/v1/responses", {"input": "hello"}, 1_000),
        ("/v1/responses", {"input": "hello", "max_output_tokens": 70}, 70),
        ("/v1/completions", {"prompt": "hello"}, 16),
        ("/v1/completions", {"prompt": ["a", "b"], "max_tokens": 20, "best_of": 4}, 160),
        ("/v1/embeddings", {"input": ["a", "b"]}, 0),
    ],
)
def test_openais_output_is_bounded(path: str, body: dict[str, Any], output_tokens: int) -> None:
    assert planned(OPENAI, path, **body).max_output_tokens == output_tokens


@pytest.mark.parametrize(
    "body",
    [
        {"input": "hello", "previous_response_id": "resp_1"},
        {"input": "hello", "conversation": "conv_1"},
        {"prompt": {"id": "pmpt_1"}},
        {"input": "hello", "tools": [{"type": "web_search"}]},
        {"input": [{"type": "item_reference", "id": "msg_1"}]},
    ],
)
def test_what_openai_keeps_or_fetches_counts_as_the_whole_context(body: dict[str, Any]) -> None:
    assert planned(OPENAI, "/v1/responses", **body).input_tokens == 200_000


@pytest.mark.parametrize(
    "body",
    [
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        {"mcp_servers": [{"type": "url", "url": "https://example.com"}]},
        {"container": "container_1"},
    ],
)
def test_what_anthropic_fetches_counts_as_the_whole_context(body: dict[str, Any]) -> None:
    usage = planned(ANTHROPIC, "/v1/messages", messages=MESSAGES, max_tokens=9, **body)
    assert (usage.input_tokens, usage.max_output_tokens) == (200_000, 9)


def test_tools_of_ones_own_count_as_their_text_and_some() -> None:
    without = planned(OPENAI, "/v1/chat/completions", messages=MESSAGES).input_tokens
    with_one = planned(OPENAI, "/v1/chat/completions", messages=MESSAGES, tools=[FUNCTION])
    assert without < 200 < 2_000 < with_one.input_tokens < 3_000


def test_what_is_not_priced_by_tokens_is_not_planned() -> None:
    assert OPENAI.plan("/v1/images/generations", {"model": "m"}) is None
    assert ANTHROPIC.plan("/v1/messages/batches", {"requests": []}) is None
    assert ANTHROPIC.plan("/v1/messages/count_tokens", {"model": "m"}) is None


def test_a_request_without_a_model_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="model"):
        OPENAI.plan("/v1/chat/completions", {"messages": MESSAGES})


def told(dialect: Dialect, body: dict[str, Any], before: RecordUsage | None = None) -> RecordUsage:
    usage = EstimateUsage(model="m", input_tokens=1, max_output_tokens=1)
    found = dialect.answer(Planned(usage), body, before)
    assert found is not None
    return found.usage


def counts(usage: RecordUsage) -> tuple[int, int, int, int]:
    cache = (usage.cache_read_tokens, usage.cache_write_tokens)
    return (usage.input_tokens, usage.output_tokens, *cache)


def test_openai_counts_cached_tokens_among_the_others() -> None:
    chat = {"prompt_tokens": 100, "completion_tokens": 20}
    chat_cached = {**chat, "prompt_tokens_details": {"cached_tokens": 60}}
    assert counts(told(OPENAI, {"usage": chat})) == (100, 20, 0, 0)
    assert counts(told(OPENAI, {"usage": chat_cached})) == (100, 20, 60, 0)
    response = {"input_tokens": 100, "output_tokens": 20}
    details = {"input_tokens_details": {"cached_tokens": 60}}
    event = {"type": "response.incomplete", "response": {"usage": {**response, **details}}}
    assert counts(told(OPENAI, event)) == (100, 20, 60, 0)
    assert counts(told(OPENAI, {"usage": {"prompt_tokens": 7, "total_tokens": 7}})) == (7, 0, 0, 0)


def test_anthropic_counts_cached_tokens_beside_the_others() -> None:
    usage = {
        "input_tokens": 10,
        "cache_read_input_tokens": 60,
        "cache_creation_input_tokens": 30,
        "output_tokens": 20,
    }
    assert counts(told(ANTHROPIC, {"type": "message", "usage": usage})) == (100, 20, 60, 30)


def test_the_end_of_anthropics_stream_keeps_what_its_beginning_told() -> None:
    beginning = {"input_tokens": 10, "cache_read_input_tokens": 60, "output_tokens": 1}
    start = {"type": "message_start", "message": {"usage": beginning}}
    before = told(ANTHROPIC, start)
    short = {"type": "message_delta", "usage": {"output_tokens": 20}}
    assert counts(told(ANTHROPIC, short, before)) == (70, 20, 60, 0)
    # A tool that the provider ran has added to the input, and the end tells all of it.
    ends = {"input_tokens": 500, "cache_read_input_tokens": 60, "output_tokens": 20}
    long = {"type": "message_delta", "usage": ends}
    assert counts(told(ANTHROPIC, long, before)) == (560, 20, 60, 0)


@pytest.mark.asyncio(loop_scope="session")
async def test_a_compressed_answer_is_read_and_handed_on(scene: Scene) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        content = gzip.compress(json.dumps(answer_to(request.url.path)).encode())
        headers = {"content-encoding": "gzip", "content-type": "application/json"}
        return httpx2.Response(200, headers=headers, content=content)

    scene.limit(PLENTY_MICROS)
    transport = AsyncOpenAITransport(
        scene.async_client(), scene.workspace_id, transport=httpx2.MockTransport(answer)
    )
    http = openai.DefaultAsyncHttpxClient(transport=transport)
    async with openai.AsyncOpenAI(api_key="none", http_client=http) as client:
        got = await client.chat.completions.create(
            model=OPENAI_MODEL, messages=[{"role": "user", "content": "hello"}]
        )
    assert got.usage is not None
    assert await scene.settled() == OPENAI_MICROS


@pytest.mark.parametrize("name", ["anthropic", "langchain", "litellm", "openai", "pydantic_ai"])
def test_an_integration_loads_its_package_and_nothing_of_the_service(name: str) -> None:
    ask = (
        f"import sys, limiter.client.integrations.{name}\n"
        "print(*sorted(m for m in sys.modules if m.startswith('limiter.')))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ask],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    units = {module.split(".")[1] for module in done.stdout.split()}
    assert units == {"access", "client", "errors", "ids", "models", "money", "periods"}
