"""One connection: commands go out in order, replies come back in order, and calls end in time.

It writes each command once, or never; it does not connect and does not know what commands mean.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from time import monotonic  # the loop's own time may be as coarse as a millisecond
from typing import Any, cast

import hiredis

from limiter.errors import RedisUnavailable
from limiter.metrics import Metrics

# Callers beyond this are turned away: queueing them would only make all of them late.
CALLS_MAX = 10_000

# So many calls leave at once, also within one turn of the loop: the server works on them while the
# turn goes on, in place of waiting for all of it, as the loop would then wait for the server.
BATCH_CALLS_MAX = 16

# How long after its deadline a call is given up.
_TICK_MS = 1

Reply = Any

_NOTHING = object()

_NO_REPLY = "Redis sent something that is no reply"


class Wire(asyncio.Protocol):
    """One connection, from before it is made until it is gone. It is made once.

    A call is `_unsent` until the connection is set up and either a batch is full or the turn of the
    loop ends, then `_waiting` for its reply. Both are in the order of the calls' starts, which is
    that of their deadlines: one timer serves all.
    """

    def __init__(self, deadline_s: float, metrics: Metrics | None = None) -> None:
        self._metrics = metrics or Metrics()
        self._loop = asyncio.get_running_loop()
        self._deadline_s = deadline_s
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._transport: asyncio.Transport | None = None
        self._is_set_up = False
        self._unsent: deque[tuple[bytes, asyncio.Future[Reply], float]] = deque()
        self._waiting: deque[tuple[asyncio.Future[Reply], float]] = deque()
        self._overdue = 0  # so many at the front of `_waiting` are past their deadline
        self._replied_at = -math.inf
        self._retired_at = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self.is_usable = True
        self.why_unusable = ""
        self.gone = asyncio.Event()

    def call(self, command: bytes) -> asyncio.Future[Reply]:
        """Queues a command, while `is_usable`. The future is done by the deadline."""
        if len(self._waiting) + len(self._unsent) >= CALLS_MAX:
            raise RedisUnavailable("too many calls are waiting for Redis")
        future: asyncio.Future[Reply] = self._loop.create_future()
        if self._is_set_up and not self._unsent:
            self._loop.call_soon(self._flush)
        if self._timer is None:
            self._timer = self._loop.call_later(self._deadline_s, self._deadline_passed)
        self._unsent.append((command, future, monotonic()))
        if self._is_set_up and len(self._unsent) >= BATCH_CALLS_MAX:
            self._flush()
        return future

    async def set_up(self, handshake: list[bytes]) -> None:
        """Sends these commands ahead of all calls, then lets the calls go.

        Raises RedisUnavailable if one is refused. Whoever connects bounds the time.
        """
        for command in handshake:
            if self._transport is None or not self.is_usable:
                raise RedisUnavailable(self.why_unusable)
            future: asyncio.Future[Reply] = self._loop.create_future()
            self._waiting.append((future, math.inf))
            self._transport.write(command)
            reply = await future
            if isinstance(reply, hiredis.ReplyError):
                raise RedisUnavailable(_refusal(reply))
        self._is_set_up = True
        self._flush()

    def is_failure_of_late(self, pause_s: float) -> bool:
        """Whether it could not be set up, and was given up less than `pause_s` ago."""
        return not self._is_set_up and monotonic() - self._retired_at < pause_s

    def close(self, why: str, cause: BaseException | None = None) -> None:
        """Fails all calls; the outcome of those that were sent is unknown. Harmless to repeat."""
        self._retire(why)
        if self._timer is not None:
            self._timer.cancel()
        futures = [future for future, _ in self._waiting]
        futures += [future for _, future, _ in self._unsent]
        self._waiting.clear()
        self._unsent.clear()
        for future in futures:
            if not future.done():
                error = RedisUnavailable(why)
                error.__cause__ = cause
                future.set_exception(error)
        if self._transport is None:
            self.gone.set()
        else:
            self._transport.abort()

    def _retire(self, why: str) -> None:
        """From here on it takes no calls. The first reason is the one that is told."""
        if self.is_usable:
            self.is_usable = False
            self.why_unusable = why
            self._retired_at = monotonic()

    def _flush(self) -> None:
        """Writes what this turn of the loop brought since it was last written.

        Flow control would add nothing: whatever the transport has to keep belongs to calls that
        wait for a reply, so CALLS_MAX bounds it, and a server that stops reading falls silent.
        """
        commands = []
        for command, future, started_at in self._unsent:
            if not future.done():  # who gives up before the command has left, changes nothing
                commands.append(command)
                self._waiting.append((future, started_at))
        self._unsent.clear()
        if commands and self._transport is not None:
            self._transport.write(b"".join(commands))
            self._metrics.batch_sent(len(commands))

    # ------------------------------------------------------------------ deadlines

    def _deadline_passed(self) -> None:
        # A loop that was held up may run timers before it reads what has come in meanwhile. It has
        # read that a tick later, and no call is given up whose reply was there.
        self._timer = self._loop.call_later(_TICK_MS / 1000, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = monotonic()
        started_by = now - self._deadline_s
        expired = []
        while self._unsent and self._unsent[0][2] <= started_by:
            expired.append(self._unsent.popleft()[1])
        while self._oldest_waiting() <= started_by:
            future, started_at = self._waiting[self._overdue]
            self._overdue += 1
            expired.append(future)
            if self._replied_at <= started_at:
                self._fall_silent()
        for future in expired:
            if not future.done():
                future.set_exception(RedisUnavailable("Redis did not answer in time"))
        oldest = min(self._unsent[0][2] if self._unsent else math.inf, self._oldest_waiting())
        if oldest < math.inf:
            left_s = oldest + self._deadline_s - now
            self._timer = self._loop.call_later(left_s, self._deadline_passed)

    def _oldest_waiting(self) -> float:
        """When the first call started that waits for a reply and has time left."""
        if self._overdue < len(self._waiting):
            return self._waiting[self._overdue][1]
        return math.inf

    def _fall_silent(self) -> None:
        """A call went by without a single reply: new calls go to a new connection.

        Those that wait here keep their time, for the server may only have been slow.
        """
        if self.is_usable:
            self._retire("Redis does not answer")
            self._loop.call_later(self._deadline_s, self.close, self.why_unusable)

    # ------------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        now = monotonic()
        self._reader.feed(data)
        while True:
            try:
                reply = self._reader.gets()
            except (hiredis.ProtocolError, MemoryError, TypeError):  # the last: a key is a list
                self.close(_NO_REPLY)
                return
            if reply is _NOTHING:
                return
            if not self._waiting:
                # A server that has no room says so before it is asked.
                is_error = isinstance(reply, hiredis.ReplyError)
                self.close(_refusal(reply) if is_error else _NO_REPLY)
                return
            self._replied_at = now
            future, _ = self._waiting.popleft()
            if self._overdue:
                self._overdue -= 1
            if not future.done():  # cancelled, or past its deadline
                future.set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self.close("the connection to Redis was lost", error)


def _refusal(error: hiredis.ReplyError) -> str:
    return f"Redis refused the connection: {error}"[:200]
