"""What goes out: finished bytes with their headers.

It must not know what an answer says. No header ever carries a caller's text, but for a request id
that is a plain word.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from http import HTTPStatus

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from limiter import request_id

Header = tuple[bytes, bytes]

encode = msgspec.json.Encoder().encode

# Every answer is true for one moment only.
NO_STORE: Header = (b"cache-control", b"no-store")
JSON_TYPE = "application/json"
JSON_HEADERS: list[Header] = [(b"content-type", JSON_TYPE.encode()), NO_STORE]

_STATUS_LINES: dict[int, bytes] = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}

# A plain number: looking up a member of an enumeration takes ten times as long.
_NO_CONTENT = int(HTTPStatus.NO_CONTENT)

# How much of a body that nobody wants is still taken off the wire; see ClosingAnswer.
_UNWANTED_BYTES_MAX = 1_048_576


class Answer(Response):
    """A body with its status and headers, ready to be sent."""

    # The parent's constructor would render the body and look through the headers; both are done.
    def __init__(self, status: int, body: bytes, headers: Iterable[Header] = JSON_HEADERS) -> None:
        self.status_code = status
        self.body: bytes = body
        self.background = None
        self.raw_headers = [*headers]
        if status != _NO_CONTENT:
            self.raw_headers.append((b"content-length", b"%d" % len(body)))

    def bytes_with(self, headers: Iterable[Header]) -> bytes:
        """All of the answer, as HTTP/1.1 has it on the wire, with these headers."""
        parts = [_STATUS_LINES[self.status_code]]
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        parts += (b"\r\n", self.body)
        return b"".join(parts)

    # The parent's does this for websockets and background tasks as well.
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        await send({"type": "http.response.body", "body": self.body})


class ClosingAnswer(Answer):
    """The answer to a request whose body is not wanted to its end; the connection is closed.

    Closing while bytes of the body are still under way resets the connection, which can destroy
    the answer before the client has read it. So what comes is thrown away first, within bounds.
    """

    def __init__(
        self, status: int, body: bytes, headers: Iterable[Header], *, linger_ms: int
    ) -> None:
        super().__init__(status, body, [*headers, (b"connection", b"close")])
        self._linger_ms = linger_ms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        await self._linger(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _linger(self, receive: Receive) -> None:
        unwanted_bytes = 0
        try:
            async with asyncio.timeout(self._linger_ms / 1000):
                while unwanted_bytes < _UNWANTED_BYTES_MAX:
                    message = await receive()
                    unwanted_bytes += len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return
        except TimeoutError:
            return


def identified(answer: Response) -> Response:
    """The answer, with the id of its request: what the log calls the request by."""
    its_id = request_id.current()
    if its_id is not None:
        answer.raw_headers.append((request_id.HEADER, its_id.encode()))
    return answer
