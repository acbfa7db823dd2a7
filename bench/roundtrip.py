"""The script of a check alone, from one caller who waits for each reply: a socket and Redis.

No limiter takes less for a call than this. The caller has the core that a worker has. It must not
know the service.
"""

from __future__ import annotations

import os
import socket
import statistics
import time
from pathlib import Path

import hiredis

from bench.scene import check_arguments, keys_of
from limiter.redis.scripts import bundled_scripts
from limiter.redis.wire import pack

CALLS = 2_000
_READ_BYTES = 65_536


def round_trip_ms(socket_path: Path, database: int, workspace_id: str, core: int) -> float:
    """The p50 of a check that holds, by a caller on this core. The workspace is there already."""
    digest, keys = bundled_scripts()["check"].sha, keys_of(workspace_id)
    cores = os.sched_getaffinity(0)
    reader = hiredis.Reader()
    latencies: list[float] = []
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(socket_path))
        _reply(connection, reader, ("SELECT", database))
        os.sched_setaffinity(0, {core})
        try:
            for number in range(CALLS):
                arguments = check_arguments(f"r{number}")
                begin = time.perf_counter()
                reply = _reply(connection, reader, ("EVALSHA", digest, 2, *keys, *arguments))
                latencies.append((time.perf_counter() - begin) * 1_000)
                assert isinstance(reply, list), reply
        finally:
            os.sched_setaffinity(0, cores)
    return statistics.median(latencies)


def _reply(
    connection: socket.socket, reader: hiredis.Reader, command: tuple[str | int, ...]
) -> object:
    connection.sendall(pack(command))
    while (reply := reader.gets()) is False:
        reader.feed(connection.recv(_READ_BYTES))
    return reply
