"""A closer look at one server than the start takes, for `limiter doctor`. It changes nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from limiter.errors import RedisUnavailable
from limiter.redis.connect import ServerInfo, verify_server


@dataclass(frozen=True, slots=True)
class Examined:
    """What a server says of itself, beyond what `ServerInfo` has.

    `bytes_max` 0: no limit is set. `clock_ms` is the server's; `ahead_ms`, by how much it is ahead
    of this machine's, give or take the time of a round trip.
    """

    info: ServerInfo
    bytes_used: int
    bytes_max: int
    system_bytes: int
    append_only_file_ok: bool
    dump_ok: bool
    clock_ms: int
    ahead_ms: int


async def examine(client: Redis) -> Examined:
    """Raises StartupError where counters would not be safe, and RedisUnavailable."""
    info = await verify_server(client)
    try:
        said: dict[str, Any] = await client.info()
        before_ns = time.time_ns()
        seconds, microseconds = await client.time()
        machine_ms = (before_ns + time.time_ns()) // 2_000_000
    except (RedisError, OSError) as error:
        raise RedisUnavailable(f"Redis cannot be reached: {type(error).__name__}") from error
    clock_ms = int(seconds) * 1_000 + int(microseconds) // 1_000
    return Examined(
        info=info,
        bytes_used=int(said.get("used_memory", 0)),
        bytes_max=int(said.get("maxmemory", 0)),
        system_bytes=int(said.get("total_system_memory", 0)),
        append_only_file_ok=_is_ok(said, "aof_last_write_status")
        and _is_ok(said, "aof_last_bgrewrite_status"),
        dump_ok=_is_ok(said, "rdb_last_bgsave_status"),
        clock_ms=clock_ms,
        ahead_ms=clock_ms - machine_ms,
    )


def _is_ok(said: dict[str, Any], field: str) -> bool:
    """A server that does not say so has no trouble that it knows of."""
    return bool(said.get(field, "ok") == "ok")
