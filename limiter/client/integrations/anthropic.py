"""The Anthropic SDK: a transport for its HTTP client, sync or async.

    from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient

    transport = AsyncAnthropicTransport(limiter, "acme", "chat-1")
    anthropic = AsyncAnthropic(http_client=DefaultAsyncHttpxClient(transport=transport))

Messages are limited, streamed or not. Every attempt of the SDK is a call of its own. A denial
leaves the SDK as CallDenied and is not repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2
from anthropic import AnthropicError

from limiter.client.aio import AsyncClient
from limiter.client.call import OnError
from limiter.client.exchanges import built
from limiter.client.integrations.bounds import Bounds
from limiter.client.integrations.payer import Payer
from limiter.client.integrations.transport import AsyncLimitedTransport, LimitedTransport
from limiter.client.integrations.wire import Planned, Told, count
from limiter.client.sync import Client
from limiter.models import EstimateUsage, RecordUsage

# Tools that the provider runs itself: what they find becomes input.
_SERVER_TOOLS = ("web_search", "web_fetch", "code_execution", "tool_search", "mcp_toolset")


@dataclass(frozen=True, slots=True)
class AnthropicDialect:
    """Anthropic's Messages API."""

    provider: str | None = "anthropic"
    bounds: Bounds = field(default_factory=Bounds)

    def plan(self, path: str, body: Mapping[str, Any]) -> Planned | None:
        """See `Dialect`."""
        if not path.endswith("/messages"):
            return None
        tools = body.get("tools") or ()
        refers = any(str(tool.get("type", "")).startswith(_SERVER_TOOLS) for tool in tools)
        parts = (body.get("messages"), body.get("system"), tools, body.get("output_config"))
        usage = built(
            EstimateUsage,
            model=body.get("model"),
            provider=self.provider,
            input_tokens=self.bounds.input_tokens(
                *parts,
                has_tools=bool(tools),
                refers=refers or bool(body.get("mcp_servers")) or bool(body.get("container")),
            ),
            max_output_tokens=self.bounds.output_tokens(body.get("max_tokens")),
        )
        return Planned(usage)

    def answer(self, planned: Planned, body: Any, before: RecordUsage | None) -> Told | None:
        """See `Dialect`. A stream tells its input first, and its output in what comes last."""
        is_start = body.get("type") == "message_start"
        usage = body["message"]["usage"] if is_start else body.get("usage")
        if not usage:
            return None
        cache_read = count(usage, "cache_read_input_tokens")
        cache_write = count(usage, "cache_creation_input_tokens")
        # The provider counts the cache's tokens beside the others; the ledger, among them.
        input_tokens = count(usage, "input_tokens") + cache_read + cache_write
        if before is not None and input_tokens < before.input_tokens:
            input_tokens = before.input_tokens
            cache_read, cache_write = before.cache_read_tokens, before.cache_write_tokens
        recorded = built(
            RecordUsage,
            model=planned.usage.model,
            provider=self.provider,
            input_tokens=input_tokens,
            output_tokens=count(usage, "output_tokens"),
            cache_read_tokens=cache_read,
            cache_write_tokens=cache_write,
        )
        return Told(recorded, is_final=not is_start)


class AnthropicTransport(LimitedTransport):
    """For `Anthropic(http_client=DefaultHttpxClient(transport=…))`."""

    def __init__(
        self,
        limiter: Client,
        workspace_id: str,
        chat_id: str | None = None,
        *,
        provider: str | None = "anthropic",
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
            AnthropicDialect(provider, bounds or Bounds()),
            sdk_error=AnthropicError,
            on_error=on_error,
            hold_ms=hold_ms,
            transport=transport,
        )


class AsyncAnthropicTransport(AsyncLimitedTransport):
    """For `AsyncAnthropic(http_client=DefaultAsyncHttpxClient(transport=…))`."""

    def __init__(
        self,
        limiter: AsyncClient,
        workspace_id: str,
        chat_id: str | None = None,
        *,
        provider: str | None = "anthropic",
        bounds: Bounds | None = None,
        on_error: OnError = "charge_estimate",
        hold_ms: int | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        """As for `AnthropicTransport`."""
        super().__init__(
            limiter,
            Payer(workspace_id, chat_id),
            AnthropicDialect(provider, bounds or Bounds()),
            sdk_error=AnthropicError,
            on_error=on_error,
            hold_ms=hold_ms,
            transport=transport,
        )
