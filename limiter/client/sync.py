"""The sync client, over HTTP. One client may be used by any number of threads.

It must not decide what an answer means, when to repeat, or what to tell at the end of a call: see
`exchanges`, `attempts` and `call`.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2

from limiter.client import exchanges
from limiter.client.attempts import Attempts
from limiter.client.call import CallState, OnError
from limiter.client.exchanges import Exchange, NotAnswered, Reply
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


class Call(CallState):
    """One model call, for `with`. See `Client.call`."""

    def __init__(
        self,
        client: Client,
        check: CheckRequest,
        *,
        on_error: OnError,
        outage_policy: OutagePolicy,
    ) -> None:
        super().__init__(check, on_error=on_error, outage_policy=outage_policy)
        self._client = client

    def __enter__(self) -> Self:
        check = self.begin()
        try:
            answer = self._client.check(check)
        except Unavailable as error:
            self.without_answer(error)
        except LimiterError:
            raise
        except BaseException as interruption:
            # Ctrl-C, say: the check may have arrived and hold all the same.
            self.assume_held()
            self._settle(interruption, has_run=False)
            raise
        else:
            self.admit(answer)
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._settle(error, has_run=True)

    def _settle(self, error: BaseException | None, *, has_run: bool) -> None:
        ending = self.ending(has_run=has_run)
        if ending is None:
            return
        try:
            if isinstance(ending, RecordRequest):
                self.ended(self._client.record(ending))
            else:
                self.ended(self._client.release(ending))
        except LimiterError as failure:
            self.not_confirmed(ending, failure, error)


class Client(Caller[Call]):
    """The limiter for threads.

        with Client("http://127.0.0.1:8080") as limiter:
            with limiter.call("acme", "c1", 12_000) as call:
                answer = model(...)
                call.usage(model="gpt-5", input_tokens=..., output_tokens=...)

    `check`, `record`, `release` and `usage` are those of `limiter.Limiter`, with the same errors.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        http: httpx2.Client | None = None,
        outage_policy: OutagePolicy = "allow",
        check_deadline_ms: int = CHECK_DEADLINE_MS,
        settle_deadline_ms: int = SETTLE_DEADLINE_MS,
    ) -> None:
        """As for `AsyncClient`. An answer that comes in drops may outlast a deadline: what is
        bounded is the wait for each of them.
        """
        super().__init__(
            outage_policy=outage_policy,
            check_deadline_ms=check_deadline_ms,
            settle_deadline_ms=settle_deadline_ms,
        )
        self._url = base_url(url)
        self._owns_http = http is None
        self._http = httpx2.Client(limits=LIMITS) if http is None else http
        self._key_headers = key_headers(key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections. Calls that are still running cannot be told any more."""
        if self._owns_http:
            self._http.close()

    def _new_call(self, check: CheckRequest, on_error: OnError) -> Call:
        return Call(self, check, on_error=on_error, outage_policy=self._outage_policy)

    def check(self, request: CheckRequest) -> Admitted | Denied | Refused:
        """May this call be made? A denial is a value here. Raises Unavailable, whatever policy."""
        return self._ask(exchanges.check(request), self._check_deadline_ms)

    def record(self, request: RecordRequest) -> Recorded:
        """Charges what a call cost, once per id."""
        return self._ask(exchanges.record(request), self._settle_deadline_ms)

    def release(self, request: ReleaseRequest) -> Released:
        """Gives a hold back. Harmless to repeat."""
        return self._ask(exchanges.release(request), self._settle_deadline_ms)

    def usage(self, workspace_id: str) -> WorkspaceUsage:
        """Every window now."""
        return self._ask(exchanges.usage(workspace_id), self._check_deadline_ms)

    def chat_usage(self, workspace_id: str, chat_id: str) -> ChatTreeUsage:
        """A chat's sums, its ancestors and its children."""
        return self._ask(exchanges.chat_usage(workspace_id, chat_id), self._check_deadline_ms)

    def _ask(self, exchange: Exchange[T], deadline_ms: int) -> T:
        attempts = Attempts(exchange, deadline_ms)
        while True:
            try:
                return exchanges.read(exchange, self._send(exchange, attempts.timeout_s))
            except (httpx2.RequestError, NotAnswered) as failure:
                pause_s = attempts.pause_after(failure)
            time.sleep(pause_s)

    def _send(self, exchange: Exchange[Any], timeout_s: float) -> Reply:
        response = self._http.request(
            exchange.method,
            self._url + exchange.path,
            content=exchange.content,
            headers={**exchange.headers, **self._key_headers},
            timeout=timeout_s,
        )
        return Reply(response.status_code, response.headers, response.content)
