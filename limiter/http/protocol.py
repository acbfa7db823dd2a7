"""What a connection may send before there is a request: bounds around the protocol.

The parser takes headers without end and waits for them without end; both would let one client that
nobody knows fill the memory, or hold connections for ever. Bodies have bounds of their own in
`bodies`. It must not know any route.
"""

from __future__ import annotations

from asyncio import TimerHandle, Transport
from typing import Any

from limiter.http.bodies import HeadTooLarge
from limiter.http.direct import DirectProtocol
from limiter.http.problems import error_answer

HEAD_BYTES_MAX = 16_384
HEADERS_MAX = 100
# How long a request may take until its headers are there; and how long what follows an answer that
# came early, such as the rest of a body, is still thrown away.
HEAD_MS_MAX = 10_000


class BoundedProtocol(DirectProtocol):
    """One connection. A head above a bound is 431; one that is too slow, the end, and so are
    headers above the bound that follow a body.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # The scope of a head that is not complete, and what came of it after its first piece.
        self._open_scope: Any = None
        self._open_bytes = 0
        self._piece_bytes = 0
        # What came of a call since its headers, or since there was last a part of its body in it.
        self._silent_bytes = 0
        self._timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._piece_bytes = len(data)
        self._silent_bytes += len(data)
        super().data_received(data)
        scope: Any = self.scope
        cycle: Any = self.cycle
        has_head = scope is not None and "path" in scope
        if has_head and cycle is not None and not cycle.response_complete:
            if self._timer is not None:
                self._stop_timer()
            if self._silent_bytes > HEAD_BYTES_MAX and cycle.more_body:
                # Headers that follow a body in chunks are kept as well, and have no bound either.
                self.transport.close()
            return
        if not has_head and scope is not None:
            self._count(scope)
        # Or else nothing has begun, or it is what is left of a request that was answered already.
        self._start_timer()

    def on_headers_complete(self) -> None:
        # A body may be a part of what has come, so it is counted only where that could matter.
        come_bytes = self._piece_bytes + self._open_bytes
        if len(self.headers) > HEADERS_MAX or (
            come_bytes > HEAD_BYTES_MAX and self._counted_bytes() > HEAD_BYTES_MAX
        ):
            self._refuse()
            raise HeadTooLarge(HEAD_BYTES_MAX, HEADERS_MAX)
        self._silent_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._silent_bytes = 0
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """The answer to what is no HTTP, unless there was one already."""
        if not self.transport.is_closing():
            super().send_400_response(msg)

    def _count(self, scope: Any) -> None:
        """Bounds a head that is not complete. Its first piece may have had another's body in it."""
        if self._open_scope is not scope:
            self._open_scope, self._open_bytes = scope, 0
            return
        self._open_bytes += self._piece_bytes
        if self._open_bytes > HEAD_BYTES_MAX:
            self._refuse()

    def _counted_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _refuse(self) -> None:
        if self.transport.is_closing():
            return
        answer = error_answer(HeadTooLarge(HEAD_BYTES_MAX, HEADERS_MAX))
        self.transport.write(answer.bytes_with([*answer.raw_headers, (b"connection", b"close")]))
        self.transport.close()

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(HEAD_MS_MAX / 1000, self._time_is_up)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_is_up(self) -> None:
        self._timer = None
        cycle: Any = self.cycle
        if cycle is not None and not cycle.response_complete:
            # The beginning of a further request waits behind one that is being answered.
            self._start_timer()
        elif not self.transport.is_closing():
            self.transport.close()
