"""LangChain: a callback handler that asks before a model runs, and records after it.

    handler = LimitHandler(limiter, "acme", "chat-1")
    model = ChatOpenAI(model="gpt-4o-mini", max_tokens=500, callbacks=[handler])

It has `raise_error`, without which LangChain logs a denial and makes the call. It is one handler
for sync and async calls, as LangChain drops what async handlers raise in a sync call; in an async
call LangChain runs it in a thread.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, LLMResult

from limiter.client.call import OnError
from limiter.client.exchanges import built
from limiter.client.integrations.billing import is_billed, tell
from limiter.client.integrations.bounds import Bounds
from limiter.client.integrations.payer import Payer, current_payer
from limiter.client.sync import Call, Client
from limiter.models import EstimateUsage

# Calls whose end LangChain never tells are forgotten, and their holds expire.
_OPEN_CALLS_MAX = 10_000
_MODEL_NAMES = ("model", "model_name", "model_id", "deployment_name")
_MOST_OUTPUT = ("max_tokens", "max_completion_tokens", "max_output_tokens")


class LimitHandler(BaseCallbackHandler):
    """Holds when a model starts; records or gives back when it ends. May be shared by threads."""

    raise_error = True

    def __init__(
        self,
        limiter: Client,
        workspace_id: str,
        chat_id: str | None = None,
        *,
        provider: str | None = None,
        bounds: Bounds | None = None,
        on_error: OnError = "charge_estimate",
        hold_ms: int | None = None,
    ) -> None:
        """`provider`: whose prices count; without one, what LangChain calls it.

        `on_error`: what a call costs that never told its usage, and was not refused.
        `charge_estimate` charges what was held, `release` gives it back.
        """
        self._limiter = limiter
        self._payer = Payer(workspace_id, chat_id)
        self._provider = provider
        self._bounds = bounds or Bounds()
        self._on_error: OnError = on_error
        self._hold_ms = hold_ms
        self._open: OrderedDict[UUID, Call] = OrderedDict()
        self._lock = threading.Lock()

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        **told: Any,
    ) -> None:
        """Raises CallDenied, and what a call of the client raises; LangChain hands it on."""
        parts = [message.model_dump(exclude={"response_metadata"}) for message in messages[0]]
        self._start(run_id, parts, told)

    def on_llm_start(
        self, serialized: dict[str, Any], prompts: list[str], *, run_id: UUID, **told: Any
    ) -> None:
        """As `on_chat_model_start`, for models without chat."""
        self._start(run_id, prompts, told)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        """Records the usage that the answer tells."""
        if call := self._take(run_id):
            self._say(call, response)
            call.__exit__(None, None, None)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        """Gives back what was refused; what was cancelled or broke is settled by `on_error`."""
        if call := self._take(run_id):
            if not is_billed(error):
                call.not_billed()
            call.__exit__(type(error), error, None)

    def _start(self, run_id: UUID, parts: Sequence[object], told: Mapping[str, Any]) -> None:
        asked = told.get("invocation_params") or {}
        about = told.get("metadata") or {}
        tools = asked.get("tools") or asked.get("functions") or ()
        most = next((asked[name] for name in _MOST_OUTPUT if asked.get(name)), None)
        usage = built(
            EstimateUsage,
            model=next((asked[name] for name in _MODEL_NAMES if asked.get(name)), None),
            provider=self._provider or about.get("ls_provider"),
            input_tokens=self._bounds.input_tokens(
                parts, tools, asked.get("response_format"), has_tools=bool(tools)
            ),
            max_output_tokens=self._bounds.output_tokens(
                most or about.get("ls_max_tokens"), answers=asked.get("n")
            ),
        )
        payer = current_payer(self._payer)
        call = self._limiter.call(
            payer.workspace_id,
            payer.chat_id,
            usage=usage,
            parent_chat_id=payer.parent_chat_id,
            spend_limit_micros=payer.spend_limit_micros,
            hold_ms=self._hold_ms,
            on_error=self._on_error,
        )
        call.__enter__()
        with self._lock:
            self._open[run_id] = call
            while len(self._open) > _OPEN_CALLS_MAX:
                self._open.popitem(last=False)

    def _take(self, run_id: UUID) -> Call | None:
        with self._lock:
            return self._open.pop(run_id, None)

    def _say(self, call: Call, response: LLMResult) -> None:
        for answer in (answer for answers in response.generations for answer in answers):
            if not isinstance(answer, ChatGeneration) or not isinstance(answer.message, AIMessage):
                continue
            usage: Mapping[str, Any] = answer.message.usage_metadata or {}
            if usage.get("total_cost") == 0:
                call.not_billed()  # LangChain's mark of an answer that came from its own cache.
                return
            if usage.get("output_tokens"):
                details = usage.get("input_token_details") or {}
                tokens = {
                    "input_tokens": usage["input_tokens"],
                    "output_tokens": usage["output_tokens"],
                    "cache_read_tokens": details.get("cache_read") or 0,
                    "cache_write_tokens": details.get("cache_creation") or 0,
                }
                tell(call, tokens)
                return
