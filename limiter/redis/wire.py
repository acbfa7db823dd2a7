"""One connection: commands go out in order, replies come back in order, and calls end in time.

Calls that differ only in their last words leave as one command, where they leave together. It
writes each call once, or never; it does not connect and does not know what commands mean.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from functools import lru_cache
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

# So many calls at most are one command, which the server works on without a look at anybody else.
JOINT_CALLS_MAX = 16

# How long after its deadline a call is given up.
_TICK_MS = 1

Reply = Any
Words = tuple[str | int | bytes, ...]

# A busy workspace's are sent with every call.
_HEADS_KEPT = 4_096

# The reply to one of several calls: anything else is for all of them.
_PARTS = (list, hiredis.ReplyError)

_NOTHING = object()

_Waiting = tuple[asyncio.Future[Any], float]  # since when
# What it has in common with others, if it may leave with them; the number of its own words, which
# are packed; whose it is, since when.
_Unsent = tuple[Words | None, int, bytes, asyncio.Future[Any], float]

_NO_REPLY = "Redis sent something that is no reply"


class Wire(asyncio.Protocol):
    """One connection, from before it is made until it is gone. It is made once.

    A call is `_unsent` until the connection is set up and either a batch is full or the turn of the
    loop ends, then `_waiting` for its reply. Both are in the order of the calls' starts, which is
    that of their deadlines: one timer serves all. (A call that left with others as one command
    stands beside the first of them, and those it overtook are given up with it: a turn later.)
    """

    def __init__(self, deadline_s: float, metrics: Metrics | None = None) -> None:
        self._metrics = metrics or Metrics()
        self._loop = asyncio.get_running_loop()
        self._deadline_s = deadline_s
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._transport: asyncio.Transport | None = None
        self._is_set_up = False
        self._unsent: deque[_Unsent] = deque()
        self._waiting: deque[_Waiting] = deque()
        self._answered: deque[int] = deque()  # how many of `_waiting` each reply to come is for
        self._overdue = 0  # so many at the front of `_waiting` are past their deadline
        self._replied_at = -math.inf
        self._retired_at = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self.is_usable = True
        self.why_unusable = ""
        self.gone = asyncio.Event()

    def call(self, command: bytes) -> asyncio.Future[Reply]:
        """Queues a command, while `is_usable`. The future is done by the deadline."""
        return self._queue(None, 0, command)

    def call_jointly(self, head: Words, words: Words) -> asyncio.Future[Reply]:
        """As `call`, of `head` and `words`. Calls of one head may leave as one command: the head,
        and then the words of each. The reply to that is a list of their replies, or one for all of
        them: an error, or a list that begins neither with a list nor with an error.
        """
        return self._queue(head, len(words), _bulks(words))

    def _queue(self, head: Words | None, width: int, words: bytes) -> asyncio.Future[Reply]:
        if len(self._waiting) + len(self._unsent) >= CALLS_MAX:
            raise RedisUnavailable("too many calls are waiting for Redis")
        future: asyncio.Future[Reply] = self._loop.create_future()
        if self._is_set_up and not self._unsent:
            self._loop.call_soon(self._flush)
        if self._timer is None:
            self._timer = self._loop.call_later(self._deadline_s, self._deadline_passed)
        self._unsent.append((head, width, words, future, monotonic()))
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
            self._answered.append(1)
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
        futures += [future for *_, future, _ in self._unsent]
        self._waiting.clear()
        self._answered.clear()
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
        commands: list[_Command] = []
        joint: dict[Words, _Command] = {}
        for head, width, words, future, started_at in self._unsent:
            if future.done():  # who gives up before the command has left, changes nothing
                continue
            command = None if head is None else joint.get(head)
            if command is None or len(command.calls) == JOINT_CALLS_MAX:
                command = _Command(head)
                commands.append(command)
                if head is not None:
                    joint[head] = command
            command.add(width, words, (future, started_at))
        self._unsent.clear()
        if not commands or self._transport is None:
            return
        sent = 0
        for command in commands:
            self._waiting += command.calls
            self._answered.append(len(command.calls))
            sent += len(command.calls)
        self._transport.write(b"".join([command.packed() for command in commands]))
        self._metrics.batch_sent(sent)

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
        while self._unsent and self._unsent[0][-1] <= started_by:
            expired.append(self._unsent.popleft()[-2])
        while self._oldest_waiting() <= started_by:
            future, started_at = self._waiting[self._overdue]
            self._overdue += 1
            expired.append(future)
            if self._replied_at <= started_at:
                self._fall_silent()
        for future in expired:
            if not future.done():
                future.set_exception(RedisUnavailable("Redis did not answer in time"))
        oldest = min(self._unsent[0][-1] if self._unsent else math.inf, self._oldest_waiting())
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
            count = self._answered.popleft()
            for part in (reply,) if count == 1 else _parted(reply, count):
                future, _ = self._waiting.popleft()
                if self._overdue:
                    self._overdue -= 1
                if not future.done():  # cancelled, or past its deadline
                    future.set_result(part)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self.close("the connection to Redis was lost", error)


class _Command:
    """What leaves as one command, and the calls that it is. `head` None: one that is complete."""

    __slots__ = ("_head", "_parts", "_width", "calls")

    def __init__(self, head: Words | None) -> None:
        self.calls: list[_Waiting] = []
        self._head = head
        self._width = 0
        self._parts: list[bytes] = []

    def add(self, width: int, words: bytes, call: _Waiting) -> None:
        self.calls.append(call)
        self._width += width
        self._parts.append(words)

    def packed(self) -> bytes:
        if self._head is None:
            return self._parts[0]
        width = len(self._head) + self._width
        return b"".join((b"*%d\r\n" % width, _head_bulks(self._head), *self._parts))


def pack(command: Words) -> bytes:
    """A command as it leaves."""
    # hiredis declares a tuple of one item and takes any number.
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]
    return packed


def _bulks(words: Words) -> bytes:
    """Words as a command has them, without the count that it begins with."""
    packed = pack(words)
    return packed[packed.index(b"\n") + 1 :]


_head_bulks = lru_cache(maxsize=_HEADS_KEPT)(_bulks)


def _parted(reply: Reply, count: int) -> list[Reply]:
    """The reply to each of so many calls that left as one command."""
    if isinstance(reply, list) and len(reply) == count and isinstance(reply[0], _PARTS):
        return reply
    return [reply] * count


def _refusal(error: hiredis.ReplyError) -> str:
    return f"Redis refused the connection: {error}"[:200]
