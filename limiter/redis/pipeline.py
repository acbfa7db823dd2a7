"""One connection to one server, shared by all calls of a process.

Commands of one event-loop turn leave in few writes, and replies come back in order: many callers
cost few system calls. Each call has its own deadline and its own outcome; a late reply is taken off
the wire and dropped. Nothing is ever sent twice. It must not know what commands mean.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from redis.asyncio.connection import RedisSSLContext, SSLConnection
from redis.exceptions import RedisError

from limiter.errors import RedisUnavailable, StartupError
from limiter.metrics import Metrics
from limiter.redis.connect import parse_redis_url
from limiter.redis.wire import Reply, Wire, Words, pack

# After a failed attempt to connect, callers are answered at once for so long.
RECONNECT_PAUSE_MS = 50

_CLOSED = "the client was closed"


class Pipeline:
    """Calls over one connection, which is made when it is first needed and again when it broke.

    `deadline_ms` bounds every call, connecting included; `connect_ms` an attempt to connect. Safe
    for concurrent use on one loop. Raises StartupError for a URL that cannot be used.
    """

    def __init__(
        self, url: str, *, deadline_ms: int, connect_ms: int, metrics: Metrics | None = None
    ) -> None:
        self._options = parse_redis_url(url)
        self._tls = _tls_context(self._options)
        self._handshake = _handshake(self._options)
        self._connect_s = connect_ms / 1000
        self._metrics = metrics or Metrics()
        self._wire: Wire | None = None
        self._keepers: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self.deadline_s = deadline_ms / 1000

    async def call(self, *command: str | int | bytes) -> Reply:
        """The reply; errors of the server are returned, as `hiredis.ReplyError`.

        Raises RedisUnavailable when there is none in time. The command may have run then.
        """
        return await self.send(*command)

    def send(self, *command: str | int | bytes) -> asyncio.Future[Reply]:
        """As `call`, for those who await it at once: it may raise before there is a future."""
        packed = pack(command)
        return self._usable_wire().call(packed)

    def send_jointly(self, head: Words, words: Words) -> asyncio.Future[Reply]:
        """As `send`, of `head` and `words`: in one command with others, see `Wire.call_jointly`."""
        return self._usable_wire().call_jointly(head, words)

    async def close(self) -> None:
        """Fails what is waiting, and every later call. No connection is left behind."""
        self._is_closed = True
        if self._wire is not None:
            self._wire.close(_CLOSED)  # its keeper may not have begun, and then never does
        for keeper in self._keepers:
            keeper.cancel()
        if self._keepers:
            await asyncio.wait(self._keepers)

    def _usable_wire(self) -> Wire:
        wire = self._wire
        return self._new_wire() if wire is None or not wire.is_usable else wire

    def _new_wire(self) -> Wire:
        """A connection that is still being made; calls can be queued on it."""
        if self._is_closed:
            raise RedisUnavailable(_CLOSED)
        failed = self._wire
        if failed is not None and failed.is_failure_of_late(RECONNECT_PAUSE_MS / 1000):
            raise RedisUnavailable(failed.why_unusable)
        wire = self._wire = Wire(self.deadline_s, self._metrics)
        # The set is what keeps a task from being collected while it runs.
        keeper = asyncio.create_task(self._keep(wire))
        self._keepers.add(keeper)
        keeper.add_done_callback(self._keepers.discard)
        return wire

    async def _keep(self, wire: Wire) -> None:
        """Makes a connection and stays until it is gone, which a cancellation brings about."""
        try:
            async with asyncio.timeout(self._connect_s):
                await self._connect(wire)
                await wire.set_up(self._handshake)
            await wire.gone.wait()
        except (OSError, UnicodeError) as error:  # a host name can be one that cannot be encoded
            wire.close(f"Redis cannot be reached: {type(error).__name__}", error)
        except RedisUnavailable as error:
            wire.close(str(error))
        finally:
            wire.close(_CLOSED)
            await wire.gone.wait()

    async def _connect(self, wire: Wire) -> None:
        loop, options = asyncio.get_running_loop(), self._options
        if "path" in options:
            await loop.create_unix_connection(lambda: wire, options["path"])
        else:
            host, port = options.get("host", "localhost"), options.get("port", 6379)
            await loop.create_connection(lambda: wire, host, port, ssl=self._tls)


def _handshake(options: dict[str, Any]) -> list[bytes]:
    commands: list[tuple[str, ...]] = []
    user, password = options.get("username"), options.get("password")
    if user or password:
        commands.append(("AUTH", *([user] if user else []), password or ""))
    commands.append(("CLIENT", "SETNAME", "limiter"))
    if options.get("db"):
        commands.append(("SELECT", str(options["db"])))
    return [pack(command) for command in commands]


def _tls_context(options: dict[str, Any]) -> ssl.SSLContext | None:
    """Made by redis-py from the URL's `ssl_` options: all our connections mean the same by them.

    It is made once, because it reads files, which would hold up the loop.
    """
    if options.get("connection_class") is not SSLConnection:
        return None
    given = {
        name.removeprefix("ssl_"): value
        for name, value in options.items()
        if name.startswith("ssl_")
    }
    try:
        context = RedisSSLContext(**{"cert_reqs": "required", "check_hostname": True, **given})
        return context.get()
    except (OSError, TypeError, ValueError, RedisError) as error:
        raise StartupError(f"the TLS options of the Redis URL cannot be used: {error}") from error
