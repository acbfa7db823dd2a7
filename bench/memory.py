"""What a workspace takes in Redis, however much it is used, and what a call costs then.

The scripts run on a clock of the benchmark's own, so that a month of records takes a minute.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import redis

from bench.report import AtMost, Results, Row, median_row, ratios
from bench.scene import COST_MICROS, ESTIMATE_MICROS, LEAF, LIMIT_MICROS, ROOT
from bench.servers import embedded_client, redis_name
from limiter.periods import PERIOD_NAMES, PERIODS
from limiter.redis.scripts import ScriptSet
from tests.support.driver import HOLD_MS, MEMORY_MS, Driver

NAME = "memory"

CLOCK_KEY = "bench:clock"
CLOCK = f"local function now_ms(_) return tonumber(redis.call('GET', '{CLOCK_KEY}')) end"
NOW_MS = 1_800_000_000_000

FEW, SOME, MANY = 10**2, 10**4, 10**6
# Whatever their number, records come to the same sum: a longer number takes more bytes.
SPENT_MICROS = 10**10
# As many digits as a random one has.
EPOCH_LIKE = 2**52
ITEMS = 100_000
CALLS = 4_000
PIPELINE = 500

FINGERPRINT = "AbCdEfGhIjK"
DATA = '{"model":"gpt-4o","input_tokens":4808,"output_tokens":10}'

Command = tuple[Any, ...]


def measure(rounds: int) -> Results:
    """On an embedded server of its own. Sizes are the same in every round, and taken once."""
    with embedded_client() as client:
        # A gigabyte of file would be written, which no figure here is about.
        client.config_set("appendonly", "no")
        scripts = ScriptSet(pieces={"now": CLOCK})
        used = {
            count: _used_workspace(client, scripts, f"records-{count}", count)
            for count in (FEW, SOME, MANY)
        }
        rows = [
            *_workspace_rows(used),
            *_item_rows(_new_workspace(client, scripts, "items")),
            *_cost_rows(used[FEW], used[MANY], rounds),
        ]
        software = [redis_name(client.info("server"))]
    return Results(
        name=NAME,
        title="What a workspace takes in Redis",
        rows=rows,
        rounds=rounds,
        conditions=_CONDITIONS,
        software=software,
    )


_CONDITIONS = (
    f"Records in every bucket of all windows come to {SPENT_MICROS:,} micros, however many.",
    "They are made by the scripts, on a clock that the benchmark drives.",
    "A workspace: `MEMORY USAGE … SAMPLES 0` of its hash and its windows.",
    "Its chats, holds and remembered ids come and go, and are figures of their own.",
    f"Chats and holds: `used_memory` with {ITEMS:,} of them less that without, each.",
    "Ids have 31 characters, as those that the service makes.",
    f"Calls: {CALLS:,} of each a round by the server's own accounting, in turns.",
)


# ------------------------------------------------------------------ making workspaces


def _new_workspace(client: redis.Redis, scripts: ScriptSet, workspace_id: str) -> Driver:
    """A workspace with four limits and a chat tree two deep, at the beginning of its windows."""
    driver = Driver(client, scripts, workspace_id=workspace_id)
    driver.preload()
    driver.epoch = EPOCH_LIKE
    client.set(CLOCK_KEY, _moments_ms()[0])
    driver.load({f"limit.{name}": LIMIT_MICROS for name in PERIOD_NAMES})
    driver.load_chat(ROOT, limit=LIMIT_MICROS)
    driver.load_chat(LEAF, ROOT, root=ROOT, depth=2)
    return driver


def _used_workspace(
    client: redis.Redis, scripts: ScriptSet, workspace_id: str, count: int
) -> Driver:
    """One with so many records over all buckets of its windows, the newest of them now."""
    driver = _new_workspace(client, scripts, workspace_id)
    moments_ms = _moments_ms()

    def commands() -> Iterator[Command]:
        last_ms = 0
        for number in range(count):
            at_ms = moments_ms[number * len(moments_ms) // count]
            if at_ms != last_ms:
                yield ("DEL", driver.stream_key)
                yield ("SET", CLOCK_KEY, at_ms)
                last_ms = at_ms
            yield _record(driver, f"{number:031x}", SPENT_MICROS // count)

    _run(client, commands())
    client.set(CLOCK_KEY, NOW_MS)
    return driver


def _moments_ms() -> list[int]:
    """A moment in every bucket of every window, and in a few that have left it, up to now."""
    moments = {
        NOW_MS - age * period.bucket_ms
        for period in PERIODS
        for age in range(period.window_ms // period.bucket_ms + 4)
    }
    return sorted(moments)


def _check(driver: Driver, reservation_id: str) -> Command:
    return driver.command(
        "check",
        *(MEMORY_MS, ESTIMATE_MICROS, reservation_id, 0, FINGERPRINT, HOLD_MS),
        *(LEAF, "", "", ""),
    )


def _record(
    driver: Driver, event_id: str, cost_micros: int = COST_MICROS, reservation_id: str = ""
) -> Command:
    return driver.command(
        "record",
        *(MEMORY_MS, event_id, 0, FINGERPRINT, cost_micros, reservation_id),
        *(LEAF, "", "", "", "", "", "", "", "", 1, DATA),
    )


def _run(client: redis.Redis, commands: Iterable[Command]) -> None:
    """Raises ValueError unless every script did what was asked."""
    left = iter(commands)
    while batch := list(islice(left, PIPELINE)):
        pipeline = client.pipeline(transaction=False)
        for command in batch:
            pipeline.execute_command(*command)
        for reply in pipeline.execute():
            if isinstance(reply, list) and reply[0] not in (b"admitted", b"recorded", b"loaded"):
                raise ValueError(f"a script answered {reply!r:.100}")


# ------------------------------------------------------------------ bytes


def _workspace_rows(used: dict[int, Driver]) -> list[Row]:
    sizes = {count: _workspace_bytes(driver) for count, driver in used.items()}
    return [
        _row(
            f"a workspace with all buckets full, {MANY:,} records",
            sizes[MANY] / 1_000,
            "KB",
            bar=AtMost(25),
        ),
        _row(
            f"its growth from {SOME:,} to {MANY:,} records",
            sizes[MANY] - sizes[SOME],
            "B",
            bar=AtMost(0),
        ),
    ]


def _workspace_bytes(driver: Driver) -> int:
    keys = [driver.workspace_key]
    keys += [f"{driver.workspace_key}:{name}" for name in PERIOD_NAMES]
    return sum(_bytes_of(driver.client, key) for key in keys)


def _bytes_of(client: redis.Redis, key: str | bytes) -> int:
    """The key with its value, none of its elements guessed."""
    return int(client.memory_usage(key, samples=0) or 0)


def _item_rows(driver: Driver) -> list[Row]:
    """Chats, live holds, and the ids that the records that settle them leave."""
    client = driver.client
    client.set(CLOCK_KEY, NOW_MS)
    ids = [f"{number:031x}" for number in range(ITEMS)]

    def grown_by(commands: Iterable[Command]) -> float:
        before = _used_bytes(driver)
        _run(client, commands)
        return (_used_bytes(driver) - before) / ITEMS

    chat = grown_by(
        driver.command(
            "load_chat",
            *(ROOT, ROOT, 2, LIMIT_MICROS, SPENT_MICROS, SPENT_MICROS, ESTIMATE_MICROS, 1),
            driver.epoch,
            key=driver.names.chat(driver.workspace_id, chat_id),
        )
        for chat_id in ids
    )
    hold = grown_by(_check(driver, reservation_id) for reservation_id in ids)
    _run(client, (_record(driver, id_, COST_MICROS, id_) for id_ in ids))
    slices = client.scan_iter(f"*:{driver.workspace_id}:events:*")
    remembered = sum(_bytes_of(client, key) for key in slices) / ITEMS
    return [
        _row("a chat", chat, "B", bar=AtMost(400)),
        _row("a live hold", hold, "B", bar=AtMost(400)),
        _row("a remembered event id", remembered, "B", bar=AtMost(120)),
    ]


def _used_bytes(driver: Driver) -> int:
    """What is used, without the stream, which the snapshot pass empties."""
    driver.client.delete(driver.stream_key)
    return int(driver.client.info("memory")["used_memory"])


def _row(figure: str, value: float, unit: str, *, bar: AtMost) -> Row:
    return Row(figure=figure, value=value, unit=unit, bar=bar)


# ------------------------------------------------------------------ time


def _cost_rows(few: Driver, many: Driver, rounds: int) -> list[Row]:
    """Microseconds a call inside the server, with few and with many records in the windows."""
    names = ("check holding", "record, settling that hold")
    microseconds: dict[tuple[str, int], list[float]] = {
        (name, count): [] for name in names for count in (FEW, MANY)
    }
    for round_number in range(rounds):
        # None of them is among the records'.
        ids = [f"{round_number + 1:011x}{number:020x}" for number in range(CALLS)]
        for count, driver in ((FEW, few), (MANY, many)):
            for name, commands in (
                (names[0], [_check(driver, id_) for id_ in ids]),
                (names[1], [_record(driver, id_, COST_MICROS, id_) for id_ in ids]),
            ):
                driver.client.config_resetstat()
                _run(driver.client, commands)
                stats = driver.client.info("commandstats")["cmdstat_evalsha"]
                microseconds[name, count].append(float(stats["usec_per_call"]))
            driver.client.delete(driver.stream_key)
    rows = [
        median_row(f"{name}, {count:,} records", values, "µs")
        for (name, count), values in microseconds.items()
    ]
    for name in names:
        multiples = ratios(microseconds[name, MANY], microseconds[name, FEW])
        rows.append(
            median_row(
                f"{name}: {MANY:,} records / {FEW:,} records", multiples, "×", bar=AtMost(1.1)
            )
        )
    return rows
