"""What a check that holds is made of: each of its steps as a script of its own, inside Redis.

The steps are those of `lua/check.lua`, with the shapes and sizes that they have there; what the
call itself costs is taken off. This says why a script costs what it does, and what it would cost at
least: the sum of its commands. It must not know the scripts themselves.
"""

from __future__ import annotations

import redis

from bench.report import Results, median_row
from bench.servers import embedded_client, redis_name
from limiter.periods import PERIOD_NAMES

NAME = "steps"

EMPTY = "an empty script"
ARGUMENTS = "the call's keys and arguments"
REPLY = "the reply"
CALLS = 4_000
PIPELINE = 200

_HASH, _SORTED_SET, _STREAM = "steps:hash", "steps:holds", "steps:stream"
_KEYS = (_HASH, _SORTED_SET, _STREAM)
# As long as the arguments of a check.
_ARGUMENTS = (3_600_000, 12_000, "0" * 32, 1, "f" * 32, 600_000, "leaf", "", "", "")
_NUMBER = 1_795_335_900_123

_WORKSPACE = (
    *("clock", "seq", "held", "evict_at", "expire_at", "epoch"),
    *(f"limit.{name}" for name in PERIOD_NAMES),
    *(f"spent.{name}" for name in PERIOD_NAMES),
)
_CHAT = ("held", "spent.lifetime", "own", "epoch", "parent", "limit.lifetime")

_FIELDS = [word for name in (*_WORKSPACE, *_CHAT) for word in (name, _NUMBER)]


def _read(names: tuple[str, ...]) -> str:
    quoted = ", ".join(f"'{name}'" for name in names)
    parsed = ", ".join(f"f[{place}] + 0" for place in range(1, len(names) + 1))
    return f"local f = redis.call('HMGET', KEYS[1], {quoted}) local t = {{ {parsed} }}"


_HOLD = (
    "'micros'",
    _NUMBER,
    "'chat'",
    "'leaf'",
    "'expires_at'",
    _NUMBER,
    "'fingerprint'",
    "ARGV[5]",
)
_ENTRY = (
    *("'type'", "'hold'", "'workspace'", "'acme'", "'seq'", _NUMBER, "'at'", _NUMBER),
    *("'reservation'", "ARGV[3]", *_HOLD),
)
_SAVED = ("'clock'", _NUMBER, "'seq'", _NUMBER, "'held'", _NUMBER)


def _call(command: str, *words: str | int) -> str:
    return f"redis.call('{command}', {', '.join(map(str, words))})"


# By name: what runs before `return 1`, and how often a check with a tree of two does it.
STEPS: dict[str, tuple[str, int]] = {
    "fifteen local functions": (" ".join(f"local function f{n}() end" for n in range(15)), 1),
    "TIME": ("local t = redis.call('TIME')", 1),
    "a workspace: HMGET of 14 fields, parsed": (_read(_WORKSPACE), 1),
    "a chat: HMGET of 6 fields, parsed": (_read(_CHAT), 2),
    "a hold: HSET of 4 fields": (_call("HSET", "KEYS[1]", *_HOLD), 1),
    "a hold: ZADD": (_call("ZADD", "KEYS[2]", _NUMBER, "ARGV[3]"), 1),
    "the stream: XADD of 9 fields": (_call("XADD", "KEYS[3]", "'*'", *_ENTRY), 1),
    "a chat: HSET of 1 field": (_call("HSET", "KEYS[1]", "'held'", _NUMBER), 2),
    "the workspace: HSET of 3 fields": (_call("HSET", "KEYS[1]", *_SAVED), 1),
}
_REPLY = (
    f"return {{ 'admitted', ARGV[3], 12000, {_NUMBER}, 0, "
    f"1, {', '.join(['1000000, 12000'] * len(PERIOD_NAMES))}, "
    "'leaf', 'root', 'root', 12000, '', 12000, 12000 }"
)


def measure(rounds: int) -> Results:
    """On an embedded server of its own."""
    with embedded_client() as client:
        software = redis_name(client.info("server"))
        microseconds = _microseconds(client, rounds)
    empty, bare = microseconds.pop(EMPTY), microseconds.pop(ARGUMENTS)
    parts = {EMPTY: empty, ARGUMENTS: _beyond(bare, empty)}
    for name, values in microseconds.items():
        times = STEPS[name][1] if name in STEPS else 1
        label = name if times == 1 else f"{name}, {times} times"
        parts[label] = [times * used for used in _beyond(values, bare)]
    return Results(
        name=NAME,
        title="What a check that holds is made of, inside Redis",
        rows=[
            *(median_row(name, values, "µs") for name, values in parts.items()),
            median_row(
                "all of that", [sum(each) for each in zip(*parts.values(), strict=True)], "µs"
            ),
        ],
        rounds=rounds,
        conditions=[
            f"{CALLS:,} calls of each a round, in pipelines of {PIPELINE}.",
            "The server's own accounting (`INFO commandstats`): network and client do not count.",
            "Each step is a script of its own; the time of the same call without it is taken off.",
        ],
        software=[software],
    )


def _beyond(values: list[float], bases: list[float]) -> list[float]:
    """Round by round, what is above the base."""
    return [value - base for value, base in zip(values, bases, strict=True)]


def _microseconds(client: redis.Redis, rounds: int) -> dict[str, list[float]]:
    """A call of each step, in every round."""
    texts = {name: f"{text} return 1" for name, (text, _) in STEPS.items()}
    digests = {
        name: str(client.script_load(text))
        for name, text in {
            EMPTY: "return 1",
            ARGUMENTS: "return 1",
            **texts,
            REPLY: _REPLY,
        }.items()
    }
    microseconds: dict[str, list[float]] = {name: [] for name in digests}
    for _ in range(rounds):
        for name, digest in digests.items():
            client.flushall()
            client.execute_command("HSET", _HASH, *_FIELDS)
            client.config_resetstat()
            call = (digest, 0) if name == EMPTY else (digest, len(_KEYS), *_KEYS, *_ARGUMENTS)
            for _ in range(CALLS // PIPELINE):
                pipeline = client.pipeline(transaction=False)
                for _ in range(PIPELINE):
                    pipeline.execute_command("EVALSHA", *call)
                pipeline.execute()
            used = client.info("commandstats")["cmdstat_evalsha"]["usec_per_call"]
            microseconds[name].append(float(used))
    return microseconds
