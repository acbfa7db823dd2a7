"""What reading and removing stream entries costs Redis: without a consumer group, and with one.

Entries of a hold, in batches of a pass, with the append-only file on. The processor time of the
server's process counts, which `INFO commandstats` has not all of: what a group remembers goes to
the append-only file as well. It must not know what a pass does between the two.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import redis

from bench.processes import processor_us
from bench.report import Results, median_row, ratios
from bench.scene import WORKSPACE, check_arguments, keys_of, put_workspace
from bench.servers import embedded_client, redis_name
from limiter.redis.scripts import bundled_scripts
from limiter.snapshot import BATCH_MAX

NAME = "drain"

ENTRIES = 40_000
FILL = 500
GROUP = "group"


def measure(rounds: int) -> Results:
    """On an embedded server of its own."""
    with embedded_client() as client:
        software = redis_name(client.info("server"))
        costs = _microseconds(client, rounds)
    ours, grouped = costs.values()
    rows = [median_row(f"Redis, an entry {name}", values, "µs") for name, values in costs.items()]
    rows.append(median_row("with a group / without", ratios(grouped, ours), "×"))
    return Results(
        name=NAME,
        title="What draining a stream costs Redis",
        rows=rows,
        rounds=rounds,
        conditions=[
            f"{ENTRIES:,} entries of holds a round, in batches of {BATCH_MAX:,}.",
            "The processor time of the server's process, its append-only file included.",
        ],
        software=[software],
    )


def _microseconds(client: redis.Redis, rounds: int) -> dict[str, list[float]]:
    scripts = bundled_scripts()
    check = str(client.script_load(scripts["check"].text))
    trim = str(client.script_load(scripts["trim"].text))
    put_workspace(client, WORKSPACE)
    keys = keys_of(WORKSPACE)
    stream = keys[1]
    client.delete(stream)
    pid: int = client.info("server")["process_id"]

    def read_and_trim() -> int:
        entries: Any = client.execute_command("XRANGE", stream, "-", "+", "COUNT", BATCH_MAX)
        if entries:
            client.evalsha(trim, 1, stream, entries[0][0], entries[-1][0])
        return len(entries)

    def read_as_group() -> int:
        reply: Any = client.xreadgroup(GROUP, "consumer", {stream: ">"}, count=BATCH_MAX)
        if not reply:
            return 0
        stream_ids = [stream_id for stream_id, _ in reply[0][1]]
        pipeline = client.pipeline(transaction=True)
        pipeline.execute_command("XACK", stream, GROUP, *stream_ids)
        pipeline.execute_command("XDEL", stream, *stream_ids)
        pipeline.execute()
        return len(stream_ids)

    ways: dict[str, Callable[[], int]] = {
        "read and trimmed": read_and_trim,
        "read by a group, acknowledged and deleted": read_as_group,
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, read in ways.items():
            for first in range(0, ENTRIES, FILL):
                pipeline = client.pipeline(transaction=False)
                for entry in range(first, first + FILL):
                    arguments = check_arguments(f"{number}-{entry}-{len(name)}")
                    pipeline.execute_command("EVALSHA", check, 2, *keys, *arguments)
                pipeline.execute()
            with contextlib.suppress(redis.ResponseError):  # it is there already
                client.xgroup_create(stream, GROUP, "0")
            before_us = processor_us(pid)
            moved = 0
            while batch := read():
                moved += batch
            assert moved == ENTRIES, moved
            found[name].append((processor_us(pid) - before_us) / moved)
            client.delete(stream)
    return found
