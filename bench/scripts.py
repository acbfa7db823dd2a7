"""What each script costs inside Redis, beside an empty script (`return 1`) in the same run.

Four windows, and a chat tree two deep. The server's own accounting (`INFO commandstats`) is read,
so the network and the client do not count. Medians of several rounds that take turns.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import redis

from limiter.periods import PERIOD_NAMES
from limiter.redis.keys import Keys
from limiter.redis.scripts import bundled_scripts

ROUNDS = 7
CALLS = 4_000
PIPELINE = 200
MEMORY_MS = 3_600_000
LIMIT_MICROS = 10**14

Call = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds a call inside the server, and as a multiple of an empty script's."""

    name: str
    microseconds: float
    multiple: float


def measure(client: redis.Redis) -> list[Cost]:
    """Empties the server and measures on it."""
    client.flushall()
    scripts = bundled_scripts()
    digests = {name: str(client.script_load(scripts[name].text)) for name in scripts.names}
    empty = str(client.script_load("return 1"))
    keys = Keys()
    workspace, stream = keys.workspace("bench"), keys.stream("bench")

    numbers = dict.fromkeys(("seq", "spent_at", "clock", "unpriced"), "0")
    limits = {f"limit.{name}": str(LIMIT_MICROS) for name in PERIOD_NAMES}
    stored = {**numbers, "config": limits, "revision": "1", "windows": {}, "holds": []}
    client.evalsha(digests["load_workspace"], 1, workspace, json.dumps(stored))

    def check(estimate: int, number: int, chat: str = "leaf", *new: str | int) -> Call:
        parent, limit, is_new = new or ("", "", 0)
        return (
            *(
                "EVALSHA",
                digests["check"],
                2,
                workspace,
                stream,
                MEMORY_MS,
                estimate,
                f"r{number}",
                1,
            ),
            *("fingerprint", 600_000, chat, parent, limit, is_new),
        )

    def record(number: int) -> Call:
        usage = '{"model":"gpt-4o","input_tokens":4808,"output_tokens":10}'
        return (
            *("EVALSHA", digests["record"], 2, workspace, stream, MEMORY_MS, f"e{number}", 0),
            *("fingerprint", 9_000, f"r{number}", "leaf", "", "", 0, "", "", "", "", 1, usage),
        )

    client.execute_command(*check(0, 0, "root", "", LIMIT_MICROS, 1))
    client.execute_command(*check(0, 0, "leaf", "root", "", 1))
    kinds: dict[str, Callable[[int], Call]] = {
        "an empty script": lambda _: ("EVALSHA", empty, 0),
        "check without a hold": lambda number: check(0, number),
        "check holding": lambda number: check(12_000, number),
        "record, settling that hold": record,
    }
    microseconds: dict[str, list[float]] = {name: [] for name in kinds}
    for round_number in range(ROUNDS):
        first = round_number * CALLS
        for name, call in kinds.items():
            client.config_resetstat()
            for start in range(first, first + CALLS, PIPELINE):
                pipeline = client.pipeline(transaction=False)
                for number in range(start, start + PIPELINE):
                    pipeline.execute_command(*call(number))
                replies = pipeline.execute()
            assert name == "an empty script" or replies[-1][0] in (b"admitted", b"recorded")
            usage = client.info("commandstats")["cmdstat_evalsha"]["usec_per_call"]
            microseconds[name].append(float(usage))
        client.delete(stream)
    medians = {name: statistics.median(values) for name, values in microseconds.items()}
    base = medians["an empty script"]
    return [Cost(name, value, value / base) for name, value in medians.items()]
