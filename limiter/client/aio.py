"""The async client, over HTTP or over a Limiter in this process. For asyncio.

It must not decide what an answer means, when to repeat, or what to tell at the end of a call: see
`exchanges`, `attempts` and `call`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2

from limiter.client import exchanges
from limiter.client.attempts import Attempts
from limiter.client.call import CallState, OnError
from limiter.client.exchanges import Exchange, NotAnswered, Reply
from limiter.client.inprocess import AsyncLimiter, Bounded
from limiter.client.options import (
    CHECK_DEADLINE_MS,
    LIMITS,
    SETTLE_DEADLINE_MS,
    Caller,
    base_url,
    key_headers,
)
from limiter.errors import LimiterError, Unavailable
from limiter.models import (
    Admitted,
    ChatTreeUsage,
    CheckRequest,
    Denied,
    OutagePolicy,
    Recorded,
    RecordRequest,
    Refused,
    Released,
    ReleaseRequest,
    WorkspaceUsage,
)

T = TypeVar("T")


class AsyncCall(CallState):
    """One model call, for `async with`. See `AsyncClient.call`."""

    def __init__(
        self,
        limiter: AsyncLimiter,
        check: CheckRequest,
        *,
        on_error: OnError,
        outage_policy: OutagePolicy,
    ) -> None:
        super().__init__(check, on_error=on_error, outage_policy=outage_policy)
        self._limiter = limiter

    async def __aenter__(self) -> Self:
        # A check that is cancelled halfway may hold all the same, so it runs to its end.
        checking = asyncio.ensure_future(self._limiter.check(self.begin()))
        try:
            answer = await asyncio.shield(checking)
        except Unavailable as error:
            self.without_answer(error)
        except asyncio.CancelledError:
            await completed(self._abandon(checking))
            raise
        else:
            self.admit(answer)
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await completed(self._settle(error, has_run=True))

    async def _abandon(self, checking: asyncio.Future[Admitted | Denied | Refused]) -> None:
        """Gives back what a check holds that nobody waits for any more. Its body has not run."""
        try:
            self.admit(await checking)
        except Unavailable:
            self.assume_held()
        except LimiterError:
            return
        await self._settle(None, has_run=False)

    async def _settle(self, error: BaseException | None, *, has_run: bool) -> None:
        ending = self.ending(has_run=has_run)
        if ending is None:
            return
        try:
            if isinstance(ending, RecordRequest):
                self.ended(await self._limiter.record(ending))
            else:
                self.ended(await self._limiter.release(ending))
        except LimiterError as failure:
            self.not_confirmed(ending, failure, error)


class AsyncClient(Caller[AsyncCall]):
    """The limiter for asyncio. One client serves any number of tasks of one event loop.

        async with AsyncClient("http://127.0.0.1:8080") as limiter:
            async with limiter.call("acme", "c1", 12_000) as call:
                answer = await model(...)
                call.usage(model="gpt-5", input_tokens=..., output_tokens=...)

    `check`, `record`, `release` and `usage` are those of `limiter.Limiter`, with the same errors.
    """

    def __init__(
        self,
        limiter: str | AsyncLimiter,
        *,
        key: str | None = None,
        http: httpx2.AsyncClient | None = None,
        outage_policy: OutagePolicy = "allow",
        check_deadline_ms: int = CHECK_DEADLINE_MS,
        settle_deadline_ms: int = SETTLE_DEADLINE_MS,
    ) -> None:
        """`limiter`: the service's address, or a Limiter of this process, which the caller closes.

        `key`: the API key that a service may ask for; without a valid one every method raises
        Unauthenticated, and Forbidden with one that may not do this.
        `outage_policy`: what becomes of a `call` whose check nobody answers. `allow` runs it, as
        the service does by default while its Redis is away; `deny` raises Unavailable. What the
        service decides itself is not touched by it.
        `check_deadline_ms` bounds the wait in front of a model call, all repeats included,
        `settle_deadline_ms` the wait behind it: for a record or a release.
        `http` is used instead of a client of its own (TLS, proxies, headers) and stays open.

        Raises ValueError for an address or a key that is none.
        """
        super().__init__(
            outage_policy=outage_policy,
            check_deadline_ms=check_deadline_ms,
            settle_deadline_ms=settle_deadline_ms,
        )
        self._limiter: _Service | Bounded
        deadlines = {
            "check_deadline_ms": check_deadline_ms,
            "settle_deadline_ms": settle_deadline_ms,
        }
        if isinstance(limiter, str):
            self._limiter = _Service(base_url(limiter), http, key_headers(key), **deadlines)
        elif key is not None:
            raise ValueError("a Limiter of this process asks for no key")
        else:
            self._limiter = Bounded(limiter, **deadlines)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections. Calls that are still running cannot be told any more."""
        await self._limiter.aclose()

    def _new_call(self, check: CheckRequest, on_error: OnError) -> AsyncCall:
        return AsyncCall(self._limiter, check, on_error=on_error, outage_policy=self._outage_policy)

    async def check(self, request: CheckRequest) -> Admitted | Denied | Refused:
        """May this call be made? A denial is a value here. Raises Unavailable, whatever policy."""
        return await self._limiter.check(request)

    async def record(self, request: RecordRequest) -> Recorded:
        """Charges what a call cost, once per id."""
        return await self._limiter.record(request)

    async def release(self, request: ReleaseRequest) -> Released:
        """Gives a hold back. Harmless to repeat."""
        return await self._limiter.release(request)

    async def usage(self, workspace_id: str) -> WorkspaceUsage:
        """Every window now."""
        return await self._limiter.usage(workspace_id)

    async def chat_usage(self, workspace_id: str, chat_id: str) -> ChatTreeUsage:
        """A chat's sums, its ancestors and its children."""
        return await self._limiter.chat_usage(workspace_id, chat_id)


