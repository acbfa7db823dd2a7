"""The one factory for Redis connections, and the look at the server that decides about the start.

Every client of the service is made here, so that none is left with redis-py's defaults: those send
a command again when only its reply was lost, wait for many seconds on a frozen server, and raise
when more callers than connections are waiting. What a command means is decided elsewhere, and so is
what its failure means: the exceptions of redis-py pass through.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import UnixDomainSocketConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from limiter.errors import RedisUnavailable, StartupError
from limiter.redis.binaries import VERSION_MIN

POLICY_NEEDED = "noeviction"

# What a URL may say: where the server is and who we are. How we talk to it is decided here.
_URL_OPTIONS = frozenset({"connection_class", "db", "host", "password", "path", "port", "username"})


@dataclass(frozen=True)
class ServerInfo:
    """What a server says of itself.

    `engine` is `redis` or `valkey`, `version` the engine's own. `run_id` is another one after each
    start of the server. `role` is `master` or `slave`, in the server's words.
    """

    engine: str
    version: str
    run_id: str
    role: str
    cluster_enabled: bool
    aof_enabled: bool


def parse_redis_url(url: str) -> dict[str, Any]:
    """The connection options that a `redis://`, `rediss://` or `unix://` URL stands for.

    Raises StartupError, which never repeats the URL: it may hold a password.
    """
    try:
        options = dict(parse_url(url))
    except ValueError:
        raise StartupError(
            "the Redis URL is not valid: it must look like redis://host:6379/0, "
            "rediss://user:password@host:6379/0 or unix:///path/to/server.sock"
        ) from None
    encrypted = url.startswith("rediss:")
    for name in sorted(options.keys() - _URL_OPTIONS):
        if not (encrypted and name.startswith("ssl_")):
            raise StartupError(f"the Redis URL has an option that is not accepted: {name!r}")
    return options


def make_client(
    url: str,
    *,
    deadline_ms: int,
    connect_ms: int,
    max_connections: int,
    client_name: str = "limiter",
) -> Redis:
    """A client of one server, which connects when it is first used and never sends a command twice.

    `deadline_ms` bounds each step by itself: waiting for a free connection, writing, and waiting
    for the reply; `connect_ms` bounds opening a connection. A caller that needs a bound on the
    whole puts its own around the call, which redis-py survives by dropping the connection. Replies
    are bytes.

    More callers than `max_connections` wait in line. Raises StartupError if the URL is not usable.
    """
    options = parse_redis_url(url)
    if options.get("connection_class") is UnixDomainSocketConnection:
        options["connection_class"] = _UnixConnection
    pool = BlockingConnectionPool(
        **options,
        max_connections=max_connections,
        timeout=deadline_ms / 1000,
        socket_timeout=deadline_ms / 1000,
        socket_connect_timeout=connect_ms / 1000,
        # Both the connection and every command ask this object whether to try again.
        retry=Retry(NoBackoff(), 0),
        retry_on_error=[],
        health_check_interval=0,
        client_name=client_name,
        # Naming the library costs a round trip, and Redis 6 and 7.0 count it as an error.
        driver_info=None,
        # Every server and proxy speaks it; scripts answer with strings and integers only.
        protocol=2,
        decode_responses=False,
    )
    client = Redis.from_pool(pool)
    # A dict of every entry's fields would only be taken apart again (see durable/parse.py).
    client.set_response_callback("XRANGE", _as_it_came)
    return client


async def verify_server(client: Redis) -> ServerInfo:
    """Asks the server what it is. Raises StartupError if counters would not be safe in it, or if
    it refuses us.

    Uses INFO only, which managed servers allow where they forbid CONFIG. Raises RedisUnavailable
    if it does not answer.
    """
    try:
        info: dict[str, Any] = await client.info()
    except (AuthenticationError, AuthorizationError, NoPermissionError) as error:
        # It is there, and waiting for it would not help.
        raise StartupError(
            f"Redis refuses the user or the password of the Redis URL: {error}"[:300]
        ) from error
    except (RedisError, OSError) as error:
        raise RedisUnavailable(f"Redis cannot be reached: {type(error).__name__}") from error
    version_text = str(info.get("redis_version", ""))
    if _version(version_text) < VERSION_MIN:
        raise StartupError(
            f"Redis {'.'.join(map(str, VERSION_MIN))} or later is needed, "
            f"this server says {version_text or 'nothing'}"
        )
    policy = info.get("maxmemory_policy") or await _configured_policy(client)
    if policy != POLICY_NEEDED:
        raise StartupError(
            f"the Redis server's maxmemory-policy is {policy or 'unknown'}: when its memory is "
            "full, it would drop spend counters and holds instead of refusing to write, and limits "
            f"would no longer hold. It must be {POLICY_NEEDED}: run "
            f"`redis-cli CONFIG SET maxmemory-policy {POLICY_NEEDED}` and write the same into the "
            "server's configuration, or set it where your provider keeps its parameters."
        )
    valkey_version = info.get("valkey_version")
    return ServerInfo(
        engine="redis" if valkey_version is None else "valkey",
        version=str(valkey_version or version_text),
        run_id=str(info["run_id"]),
        role=str(info["role"]),
        cluster_enabled=bool(info.get("cluster_enabled")),
        aof_enabled=bool(info.get("aof_enabled")),
    )


async def _configured_policy(client: Redis) -> str | None:
    """For servers whose INFO lacks the field."""
    try:
        found: dict[Any, Any] = await client.config_get("maxmemory-policy")
    except ResponseError:
        return None
    return found.get("maxmemory-policy")


def _version(text: str) -> tuple[int, ...]:
    """`7.0.15` as (7, 0, 15); a version of another shape as (), which is lower than any."""
    parts = text.split(".")
    return tuple(map(int, parts)) if all(part.isdigit() for part in parts) else ()


def _as_it_came(response: Any, **kwargs: Any) -> Any:  # as redis-py calls it
    return response


class _UnixConnection(UnixDomainSocketConnection):
    """A connection whose failures keep their meaning.

    redis-py shakes hands twice on a unix socket, first while it opens the connection, where it
    turns whatever goes wrong into a ConnectionError: also a timeout and a refused password. That
    first handshake calls this method; the second one, which every connection has, does not.
    """

    async def on_connect(self) -> None:
        return
