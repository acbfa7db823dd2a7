"""The calls without ASGI: a whole request becomes an answer in one step, and leaves in one write.

ASGI costs a call as much as all that the limiter does for it: a scope, an event, two messages whose
headers are looked through. A request for one of the routes in `direct` of the app's lifespan state
that came in one piece needs none of that. Every other request, and every one that is out of the
ordinary (a query, a body in pieces, a request behind another), goes uvicorn's own way and reaches
the same endpoint. It must not know any route, and decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.types import Message, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from limiter import request_id
from limiter.http.bodies import WHOLE_BODY
from limiter.http.endpoint import Endpoint

# The key of the app's lifespan state: endpoints by their path, each for POST.
STATE_KEY: Final = "direct"

_CLOSE: Final = (b"connection", b"close")


class _Unawaited:
    """Stands where uvicorn has the event that its tasks wait for. Here nobody waits."""

    def set(self) -> None:
        pass


_UNAWAITED: Final = _Unawaited()


async def _nothing_more() -> Message:
    return {"type": "http.disconnect"}


class DirectCycle:
    """One request and its answer. What has no underscore is read or set by uvicorn's protocol."""

    __slots__ = (
        *("disconnected", "keep_alive", "message_event", "more_body", "response_complete"),
        *("_endpoint", "_protocol", "_scope"),
    )

    def __init__(self, protocol: HttpToolsProtocol, endpoint: Endpoint, scope: Scope) -> None:
        self.disconnected = self.response_complete = self.more_body = False
        self.keep_alive = True
        self.message_event = _UNAWAITED
        self._protocol = protocol
        self._endpoint = endpoint
        self._scope = scope

    async def run(self) -> None:
        """Answers, unless the client has left meanwhile."""
        its_id = request_id.begin(self._scope["headers"])
        try:
            answer = await self._endpoint.answer(self._scope, _nothing_more)
        finally:
            its_id.answered()
        protocol = self._protocol
        if protocol.flow.write_paused and not self.disconnected:
            await protocol.flow.drain()
        if self.disconnected:
            return
        headers = [*protocol.server_state.default_headers, *answer.raw_headers]
        if _CLOSE in headers:
            self.keep_alive = False
        elif not self.keep_alive:
            headers.append(_CLOSE)
        protocol.transport.write(answer.bytes_with(headers))
        self.response_complete = True
        if not self.keep_alive:
            protocol.transport.close()
        protocol.on_response_complete()


class DirectProtocol(HttpToolsProtocol):
    """One connection. A head that may be answered directly waits for its body until the end of
    what has come, and goes uvicorn's way if the body is not complete by then.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._endpoints: Mapping[bytes, Endpoint] = self.app_state.get(STATE_KEY, {})
        # That of a request whose body is still coming, and what came of it.
        self._endpoint: Endpoint | None = None
        self._body = b""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._endpoint is not None and not self.transport.is_closing():
            self._go_the_usual_way()

    def on_headers_complete(self) -> None:
        endpoint = self._endpoints.get(self.url)
        cycle: Any = self.cycle
        if (
            endpoint is not None
            and (cycle is None or cycle.response_complete)
            and self.parser.get_method() == b"POST"
            and self.parser.should_keep_alive()
            and not self.expect_100_continue
            and not self.parser.should_upgrade()
            and self.parser.get_http_version() == "1.1"
        ):
            self._endpoint, self._body = endpoint, b""
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._endpoint is None:
            super().on_body(body)
        else:
            self._body += body

    def on_message_complete(self) -> None:
        endpoint = self._endpoint
        if endpoint is None:
            super().on_message_complete()
            return
        self._endpoint = None
        scope: Any = self.scope
        scope["method"] = "POST"
        scope["path"] = self.url.decode("ascii")
        scope["query_string"] = b""
        scope[WHOLE_BODY] = self._body
        cycle: Any = DirectCycle(self, endpoint, scope)
        self.cycle = cycle
        task = self.loop.create_task(cycle.run())
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _go_the_usual_way(self) -> None:
        body, self._endpoint = self._body, None
        super().on_headers_complete()
        if body:
            super().on_body(body)
