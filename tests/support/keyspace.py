"""All of a server's data as one value, so that a test can say that nothing has changed."""

from __future__ import annotations

from typing import Any

import redis

_READ = {
    b"string": ("GET",),
    b"hash": ("HGETALL",),
    b"zset": ("ZRANGE", 0, -1, "WITHSCORES"),
    b"stream": ("XRANGE", "-", "+"),
}


def dump(client: redis.Redis) -> dict[bytes, tuple[bytes, Any, bool]]:
    """Per key: its type, its content, whether it will expire."""
    found = {}
    for key in client.execute_command("KEYS", "*"):
        kind: Any = client.execute_command("TYPE", key)
        command, *arguments = _READ[kind]
        content = client.execute_command(command, key, *arguments)
        expires = int(client.execute_command("PTTL", key)) >= 0
        found[key] = (kind, content, expires)
    return found