class _Service:
    """The service over HTTP, with the methods of a Limiter."""

    def __init__(
        self,
        url: str,
        http: httpx2.AsyncClient | None,
        key_headers: Mapping[str, str],
        *,
        check_deadline_ms: int,
        settle_deadline_ms: int,
    ) -> None:
        self._url = url
        self._owns_http = http is None
        self._http = httpx2.AsyncClient(limits=LIMITS) if http is None else http
        self._key_headers = key_headers
        self._check_deadline_ms = check_deadline_ms
        self._settle_deadline_ms = settle_deadline_ms

    async def aclose(self) -> None:
        if self._owns_http:
            await self._http.aclose()

    async def check(self, request: CheckRequest) -> Admitted | Denied | Refused:
        return await self._ask(exchanges.check(request), self._check_deadline_ms)

    async def record(self, request: RecordRequest) -> Recorded:
        return await self._ask(exchanges.record(request), self._settle_deadline_ms)

    async def release(self, request: ReleaseRequest) -> Released:
        return await self._ask(exchanges.release(request), self._settle_deadline_ms)

    async def usage(self, workspace_id: str) -> WorkspaceUsage:
        return await self._ask(exchanges.usage(workspace_id), self._check_deadline_ms)

    async def chat_usage(self, workspace_id: str, chat_id: str) -> ChatTreeUsage:
        exchange = exchanges.chat_usage(workspace_id, chat_id)
        return await self._ask(exchange, self._check_deadline_ms)

    async def _ask(self, exchange: Exchange[T], deadline_ms: int) -> T:
        attempts = Attempts(exchange, deadline_ms)
        while True:
            try:
                # The library bounds each read and write; this bounds all of them together.
                async with asyncio.timeout(attempts.timeout_s):
                    reply = await self._send(exchange, attempts.timeout_s)
                return exchanges.read(exchange, reply)
            except (httpx2.RequestError, TimeoutError, NotAnswered) as failure:
                pause_s = attempts.pause_after(failure)
            await asyncio.sleep(pause_s)

    async def _send(self, exchange: Exchange[Any], timeout_s: float) -> Reply:
        response = await self._http.request(
            exchange.method,
            self._url + exchange.path,
            content=exchange.content,
            headers={**exchange.headers, **self._key_headers},
            timeout=timeout_s,
        )
        return Reply(response.status_code, response.headers, response.content)


async def completed(work: Coroutine[Any, Any, None]) -> None:
    """Waits for `work` to its end, however often this task is cancelled meanwhile; then is.

    `work` has to be bounded.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        task.result()
        return
    raise cancelled from None if task.cancelled() else task.exception()
