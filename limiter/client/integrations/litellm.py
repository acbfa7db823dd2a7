"""LiteLLM: a callback that asks before a model is called, and records after it.

    litellm.callbacks = [LimitCallback(AsyncClient("http://127.0.0.1:8080"), "acme")]

The same object serves LiteLLM's proxy, by `callbacks` in its settings, and the library's async
calls (`acompletion`, `aresponses`, `aembedding`, …). LiteLLM has no hook that could refuse one of
the library's sync calls: they are not limited, and say so in the log.

Each attempt at a deployment is a call of its own. A denial is raised as CallDenied, in a form that
LiteLLM's router neither repeats nor sends to another model.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from litellm.exceptions import GuardrailRaisedException
from litellm.integrations.custom_logger import CustomLogger

from limiter.client.aio import AsyncCall, AsyncClient
from limiter.client.call import OnError
from limiter.client.errors import CallDenied, CallRefused
from limiter.client.exchanges import built
from limiter.client.integrations.billing import is_billed, passed_on, tell
from limiter.client.integrations.bounds import Bounds
from limiter.client.integrations.payer import Payer, current_payer
from limiter.client.integrations.wire import count
from limiter.errors import LimiterError, Unavailable
from limiter.models import EstimateUsage

logger = logging.getLogger(__name__)

# Calls whose end is never told are forgotten, and their holds expire.
_OPEN_CALLS_MAX = 10_000
# The proxy tells soon after its client has gone what a broken stream had used until then.
_LAST_WORD_S = 2.0
_WITHOUT_OUTPUT = frozenset({"aembedding", "embedding"})
_LIMITED = _WITHOUT_OUTPUT | {
    *("acompletion", "aresponses", "atext_completion", "anthropic_messages"),
    *("completion", "responses", "text_completion"),
}


@dataclass(slots=True)
class _Open:
    """A call that was let pass. `task`: it is given up when that ends without a word."""

    call: AsyncCall
    is_stream: bool
    task: asyncio.Task[Any] | None = None
    is_read: bool = False


class LimitCallback(CustomLogger):
    """Holds before each attempt; records, or gives back, when LiteLLM tells what came of it."""

    def __init__(
        self,
        limiter: AsyncClient,
        workspace_id: str,
        chat_id: str | None = None,
        *,
        payer_of: Callable[[Mapping[str, Any]], Payer] | None = None,
        bounds: Bounds | None = None,
        on_error: OnError = "charge_estimate",
        hold_ms: int | None = None,
    ) -> None:
        """`payer_of` names the payer from the metadata of a call, in place of one for all: the
        proxy puts `user_api_key_team_id`, `user_api_key_alias` and the like there.

        `on_error`: what a call costs that never told its usage, and was not refused.
        `charge_estimate` charges what was held, `release` gives it back.
        """
        super().__init__()
        self._limiter = limiter
        self._payer = Payer(workspace_id, chat_id)
        self._payer_of = payer_of
        self._bounds = bounds or Bounds()
        self._on_error: OnError = on_error
        self._hold_ms = hold_ms
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._ending: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------------ before the call

    async def async_pre_call_deployment_hook(
        self, kwargs: dict[str, Any], call_type: Any
    ) -> dict[str, Any] | None:
        """Raises CallDenied, and what a call of the client raises: LiteLLM hands it on."""
        kind = str(getattr(call_type, "value", call_type))
        if kind not in _LIMITED:
            return None
        call_id = str(kwargs.get("litellm_call_id"))
        try:
            call = self._new_call(kwargs, kind)
            await call.__aenter__()
        except LimiterError as error:
            raise _for_litellm(error) from None
        opened = _Open(call, is_stream=bool(kwargs.get("stream")))
        self._open[call_id] = opened
        while len(self._open) > _OPEN_CALLS_MAX:
            self._open.popitem(last=False)
        self._watch(call_id, opened)
        if "model_group" in _metadata(kwargs):
            return None  # The router's repeats come by here.
        # The library's own repeats do not, and would go unlimited.
        return {**kwargs, "num_retries": 0, "retry_policy": None}

    def _new_call(self, kwargs: Mapping[str, Any], kind: str) -> AsyncCall:
        told = kwargs.get("litellm_logging_obj")
        model = kwargs.get("model") or getattr(told, "model", None)
        messages = kwargs.get("messages") or getattr(told, "messages", None)
        tools = kwargs.get("tools") or kwargs.get("functions") or ()
        parts = [messages, tools]
        parts += [kwargs.get(name) for name in ("input", "prompt", "instructions", "system")]
        parts.append(str(kwargs.get("response_format") or kwargs.get("text") or ""))
        most = [kwargs.get(f"max_{name}") for name in ("completion_tokens", "tokens")]
        most.append(kwargs.get("max_output_tokens"))
        output = self._bounds.output_tokens(next(filter(None, most), None), answers=kwargs.get("n"))
        usage = built(
            EstimateUsage,
            model=model,
            input_tokens=self._bounds.input_tokens(
                *parts, has_tools=bool(tools), refers=_refers(kwargs, tools)
            ),
            max_output_tokens=0 if kind in _WITHOUT_OUTPUT else output,
        )
        payer = self._payer if self._payer_of is None else self._payer_of(_metadata(kwargs))
        payer = current_payer(payer)
        return self._limiter.call(
            payer.workspace_id,
            payer.chat_id,
            usage=usage,
            parent_chat_id=payer.parent_chat_id,
            spend_limit_micros=payer.spend_limit_micros,
            hold_ms=self._hold_ms,
            on_error=self._on_error,
        )

    # ------------------------------------------------------------------ after it

    async def async_post_call_success_deployment_hook(
        self, request_data: dict[str, Any], response: Any, call_type: Any
    ) -> None:
        """An answer that is whole: its usage is recorded before the caller has it."""
        await self._answered(request_data, response)

    async def async_log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """A stream has ended, or an answer came from LiteLLM's own cache."""
        await self._answered(kwargs, response_obj)

    async def async_post_call_failure_deployment_hook(
        self,
        request_data: Mapping[str, Any],
        exception: Exception,
        call_type: Any,
        fallback_depth: int | None = None,
    ) -> None:
        """An attempt has failed."""
        await self._failed(request_data, exception)

    async def async_log_failure_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """A stream has broken."""
        await self._failed(kwargs, kwargs.get("exception"))

    async def async_post_call_streaming_deployment_hook(
        self, request_data: dict[str, Any], response_chunk: Any, call_type: Any
    ) -> None:
        """A stream goes on: it is given up when the task that reads it ends."""
        call_id = str(request_data.get("litellm_call_id"))
        opened = self._open.get(call_id)
        if opened is not None:
            opened.is_read = True
            self._watch(call_id, opened)

    def log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """Of sync calls, LiteLLM tells the end alone."""
        logger.warning("a sync call of LiteLLM was not limited: use acompletion and the like")

    async def _answered(self, about: Mapping[str, Any], response: Any) -> None:
        opened = self._open.pop(str(about.get("litellm_call_id")), None)
        if opened is None:
            return
        usage = _usage(response)
        if about.get("cache_hit"):
            opened.call.not_billed()
        elif usage is not None:
            tell(opened.call, usage)
        await _end(opened.call, None)

    async def _failed(self, about: Mapping[str, Any], error: BaseException | None) -> None:
        opened = self._open.pop(str(about.get("litellm_call_id")), None)
        if opened is not None:
            if error is not None and not is_billed(error):
                opened.call.not_billed()
            await _end(opened.call, error)

    def _watch(self, call_id: str, opened: _Open) -> None:
        """Looks at the current task, once: what it leaves without a word is given up."""
        task = asyncio.current_task()
        if task is not None and task is not opened.task:
            opened.task = task
            task.add_done_callback(lambda done: self._task_ended(call_id, opened, done))

    def _task_ended(self, call_id: str, opened: _Open, task: asyncio.Task[Any]) -> None:
        """Nobody waits any more for a call whose end was not told."""
        if self._open.get(call_id) is not opened or opened.task is not task:
            return
        has_failed = task.cancelled() or task.exception() is not None
        if opened.is_stream and not opened.is_read and not has_failed:
            return  # Another task will read it: the proxy's does.
        ending = task.get_loop().create_task(self._give_up(call_id, opened))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def _give_up(self, call_id: str, opened: _Open) -> None:
        if opened.is_stream:
            await asyncio.sleep(_LAST_WORD_S)
        if self._open.get(call_id) is opened:
            del self._open[call_id]
            await _end(opened.call, None)


