"""What each script costs inside Redis, beside an empty script (`return 1`) in the same run.

Four windows, and a chat tree two deep. The server's own accounting (`INFO commandstats`) is read,
so the network and the client do not count. Medians of several rounds that take turns.
"""

from __future__ import annotations

from collections.abc import Callable

import redis

from bench.report import AtMost, Results, Row, median_row, ratios
from bench.scene import (
    ESTIMATE_MICROS,
    WORKSPACE,
    Argument,
    check_arguments,
    keys_of,
    put_workspace,
    record_arguments,
)
from bench.servers import embedded_client, redis_name
from limiter.redis.scripts import bundled_scripts
from limiter.redis.wire import JOINT_CALLS_MAX

NAME = "scripts"
EMPTY = "an empty script"
# Multiples of an empty script's time.
BARS = {
    "check without a hold": AtMost(12),
    "check holding": AtMost(22),
    "record, settling that hold": AtMost(25),
}
JOINTLY = f", {JOINT_CALLS_MAX} in one call, each"
_UP_TO = f"up to {JOINT_CALLS_MAX}"
CALLS = 4_000
PIPELINE = 200
DEPTHS = (1, 2, 4, 8, 16, 32)
WORKSPACES = 2_000

Call = tuple[Argument, ...]
# The command of a number that no other command of its kind has.
Commands = Callable[[int], Call]


def measure(rounds: int) -> Results:
    """On an embedded server of its own."""
    with embedded_client() as client:
        software = redis_name(client.info("server"))
        costs = server_microseconds(client, rounds)
    base = costs[EMPTY]
    rows: list[Row] = []
    for name, microseconds in costs.items():
        rows.append(median_row(name, microseconds, "µs"))
        if name in BARS or name.endswith(JOINTLY):
            multiples = ratios(microseconds, base)
            rows.append(median_row(f"{name} / {EMPTY}", multiples, "×", bar=BARS.get(name)))
    return Results(
        name=NAME,
        title="What a script costs inside Redis",
        rows=rows,
        rounds=rounds,
        conditions=[
            f"{CALLS:,} calls of each a round, in pipelines of {PIPELINE}.",
            "The server's own accounting (`INFO commandstats`): network and client do not count.",
            "Four windows, and a chat tree two deep.",
            f"Of the calls of a workspace that come together the service makes one, of {_UP_TO}.",
        ],
        software=[software],
    )


def server_microseconds(client: redis.Redis, rounds: int) -> dict[str, list[float]]:
    """Empties the server and measures on it: microseconds a call, of every round."""
    client.flushall()
    scripts = bundled_scripts()
    digests = {name: str(client.script_load(scripts[name].text)) for name in scripts.names}
    empty = str(client.script_load("return 1"))
    put_workspace(client, WORKSPACE)
    keys = keys_of(WORKSPACE)

    def check(estimate: int, number: int) -> Call:
        arguments = check_arguments(f"r{number}", estimate_micros=estimate)
        return ("EVALSHA", digests["check"], 2, *keys, *arguments)

    def check_below(depth: int) -> Commands:
        lowest = _chain(client, digests["check"], keys, depth)
        return lambda number: (
            *("EVALSHA", digests["check"], 2, *keys),
            *check_arguments(f"d{depth}-{number}", chat=lowest),
        )

    def record(number: int) -> Call:
        arguments = record_arguments(f"e{number}", f"r{number}")
        return ("EVALSHA", digests["record"], 2, *keys, *arguments)

    def jointly(script: str, arguments: Callable[[int], tuple[Argument, ...]]) -> Commands:
        """The command of so many calls, which differ in all arguments but the first."""

        def command(number: int) -> Call:
            first = number * JOINT_CALLS_MAX
            calls = [arguments(first + place) for place in range(JOINT_CALLS_MAX)]
            words = [word for call in calls for word in call[1:]]
            return ("EVALSHA", digests[script], 2, *keys, calls[0][0], *words)

        return command

    kinds: dict[str, Commands] = {
        EMPTY: lambda _: ("EVALSHA", empty, 0),
        "check without a hold": lambda number: check(0, number),
        "check holding": lambda number: check(ESTIMATE_MICROS, number),
        "record, settling that hold": record,
        f"check without a hold{JOINTLY}": jointly(
            "check", lambda number: check_arguments(f"j{number}", estimate_micros=0)
        ),
        f"check holding{JOINTLY}": jointly("check", lambda number: check_arguments(f"j{number}")),
        f"record, settling that hold{JOINTLY}": jointly(
            "record", lambda number: record_arguments(f"je{number}", f"j{number}")
        ),
        "check holding, no chat": lambda number: (
            *("EVALSHA", digests["check"], 2, *keys),
            *check_arguments(f"n{number}", chat=""),
        ),
        **{f"check holding, tree of depth {depth}": check_below(depth) for depth in DEPTHS},
        f"check holding, {WORKSPACES:,} workspaces in turn": _in_turn(client, digests["check"]),
    }
    microseconds: dict[str, list[float]] = {name: [] for name in kinds}
    for round_number in range(rounds):
        for name, command in kinds.items():
            client.config_resetstat()
            at_once = JOINT_CALLS_MAX if name.endswith(JOINTLY) else 1
            commands, in_pipeline = CALLS // at_once, PIPELINE // at_once
            first = round_number * commands
            for start in range(first, first + commands, in_pipeline):
                pipeline = client.pipeline(transaction=False)
                for number in range(start, min(start + in_pipeline, first + commands)):
                    pipeline.execute_command(*command(number))
                replies = pipeline.execute()
            if name != EMPTY:
                last = replies[-1] if at_once == 1 else replies[-1][-1]
                assert last[0] in (b"admitted", b"recorded"), last
            usage = client.info("commandstats")["cmdstat_evalsha"]["usec_per_call"]
            microseconds[name].append(float(usage) / at_once)
        client.delete(keys[1])
    return microseconds


def _chain(client: redis.Redis, check: str, keys: tuple[str, str], depth: int) -> str:
    """A chat so many below, its root included; the id of the lowest."""
    parent = ""
    for level in range(1, depth + 1):
        chat = f"depth-{depth}-{level}"
        arguments = check_arguments("-", estimate_micros=0, chat=chat, parent=parent, is_new=True)
        reply = client.evalsha(check, 2, *keys, *arguments)
        assert reply[0] == b"admitted", reply
        parent = chat
    return parent


def _in_turn(client: redis.Redis, check: str) -> Commands:
    """One workspace after the other, so that no cache of the processor has it at hand."""
    names = [f"turn-{number}" for number in range(WORKSPACES)]
    for name in names:
        put_workspace(client, name)
    every = [keys_of(name) for name in names]
    return lambda number: (
        *("EVALSHA", check, 2, *every[number % WORKSPACES]),
        *check_arguments(f"t{number}"),
    )
