"""What all routes share: a path as an ASGI app, where every error becomes an answer.

It must not know what the handlers do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from http import HTTPStatus

from starlette.datastructures import State
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from limiter.access import Demand, demand_of
from limiter.http.access import Guard, Handler
from limiter.http.answers import Answer, identified
from limiter.http.bodies import read_body
from limiter.http.problems import error_answer
from limiter.service import Limiter
from limiter.settings import Settings

# A plain number: looking up a member of an enumeration takes ten times as long.
_BAD_REQUEST = int(HTTPStatus.BAD_REQUEST)


class Endpoint:
    """Answers one path; the router lets only the methods of `handlers` through.

    `demands` is what each method's handler declares. Without a `guard` nobody is asked for a key.
    Raises TypeError for a handler that declares nothing.
    """

    def __init__(self, handlers: Mapping[str, Handler[Answer]], guard: Guard | None) -> None:
        self.methods = list(handlers)
        self.demands: Mapping[str, Demand] = {
            method: demand_of(handler) for method, handler in handlers.items()
        }
        self._handlers = {
            method: handler if guard is None else guard.guarded(handler)
            for method, handler in handlers.items()
        }
        if "GET" in self._handlers:
            # The server leaves out the body of the answer to a HEAD.
            self._handlers["HEAD"] = self._handlers["GET"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self.answer(scope, receive)
        await answer(scope, receive, send)

    async def answer(self, scope: Scope, receive: Receive) -> Answer:
        """The answer, whatever happens. It is not sent."""
        request = Request(scope, receive)
        try:
            answer = await self._handlers[scope["method"]](request)
        except Exception as error:  # noqa: BLE001  # The caller is owed an answer in any case.
            answer = error_answer(error)
        if answer.status_code >= _BAD_REQUEST:
            identified(answer)
        return answer


class Handlers:
    """Base of the handlers. The Limiter is `state.limiter`, there from the app's start to its end.

    `state.limiter` is set by the app's lifespan, which comes after the handlers are made.
    """

    def __init__(self, state: State, settings: Settings) -> None:
        self._state = state
        self._bytes_max = settings.body_bytes_max
        self._timeout_ms = settings.body_timeout_ms
        self._demands_keys = settings.demands_keys

    @property
    def limiter(self) -> Limiter:
        """The running Limiter."""
        limiter: Limiter = self._state["limiter"]  # as an attribute it is an exception first
        return limiter

    def body(self, request: Request) -> Awaitable[bytes]:
        """The request's body, within the bounds of the settings. Raises what `read_body` does."""
        return read_body(request, bytes_max=self._bytes_max, timeout_ms=self._timeout_ms)
