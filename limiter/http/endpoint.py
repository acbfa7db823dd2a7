"""What all routes share: a path as an ASGI app, where every error becomes an answer.

It must not know what the handlers do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from starlette.datastructures import State
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from limiter.http.bodies import read_body
from limiter.http.problems import error_answer
from limiter.service import Limiter
from limiter.settings import Settings

Handler = Callable[[Request], Awaitable[Response]]


class Endpoint:
    """Answers one path; the router lets only the methods of `handlers` through."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self.methods = list(handlers)
        # The server leaves out the body of the answer to a HEAD.
        self._handlers = {**handlers, "HEAD": handlers["GET"]} if "GET" in handlers else handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            answer = await self._handlers[scope["method"]](request)
        except Exception as error:  # noqa: BLE001  # The caller is owed an answer in any case.
            answer = error_answer(error)
        await answer(scope, receive, send)


class Handlers:
    """Base of the handlers. The Limiter is `state.limiter`, there from the app's start to its end.

    `state.limiter` is set by the app's lifespan, which comes after the handlers are made.
    """

    def __init__(self, state: State, settings: Settings) -> None:
        self._state = state
        self._bytes_max = settings.body_bytes_max
        self._timeout_ms = settings.body_timeout_ms

    @property
    def limiter(self) -> Limiter:
        """The running Limiter."""
        limiter: Limiter = self._state.limiter
        return limiter

    async def body(self, request: Request) -> bytes:
        """The request's body, within the bounds of the settings. Raises what `read_body` does."""
        return await read_body(request, bytes_max=self._bytes_max, timeout_ms=self._timeout_ms)
