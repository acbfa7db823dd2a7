"""Every way to call a model that is tested: an integration, and how a user would put it to use."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import anthropic
import httpx2
import litellm
import openai
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from limiter.client import OnError
from limiter.client.integrations import Payer
from limiter.client.integrations.anthropic import AnthropicTransport, AsyncAnthropicTransport
from limiter.client.integrations.langchain import LimitHandler
from limiter.client.integrations.litellm import LimitCallback
from limiter.client.integrations.openai import AsyncOpenAITransport, OpenAITransport
from limiter.client.integrations.pydantic_ai import LimitedModel
from tests.integrations.packages.model import ANTHROPIC_MODEL, OPENAI_MODEL
from tests.integrations.packages.scene import OUTPUT_TOKENS_MAX, Face, Scene

KEY = "not-a-key"


def _messages(text: str) -> Any:
    return [{"role": "user", "content": text}]


class OpenAIChat:
    """`AsyncOpenAI().chat.completions`."""

    def __init__(self, scene: Scene, transport: AsyncOpenAITransport | None = None) -> None:
        if transport is None:
            transport = AsyncOpenAITransport(scene.async_client(), scene.workspace_id)
        http = openai.DefaultAsyncHttpxClient(transport=transport)
        scene.stack.push_async_exit(http)
        self.client = openai.AsyncOpenAI(
            api_key=KEY, base_url=f"{scene.model.url}/v1", http_client=http
        )

    async def answer(self, text: str) -> str:
        answer = await self.client.chat.completions.create(
            model=OPENAI_MODEL,
            messages=_messages(text),
            max_completion_tokens=OUTPUT_TOKENS_MAX,
        )
        return str(answer.choices[0].message.content)

    async def stream(self, text: str) -> AsyncGenerator[str, None]:
        stream = await self.client.chat.completions.create(
            model=OPENAI_MODEL,
            messages=_messages(text),
            max_completion_tokens=OUTPUT_TOKENS_MAX,
            stream=True,
        )
        async for chunk in stream:
            # As most programs do: the chunk that only tells usage must not come through.
            if piece := chunk.choices[0].delta.content:
                yield piece


class OpenAIResponses:
    """`AsyncOpenAI().responses`."""

    def __init__(self, scene: Scene) -> None:
        transport = AsyncOpenAITransport(scene.async_client(), scene.workspace_id)
        http = openai.DefaultAsyncHttpxClient(transport=transport)
        scene.stack.push_async_exit(http)
        self._openai = openai.AsyncOpenAI(
            api_key=KEY, base_url=f"{scene.model.url}/v1", http_client=http
        )

    async def answer(self, text: str) -> str:
        answer = await self._openai.responses.create(
            model=OPENAI_MODEL, input=text, max_output_tokens=OUTPUT_TOKENS_MAX
        )
        return str(answer.output_text)

    async def stream(self, text: str) -> AsyncGenerator[str, None]:
        stream = await self._openai.responses.create(
            model=OPENAI_MODEL, input=text, max_output_tokens=OUTPUT_TOKENS_MAX, stream=True
        )
        async for event in stream:
            if event.type == "response.output_text.delta":
                yield event.delta


class OpenAISync:
    """`OpenAI().chat.completions`."""

    def __init__(self, scene: Scene) -> None:
        transport = OpenAITransport(scene.client(), scene.workspace_id)
        http = openai.DefaultHttpxClient(transport=transport)
        scene.stack.enter_context(http)
        self._openai = openai.OpenAI(
            api_key=KEY, base_url=f"{scene.model.url}/v1", http_client=http
        )

    async def answer(self, text: str) -> str:
        answer = self._openai.chat.completions.create(
            model=OPENAI_MODEL,
            messages=_messages(text),
            max_completion_tokens=OUTPUT_TOKENS_MAX,
        )
        return str(answer.choices[0].message.content)

    async def stream(self, text: str) -> AsyncGenerator[str, None]:
        with self._openai.chat.completions.create(
            model=OPENAI_MODEL,
            messages=_messages(text),
            max_completion_tokens=OUTPUT_TOKENS_MAX,
            stream=True,
        ) as stream:
            for chunk in stream:
                if piece := chunk.choices[0].delta.content:
                    yield piece


class AnthropicMessages:
    """`AsyncAnthropic().messages`."""

    def __init__(
        self,
        scene: Scene,
        transport: AsyncAnthropicTransport | None = None,
        on_error: OnError = "charge_estimate",
    ) -> None:
        if transport is None:
            transport = AsyncAnthropicTransport(
                scene.async_client(), scene.workspace_id, on_error=on_error
            )
        http = anthropic.DefaultAsyncHttpxClient(transport=transport)
        scene.stack.push_async_exit(http)
        self._anthropic = anthropic.AsyncAnthropic(
            api_key=KEY, base_url=scene.model.url, http_client=http
        )

    async def answer(self, text: str) -> str:
        answer = await self._anthropic.messages.create(
            model=ANTHROPIC_MODEL, messages=_messages(text), max_tokens=OUTPUT_TOKENS_MAX
        )
        return str(answer.content[0].text)

    async def stream(self, text: str) -> AsyncGenerator[str, None]:
        async with self._anthropic.messages.stream(
            model=ANTHROPIC_MODEL, messages=_messages(text), max_tokens=OUTPUT_TOKENS_MAX
        ) as stream:
            async for piece in stream.text_stream:
                yield piece


class AnthropicSync:
    """`Anthropic().messages`."""

    def __init__(self, scene: Scene) -> None:
        transport = AnthropicTransport(scene.client(), scene.workspace_id)
        http = anthropic.DefaultHttpxClient(transport=transport)
        scene.stack.enter_context(http)
        self._anthropic = anthropic.Anthropic(
            api_key=KEY, base_url=scene.model.url, http_client=http
        )

    async def answer(self, text: str) -> str:
        answer = self._anthropic.messages.create(
            model=ANTHROPIC_MODEL, messages=_messages(text), max_tokens=OUTPUT_TOKENS_MAX
        )
        return str(answer.content[0].text)

    async def stream(self, text: str) -> AsyncGenerator[str, None]:
        with self._anthropic.messages.stream(
            model=ANTHROPIC_MODEL, messages=_messages(text), max_tokens=OUTPUT_TOKENS_MAX
        ) as stream:
            for piece in stream.text_stream:
                yield piece


class LiteLLM:
    """`litellm.acompletion`."""

    def __init__(
        self,
        scene: Scene,
        *,
        workspace_id: str | None = None,
        payer_of: Callable[[Mapping[str, Any]], Payer] | None = None,
        num_retries: int = 0,
    ) -> None:
        # It keeps callbacks for its logs in lists of its own, and takes no second of a kind.
        litellm.logging_callback_manager._reset_all_callbacks()
        workspace_id = workspace_id or scene.workspace_id
        limiter = scene.async_client()
        litellm.callbacks = [LimitCallback(limiter, workspace_id, payer_of=payer_of)]
        self.options: dict[str, Any] = {
            "model": f"openai/{OPENAI_MODEL}",
            "api_base": f"{scene.model.url}/v1",
            "api_key": KEY,
            "max_tokens": OUTPUT_TOKENS_MAX,
            "num_retries": num_retries,
        }

    async def answer(self, text: str) -> str:
        answer = await litellm.acompletion(messages=_messages(text), **self.options)
        return str(answer.choices[0].message.content)

    async def stream(self, text: str) -> AsyncGenerator[str, None]:
        options = {**self.options, "stream_options": {"include_usage": True}}
        stream = await litellm.acompletion(messages=_messages(text), stream=True, **options)
        async for chunk in stream:
            if chunk.choices and (piece := chunk.choices[0].delta.content):
                yield piece


class PydanticAI:
    """An agent of pydantic-ai, with OpenAI's model."""

    def __init__(self, scene: Scene) -> None:
        client = openai.AsyncOpenAI(api_key=KEY, base_url=f"{scene.model.url}/v1")
        scene.stack.push_async_exit(client)
        provider = OpenAIProvider(openai_client=client)
        model = LimitedModel(
            OpenAIChatModel(OPENAI_MODEL, provider=provider),
            scene.async_client(),
            scene.workspace_id,
        )
        self._agent = Agent(model, model_settings={"max_tokens": OUTPUT_TOKENS_MAX})

    async def answer(self, text: str) -> str:
        return str((await self._agent.run(text)).output)

    async def stream(self, text: str) -> AsyncGenerator[str, None]:
        async with self._agent.run_stream(text) as result:
            async for piece in result.stream_text(delta=True, debounce_by=None):
                yield piece


