"""Transports for httpx2, sync and async: a request that costs is checked, sent, and settled.

    denied            raised before anything is sent
    not delivered     given back
    status >= 300     given back
    answered          the usage that the answer tells, once it has been read
    broken, closed    by `on_error`, unless the usage has been told already

It must not know how a provider's API is spoken (see `wire`), nor decide over limits.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import httpx2
import msgspec

from limiter.client.aio import AsyncCall, AsyncClient
from limiter.client.call import CallState, OnError
from limiter.client.integrations.billing import is_billed, passed_on
from limiter.client.integrations.payer import Payer, current_payer
from limiter.client.integrations.wire import Dialect, Planned, Reader
from limiter.client.sync import Call, Client
from limiter.errors import LimiterError

logger = logging.getLogger(__name__)

_REFUSED_FROM = 300
# The body is handed on decoded, and a hidden event makes it shorter.
_HEADERS_OF_THE_CODING = ("content-encoding", "content-length", "transfer-encoding")
_WARNED_PATHS_MAX = 100


class _Guard:
    """What both transports know: whose calls these are, and what they may cost."""

    def __init__(
        self,
        payer: Payer,
        dialect: Dialect,
        *,
        sdk_error: type[Exception],
        on_error: OnError,
        hold_ms: int | None,
    ) -> None:
        self._payer = payer
        self._dialect = dialect
        self._on_error = on_error
        self._hold_ms = hold_ms
        self._warned: set[str] = set()
        self.sdk_error = sdk_error

    def plan(self, request: httpx2.Request) -> Planned | None:
        """What the request may cost. None: it is sent as it is. Raises InvalidRequest."""
        if request.method != "POST":
            return None
        path = request.url.path
        planned = None
        try:
            body = msgspec.json.decode(request.content)
        except msgspec.DecodeError:
            body = None
        if isinstance(body, Mapping):
            planned = self._dialect.plan(path, body)
        if planned is None and path not in self._warned and len(self._warned) < _WARNED_PATHS_MAX:
            self._warned.add(path)
            logger.warning("POST %s is not limited: it has no token usage that is known", path)
        return planned

    def options(self, planned: Planned) -> dict[str, Any]:
        """How to ask for the call."""
        payer = current_payer(self._payer)
        return {
            "workspace_id": payer.workspace_id,
            "chat_id": payer.chat_id,
            "parent_chat_id": payer.parent_chat_id,
            "spend_limit_micros": payer.spend_limit_micros,
            "usage": planned.usage,
            "hold_ms": self._hold_ms,
            "on_error": self._on_error,
        }

    def reader(self, planned: Planned, response: httpx2.Response) -> Reader:
        return Reader(self._dialect, planned, response.headers.get("content-type", ""))

    def say(self, call: CallState, reader: Reader) -> None:
        """Tells the call what it has used. What is not final counts only if a part may."""
        told = reader.told
        if told is None or not (told.is_final or self._on_error == "release"):
            return
        usage = told.usage
        call.usage(
            model=usage.model,
            provider=usage.provider,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=usage.cache_read_tokens,
            cache_write_tokens=usage.cache_write_tokens,
        )


def _to_send(request: httpx2.Request, planned: Planned) -> httpx2.Request:
    if planned.content is None:
        return request
    headers = request.headers.copy()
    headers.pop("content-length", None)
    return httpx2.Request(
        request.method,
        request.url,
        headers=headers,
        content=planned.content,
        extensions=request.extensions,
    )


def _handed_on(
    response: httpx2.Response, stream: httpx2.SyncByteStream | httpx2.AsyncByteStream
) -> httpx2.Response:
    headers = response.headers.copy()
    for name in _HEADERS_OF_THE_CODING:
        headers.pop(name, None)
    return httpx2.Response(
        response.status_code, headers=headers, stream=stream, extensions=response.extensions
    )


def _not_told(call: CallState, error: LimiterError) -> None:
    # The model has answered, and its answer is paid for: it is not thrown away for this, and the
    # SDK must not take it for a reason to ask again.
    logger.error("call %s is not settled: %s", call.reservation_id, error)


class LimitedTransport(httpx2.BaseTransport):
    """Sends requests through another transport, once the limiter lets them pass."""

    def __init__(
        self,
        limiter: Client,
        payer: Payer,
        dialect: Dialect,
        *,
        sdk_error: type[Exception],
        on_error: OnError = "charge_estimate",
        hold_ms: int | None = None,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        """`sdk_error`: what the SDK hands on unchanged; errors of ours are raised as such, too.

        `on_error`: what a call costs that was sent and never told its usage. `charge_estimate`
        charges what was held, `release` what was told so far, or nothing.
        """
        self._limiter = limiter
        self._guard = _Guard(
            payer, dialect, sdk_error=sdk_error, on_error=on_error, hold_ms=hold_ms
        )
        self._transport = transport or httpx2.HTTPTransport()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """See `httpx2.BaseTransport`."""
        request.read()
        try:
            planned = self._guard.plan(request)
            if planned is None:
                return self._transport.handle_request(request)
            call = self._limiter.call(**self._guard.options(planned))
            call.__enter__()
        except LimiterError as error:
            raise passed_on(error, self._guard.sdk_error) from None
        try:
            response = self._transport.handle_request(_to_send(request, planned))
        except BaseException as error:
            if not is_billed(error):
                call.not_billed()
            _end(call, error)
            raise
        if response.status_code >= _REFUSED_FROM:
            call.not_billed()
            _end(call, None)
            return response
        reader = self._guard.reader(planned, response)
        return _handed_on(response, _Watched(self._guard, call, reader, response))

    def close(self) -> None:
        self._transport.close()


class _Watched(httpx2.SyncByteStream):
    """The body of an answer. Its end, however it comes, settles the call."""

    def __init__(
        self, guard: _Guard, call: Call, reader: Reader, response: httpx2.Response
    ) -> None:
        self._guard = guard
        self._call = call
        self._reader = reader
        self._response = response
        self._is_settled = False

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._response.iter_bytes():
            if passed := self._reader.feed(chunk):
                yield passed
        rest = self._reader.finish()
        self._settle()
        if rest:
            yield rest

    def close(self) -> None:
        try:
            self._response.close()
        finally:
            self._settle()

    def _settle(self) -> None:
        if not self._is_settled:
            self._is_settled = True
            self._guard.say(self._call, self._reader)
            _end(self._call, None)


def _end(call: Call, error: BaseException | None) -> None:
    try:
        call.__exit__(type(error) if error else None, error, None)
    except LimiterError as failure:
        _not_told(call, failure)


class AsyncLimitedTransport(httpx2.AsyncBaseTransport):
    """Sends requests through another transport, once the limiter lets them pass."""

    def __init__(
        self,
        limiter: AsyncClient,
        payer: Payer,
        dialect: Dialect,
        *,
        sdk_error: type[Exception],
        on_error: OnError = "charge_estimate",
        hold_ms: int | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        """As for `LimitedTransport`."""
        self._limiter = limiter
        self._guard = _Guard(
            payer, dialect, sdk_error=sdk_error, on_error=on_error, hold_ms=hold_ms
        )
        self._transport = transport or httpx2.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """See `httpx2.AsyncBaseTransport`."""
        await request.aread()
        try:
            planned = self._guard.plan(request)
            if planned is None:
                return await self._transport.handle_async_request(request)
            call = self._limiter.call(**self._guard.options(planned))
            await call.__aenter__()
        except LimiterError as error:
            raise passed_on(error, self._guard.sdk_error) from None
        try:
            response = await self._transport.handle_async_request(_to_send(request, planned))
        except BaseException as error:
            if not is_billed(error):
                call.not_billed()
            await _aend(call, error)
            raise
        if response.status_code >= _REFUSED_FROM:
            call.not_billed()
            await _aend(call, None)
            return response
        reader = self._guard.reader(planned, response)
        return _handed_on(response, _AsyncWatched(self._guard, call, reader, response))

    async def aclose(self) -> None:
        await self._transport.aclose()


class _AsyncWatched(httpx2.AsyncByteStream):
    """The body of an answer. Its end, however it comes, settles the call."""

    def __init__(
        self, guard: _Guard, call: AsyncCall, reader: Reader, response: httpx2.Response
    ) -> None:
        self._guard = guard
        self._call = call
        self._reader = reader
        self._response = response
        self._is_settled = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._response.aiter_bytes():
            if passed := self._reader.feed(chunk):
                yield passed
        rest = self._reader.finish()
        await self._settle()
        if rest:
            yield rest

    async def aclose(self) -> None:
        try:
            await self._response.aclose()
        finally:
            await self._settle()

    async def _settle(self) -> None:
        if not self._is_settled:
            self._is_settled = True
            self._guard.say(self._call, self._reader)
            await _aend(self._call, None)


async def _aend(call: AsyncCall, error: BaseException | None) -> None:
    try:
        await call.__aexit__(type(error) if error else None, error, None)
    except LimiterError as failure:
        _not_told(call, failure)
