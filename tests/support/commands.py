"""Which commands a server ran, those inside scripts included."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

import redis


@contextlib.contextmanager
def counted_commands(client: redis.Redis) -> Iterator[Counter[str]]:
    """The commands that run inside the block, by name in capitals; filled in at its end."""
    counts: Counter[str] = Counter()
    client.execute_command("CONFIG", "RESETSTAT")
    yield counts
    for name, fields in client.info("commandstats").items():
        counts[name.removeprefix("cmdstat_").upper()] = int(fields["calls"])
    for name in ("CONFIG|RESETSTAT", "INFO"):
        counts.pop(name, None)
