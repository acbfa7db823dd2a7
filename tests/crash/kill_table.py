"""One row of the kill table: load, kills at random moments, and a count of all at the end."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.crash.load import Acknowledged, Client, Connection, Tally, make_workspaces
from tests.crash.site import VICTIMS, Site, Victim

Durability = Literal["snapshot", "sync"]
Server = Literal["separate", "embedded"]

CLIENTS = 8
WORKSPACES = 3
INTERVAL_MS = 250
# From the moment at which a pass sees what there is until that is committed and the pause begins.
PASS_MS_MAX = 250
TAIL_S = (INTERVAL_MS + PASS_MS_MAX) / 1000
# Longer than an interval and a pass, so that only a part of the load may be lost with Redis.
LOAD_MS_MIN, LOAD_MS_MAX = 20, 1_000
# The embedded server is given up when it dies ten times in a row within a second of its start.
EMBEDDED_LOAD_MS_MIN, EMBEDDED_LOAD_MS_MAX = 1_500, 2_000
PAUSE_MS_MAX = 300
LONG_HOLD_MS = 600_000
# Where a release, or the record of a hold, may be lost with Redis, its hold must end by itself.
SHORT_HOLD_MS = 3_000
HOLDS_S_MAX = 15.0


@dataclass(frozen=True, slots=True)
class Row:
    """What is killed, and what is left of Redis then. `wipe`: nothing."""

    durability: Durability
    server: Server
    victim: Victim
    wipe: bool

    def __str__(self) -> str:
        kept = "wiped" if self.wipe else "kept"
        return f"{self.durability}-{self.server}-{self.victim}-{kept}"


# The embedded server restarts by itself as soon as it is killed, so its data cannot be taken away
# in between; it is emptied together with its service instead.
ROWS = [
    *(
        Row(durability, "separate", victim, wipe)
        for durability in ("snapshot", "sync")
        for victim in VICTIMS
        for wipe in (False, True)
    ),
    *(
        Row(durability, "embedded", victim, wipe=False)
        for durability in ("snapshot", "sync")
        for victim in VICTIMS
    ),
    Row("snapshot", "embedded", "service", wipe=True),
    Row("sync", "embedded", "service", wipe=True),
]


@dataclass(slots=True)
class Outcome:
    """What a row came to. Amounts are micros; all but `acknowledged` and `kills` should be 0.

    `lost`: acknowledged records that are not in the ledger. `lost_max`: how many may be: what was
    acknowledged in the last interval before each kill. `doubled`: how much the counters of
    workspaces hold above the records of the ledger. `drift`: counters, of any scope, that
    differ from the sum of their records, and sums of the ledger's own that do.
    `held`: what is held when all calls have ended.
    """

    row: Row
    kills: int = 0
    acknowledged: int = 0
    repeats: int = 0
    degraded: int = 0
    queued: int = 0
    lost: int = 0
    lost_max: int = 0
    doubled: int = 0
    held: int = 0
    elapsed_s: float = 0.0
    drift: list[str] = field(default_factory=list)
    surprises: list[str] = field(default_factory=list)

    def faults(self) -> list[str]:
        """What must not be; empty when all is well."""
        found = [*self.surprises, *self.drift]
        if self.lost > self.lost_max:
            found.append(f"{self.lost} records lost, of {self.lost_max} that may be")
        if self.doubled:
            found.append(f"{self.doubled} micros counted twice")
        if self.held:
            found.append(f"{self.held} micros still held")
        return found


async def run_row(
    row: Row,
    folder: Path,
    *,
    rounds: int,
    seed: int,
    deadline_s: float = float("inf"),
) -> Outcome:
    """Runs `rounds` rounds, or as many as begin before `deadline_s` of the monotonic clock."""
    random_source = random.Random(f"{seed}/{row}")
    outcome, tally = Outcome(row), Tally()
    hold_ms = SHORT_HOLD_MS if row.wipe else LONG_HOLD_MS
    started_s = time.monotonic()
    async with Site(
        folder,
        embedded=row.server == "embedded",
        random_source=random_source,
        durability=row.durability,
        snapshot_interval_ms=INTERVAL_MS,
        breaker_reset_ms=50,
    ) as site:
        port, running = site.service.port, site.running
        first = Connection(port, running)
        await make_workspaces(first, tally, WORKSPACES)
        first.close()
        assert await site.settled()
        stopping = asyncio.Event()
        kills: list[tuple[float, float]] = []
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                own_random = random.Random(random_source.random())
                client = Client(
                    number, Connection(port, running), tally, own_random, hold_ms=hold_ms
                )
                group.create_task(client.run(stopping))
            for _ in range(rounds):
                if time.monotonic() > deadline_s:
                    break
                await asyncio.sleep(random_source.randint(*_load_ms(row)) / 1000)
                kills.append(await site.crash(row.victim, wipe=row.wipe, pause_ms_max=PAUSE_MS_MAX))
            stopping.set()
        outcome.kills = len(kills)
        if row.durability == "snapshot" and row.wipe:
            outcome.lost_max = sum(
                not record.queued and record.may_be_lost(kills, TAIL_S) for record in tally.records
            )
        await _count(outcome, site, tally)
    outcome.elapsed_s = time.monotonic() - started_s
    return outcome


def _load_ms(row: Row) -> tuple[int, int]:
    if (row.server, row.victim) == ("embedded", "redis"):
        return EMBEDDED_LOAD_MS_MIN, EMBEDDED_LOAD_MS_MAX
    return LOAD_MS_MIN, LOAD_MS_MAX


async def _count(outcome: Outcome, site: Site, tally: Tally) -> None:
    """Lets everything come to rest, and compares counters, ledger and tally."""
    outcome.acknowledged = len(tally.records)
    outcome.repeats = tally.counts["repeats"]
    outcome.degraded = tally.counts["degraded"]
    outcome.queued = sum(record.queued for record in tally.records)
    outcome.surprises = tally.surprises
    if not await site.settled():
        outcome.drift.append("the stream does not run dry, or the ledger keeps unapplied records")
    for workspace_id, parents in tally.parents.items():
        records = {r.event_id: r for r in tally.records if r.workspace_id == workspace_id}
        in_ledger = {row.event_id: row async for row in site.storage.ledger_rows(workspace_id)}
        kept = [record for record in records.values() if record.event_id in in_ledger]
        outcome.lost += len(records) - len(kept)
        outcome.drift += [
            f"{workspace_id}: ledger row {event_id}: {row.charged_micros} micros"
            for event_id, row in in_ledger.items()
            if event_id not in records
            or row.charged_micros != records[event_id].cost_micros
            or row.chat_id != records[event_id].chat_id
        ]
        outcome.drift += [str(drift) for drift in await site.storage.drift(workspace_id)]
        usage = await _at_rest(site, workspace_id)
        outcome.held += usage["held_micros"]
        spent = sum(record.cost_micros for record in kept)
        for name, period in usage["periods"].items():
            outcome.drift += _difference(f"{workspace_id} {name}", period["spent_micros"], spent)
            outcome.doubled = max(outcome.doubled, period["spent_micros"] - spent)
        outcome.drift += [
            difference async for difference in _chat_differences(site, workspace_id, parents, kept)
        ]


async def _at_rest(site: Site, workspace_id: str) -> dict[str, Any]:
    """The usage of a workspace, once nothing is held or the holds that are left do not end."""
    deadline_s = time.monotonic() + HOLDS_S_MAX
    while True:
        usage: dict[str, Any] = site.service.get(f"/usage/workspaces/{workspace_id}").body
        if usage["held_micros"] == 0 or time.monotonic() > deadline_s:
            return usage
        await asyncio.sleep(0.1)


async def _chat_differences(
    site: Site, workspace_id: str, parents: dict[str, str | None], kept: list[Acknowledged]
) -> AsyncIterator[str]:
    own = dict.fromkeys(parents, 0)
    below = dict.fromkeys(parents, 0)
    for record in kept:
        own[record.chat_id] += record.cost_micros
        node: str | None = record.chat_id
        while node is not None:
            below[node] += record.cost_micros
            node = parents[node]
    for chat_id in parents:
        path = f"/usage/workspaces/{workspace_id}/chats/{chat_id}"
        answer = await asyncio.to_thread(site.service.get, path)
        name = f"{workspace_id} chat {chat_id}"
        if answer.status == 404:
            # Nothing but a check named it, and that was lost or let pass.
            for difference in _difference(name, 0, below[chat_id]):
                yield difference
            continue
        for counter, expected in (
            ("spent_micros", below[chat_id]),
            ("own_spent_micros", own[chat_id]),
            ("held_micros", 0),
        ):
            for difference in _difference(f"{name} {counter}", answer.body[counter], expected):
                yield difference


def _difference(counter: str, found: int, expected: int) -> list[str]:
    return [] if found == expected else [f"{counter}: {found}, and its records: {expected}"]