class PydanticAIAnthropic(PydanticAI):
    """An agent of pydantic-ai, with Anthropic's model."""

    def __init__(self, scene: Scene) -> None:
        client = anthropic.AsyncAnthropic(api_key=KEY, base_url=scene.model.url)
        scene.stack.push_async_exit(client)
        provider = AnthropicProvider(anthropic_client=client)
        model = LimitedModel(
            AnthropicModel(ANTHROPIC_MODEL, provider=provider),
            scene.async_client(),
            scene.workspace_id,
        )
        self._agent = Agent(model, model_settings={"max_tokens": OUTPUT_TOKENS_MAX})


def _langchain(scene: Scene) -> BaseChatModel:
    http, async_http = httpx2.Client(), httpx2.AsyncClient()
    scene.stack.enter_context(http)
    scene.stack.push_async_exit(async_http)
    return ChatOpenAI(
        http_client=http,
        http_async_client=async_http,
        model=OPENAI_MODEL,
        api_key=KEY,
        base_url=f"{scene.model.url}/v1",
        max_tokens=OUTPUT_TOKENS_MAX,
        stream_usage=True,
        callbacks=[LimitHandler(scene.client(), scene.workspace_id)],
    )


class LangChain:
    """`ChatOpenAI.ainvoke` and `astream`."""

    def __init__(self, scene: Scene) -> None:
        self._model = _langchain(scene)

    async def answer(self, text: str) -> str:
        return str((await self._model.ainvoke(text)).content)

    async def stream(self, text: str) -> AsyncGenerator[str, None]:
        async for chunk in self._model.astream(text):
            if chunk.content:
                yield str(chunk.content)


class LangChainSync:
    """`ChatOpenAI.invoke` and `stream`."""

    def __init__(self, scene: Scene) -> None:
        self._model = _langchain(scene)

    async def answer(self, text: str) -> str:
        return str(self._model.invoke(text).content)

    async def stream(self, text: str) -> AsyncGenerator[str, None]:
        with contextlib.closing(self._model.stream(text)) as stream:
            for chunk in stream:
                if chunk.content:
                    yield str(chunk.content)


FACES: dict[str, Callable[[Scene], Face]] = {
    "OpenAI SDK, chat completions": OpenAIChat,
    "OpenAI SDK, responses": OpenAIResponses,
    "OpenAI SDK, sync": OpenAISync,
    "Anthropic SDK": AnthropicMessages,
    "Anthropic SDK, sync": AnthropicSync,
    "LiteLLM, library": LiteLLM,
    "pydantic-ai, OpenAI": PydanticAI,
    "pydantic-ai, Anthropic": PydanticAIAnthropic,
    "LangChain": LangChain,
    "LangChain, sync": LangChainSync,
}
SYNC = frozenset({"OpenAI SDK, sync", "Anthropic SDK, sync", "LangChain, sync"})
