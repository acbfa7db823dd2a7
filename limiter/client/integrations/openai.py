"""The OpenAI SDK: a transport for its HTTP client, sync or async.

    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    transport = AsyncOpenAITransport(limiter, "acme", "chat-1")
    openai = AsyncOpenAI(http_client=DefaultAsyncHttpxClient(transport=transport))

Chat completions, responses, completions and embeddings are limited, streamed or not. Every attempt
of the SDK is a call of its own. A denial leaves the SDK as CallDenied and is not repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2
import msgspec
from openai import OpenAIError

from limiter.client.aio import AsyncClient
from limiter.client.call import OnError
from limiter.client.exchanges import built
from limiter.client.integrations.bounds import Bounds
from limiter.client.integrations.payer import Payer
from limiter.client.integrations.transport import AsyncLimitedTransport, LimitedTransport
from limiter.client.integrations.wire import Planned, Told, count
from limiter.client.sync import Client
from limiter.models import EstimateUsage, RecordUsage

_OWN_TOOLS = frozenset({"function", "custom"})
_COMPLETION_TOKENS = 16  # The API's own default, for the older completions alone.


@dataclass(frozen=True, slots=True)
class OpenAIDialect:
    """OpenAI's API, and what others offer in its form. `provider` finds the price of a model."""

    provider: str | None = "openai"
    bounds: Bounds = field(default_factory=Bounds)

    def plan(self, path: str, body: Mapping[str, Any]) -> Planned | None:
        """See `Dialect`."""
        if path.endswith("/chat/completions"):
            parts = [body.get("messages"), body.get("tools"), body.get("functions")]
            parts.append(body.get("response_format"))
            most = body.get("max_completion_tokens") or body.get("max_tokens")
            output = self.bounds.output_tokens(most, answers=body.get("n"))
        elif path.endswith("/responses"):
            parts = [body.get("input"), body.get("instructions"), body.get("tools")]
            parts.append(body.get("text"))
            output = self.bounds.output_tokens(body.get("max_output_tokens"))
        elif path.endswith("/completions"):
            parts = [body.get("prompt"), body.get("suffix")]
            answers = max(count(body, "n"), count(body, "best_of"), 1)
            prompts = body.get("prompt")
            answers *= len(prompts) if isinstance(prompts, list) else 1
            most = body.get("max_tokens") or _COMPLETION_TOKENS
            output = self.bounds.output_tokens(most, answers=answers)
        elif path.endswith("/embeddings"):
            parts, output = [body.get("input")], 0
        else:
            return None
        tools = body.get("tools") or body.get("functions") or ()
        usage = built(
            EstimateUsage,
            model=body.get("model"),
            provider=self.provider,
            input_tokens=self.bounds.input_tokens(
                *parts, has_tools=bool(tools), refers=_refers(body, tools)
            ),
            max_output_tokens=output,
        )
        return Planned(usage, _asking_for_usage(path, body))

    def answer(self, planned: Planned, body: Any, before: RecordUsage | None) -> Told | None:
        """See `Dialect`. Usage comes once, at the end: of a response, inside of it."""
        answer = body.get("response", body)
        usage = answer.get("usage")
        if not usage:
            return None
        recorded = built(
            RecordUsage,
            model=planned.usage.model,
            provider=self.provider,
            input_tokens=count(usage, "prompt_tokens") or count(usage, "input_tokens"),
            output_tokens=count(usage, "completion_tokens") or count(usage, "output_tokens"),
            cache_read_tokens=count(usage, "prompt_tokens_details", "cached_tokens")
            or count(usage, "input_tokens_details", "cached_tokens"),
        )
        return Told(recorded, hide=planned.content is not None and body.get("choices") == [])


def _refers(body: Mapping[str, Any], tools: Any) -> bool:
    """Whether the model gets to see what is not in the request."""
    kept = (body.get("previous_response_id"), body.get("conversation"), body.get("prompt"))
    if kept[0] or kept[1] or isinstance(kept[2], Mapping) or body.get("web_search_options"):
        return True
    return any(tool.get("type", "function") not in _OWN_TOOLS for tool in tools)


def _asking_for_usage(path: str, body: Mapping[str, Any]) -> bytes | None:
    """The body with usage asked for, where the API streams none without being asked."""
    options = body.get("stream_options") or {}
    if not path.endswith("/completions") or not body.get("stream") or options.get("include_usage"):
        return None
    return msgspec.json.encode({**body, "stream_options": {**options, "include_usage": True}})


class OpenAITransport(LimitedTransport):
    """For `OpenAI(http_client=DefaultHttpxClient(transport=…))`."""

    def __init__(
        self,
        limiter: Client,
        workspace_id: str,
        chat_id: str | None = None,
        *,
        provider: str | None = "openai",
        bounds: Bounds | None = None,
        on_error: OnError = "charge_estimate",
        hold_ms: int | None = None,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        """`provider`: whose prices count; None finds them by the model's name alone.

        `transport` sends the requests, in place of one of its own. See `LimitedTransport`.
        """
        super().__init__(
            limiter,
            Payer(workspace_id, chat_id),
            OpenAIDialect(provider, bounds or Bounds()),
            sdk_error=OpenAIError,
            on_error=on_error,
            hold_ms=hold_ms,
            transport=transport,
        )


class AsyncOpenAITransport(AsyncLimitedTransport):
    """For `AsyncOpenAI(http_client=DefaultAsyncHttpxClient(transport=…))`."""

    def __init__(
        self,
        limiter: AsyncClient,
        workspace_id: str,
        chat_id: str | None = None,
        *,
        provider: str | None = "openai",
        bounds: Bounds | None = None,
        on_error: OnError = "charge_estimate",
        hold_ms: int | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        """As for `OpenAITransport`."""
        super().__init__(
            limiter,
            Payer(workspace_id, chat_id),
            OpenAIDialect(provider, bounds or Bounds()),
            sdk_error=OpenAIError,
            on_error=on_error,
            hold_ms=hold_ms,
            transport=transport,
        )