async def _end(call: AsyncCall, error: BaseException | None) -> None:
    try:
        await call.__aexit__(type(error) if error else None, error, None)
    except LimiterError as failure:
        # The model has answered: LiteLLM must not throw that away, nor ask again.
        logger.error("call %s is not settled: %s", call.reservation_id, failure)


def _for_litellm(error: LimiterError) -> LimiterError:
    """The error as LiteLLM hands on what it must not repeat, with what its proxy answers.

    Its router repeats nothing that a guardrail has refused. The library repeats everything but an
    ImportError, and past all hooks.
    """
    status = 422
    if isinstance(error, CallDenied):
        status = 402
    elif isinstance(error, CallRefused | Unavailable):
        status = 503
    passed = passed_on(error, GuardrailRaisedException, ImportError)
    told = {"guardrail_name": "limiter", "message": str(error), "status_code": status}
    vars(passed).update(told, blocked_content=isinstance(error, CallDenied))
    return passed


def _metadata(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**(kwargs.get("litellm_metadata") or {}), **(kwargs.get("metadata") or {})}


def _refers(kwargs: Mapping[str, Any], tools: Any) -> bool:
    if kwargs.get("previous_response_id") or kwargs.get("web_search_options"):
        return True
    own = ("function", "custom")
    return any(isinstance(tool, Mapping) and tool.get("type", own[0]) not in own for tool in tools)


def _usage(response: Any) -> dict[str, int] | None:
    """What an answer of any kind tells.

    LiteLLM counts the cache's tokens among the others; what it only passes through, as its maker.
    """
    usage: Any = getattr(response, "usage", None)
    if usage is None and isinstance(response, Mapping):
        usage = response.get("usage")
    if hasattr(usage, "model_dump"):
        usage = usage.model_dump()
    if not isinstance(usage, Mapping):
        return None
    cache_read = count(usage, "cache_read_input_tokens")
    cache_write = count(usage, "cache_creation_input_tokens")
    if "prompt_tokens" in usage:
        input_tokens = count(usage, "prompt_tokens")
        cache_read = count(usage, "prompt_tokens_details", "cached_tokens")
    else:
        input_tokens = count(usage, "input_tokens") + cache_read + cache_write
        cache_read = cache_read or count(usage, "input_tokens_details", "cached_tokens")
    return {
        "input_tokens": input_tokens,
        "output_tokens": count(usage, "completion_tokens") or count(usage, "output_tokens"),
        "cache_read_tokens": cache_read,
        "cache_write_tokens": cache_write,
    }
