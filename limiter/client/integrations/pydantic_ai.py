"""pydantic-ai: a model that wraps another, and asks the limiter before each of its requests.

    model = LimitedModel("openai:gpt-4o-mini", limiter, "acme", "chat-1")
    agent = Agent(model)

A denial ends the run as CallDenied. It is none of the errors that pydantic-ai's own retries and
fallback models catch by default.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RequestUsage

from limiter.client.aio import AsyncCall, AsyncClient
from limiter.client.call import OnError
from limiter.client.exchanges import built
from limiter.client.integrations.billing import is_billed, tell
from limiter.client.integrations.bounds import Bounds
from limiter.client.integrations.payer import Payer, current_payer
from limiter.models import EstimateUsage


class LimitedModel(WrapperModel):
    """A model whose requests are held for, and recorded or given back on every way out."""

    def __init__(
        self,
        wrapped: Model | str,
        limiter: AsyncClient,
        workspace_id: str,
        chat_id: str | None = None,
        *,
        provider: str | None = None,
        bounds: Bounds | None = None,
        on_error: OnError = "charge_estimate",
        hold_ms: int | None = None,
    ) -> None:
        """`provider`: whose prices count; without one, that of the wrapped model.

        `on_error`: what a request costs that never told its usage, and was not refused.
        `charge_estimate` charges what was held, `release` what was told so far, or nothing.
        """
        super().__init__(wrapped)
        self._limiter = limiter
        self._payer = Payer(workspace_id, chat_id)
        self._provider = provider
        self._bounds = bounds or Bounds()
        self._on_error: OnError = on_error
        self._hold_ms = hold_ms

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """See `Model.request`. Raises CallDenied, and what a call of the client raises."""
        async with self._call(messages, model_settings, model_request_parameters) as call:
            try:
                response: ModelResponse = await super().request(
                    messages, model_settings, model_request_parameters
                )
            except BaseException as error:
                if not is_billed(error):
                    call.not_billed()
                raise
            self._say(call, response.usage)
            return response

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: Any = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """See `Model.request_stream`. Raises as `request` does."""
        async with self._call(messages, model_settings, model_request_parameters) as call:
            stream: StreamedResponse | None = None
            try:
                async with super().request_stream(
                    messages, model_settings, model_request_parameters, run_context
                ) as stream:
                    yield stream
            except BaseException as error:
                if stream is None and not is_billed(error):
                    call.not_billed()
                raise
            finally:
                # A reason to finish comes with or before the usage, so what is told after it is
                # the whole; a stream that somebody left early has none.
                if stream is not None:
                    is_final = stream.finish_reason is not None
                    if is_final or self._on_error == "release":
                        self._say(call, stream.usage)

    def _call(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        parameters: ModelRequestParameters,
    ) -> AsyncCall:
        settings = {**(self.wrapped.settings or {}), **(model_settings or {})}
        tools = [*parameters.function_tools, *parameters.output_tools]
        usage = built(
            EstimateUsage,
            model=self.model_name,
            provider=self._provider or self.system,
            input_tokens=self._bounds.input_tokens(
                ModelMessagesTypeAdapter.dump_python(messages, mode="json"),
                repr(parameters),
                has_tools=bool(tools),
                refers=bool(parameters.native_tools),
            ),
            max_output_tokens=self._bounds.output_tokens(settings.get("max_tokens")),
        )
        payer = current_payer(self._payer)
        return self._limiter.call(
            payer.workspace_id,
            payer.chat_id,
            usage=usage,
            parent_chat_id=payer.parent_chat_id,
            spend_limit_micros=payer.spend_limit_micros,
            hold_ms=self._hold_ms,
            on_error=self._on_error,
        )

    def _say(self, call: AsyncCall, usage: RequestUsage) -> None:
        # Without output nothing was told: a provider that counts tells at least one token.
        if usage.output_tokens:
            tokens = {
                "input_tokens": usage.input_tokens,
                "output_tokens": usage.output_tokens,
                "cache_read_tokens": usage.cache_read_tokens,
                "cache_write_tokens": usage.cache_write_tokens,
            }
            tell(call, tokens)
