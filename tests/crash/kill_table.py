"""One row of the kill table: load, kills at random moments, and a count of all at the end."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from tests.crash.load import Acknowledged, Client, Connection, Tally, make_workspaces
from tests.crash.losses import most_at_once, most_within
from tests.crash.passes import unsaved_since_s
from tests.crash.site import Site, Victim

Durability = Literal["snapshot", "sync"]
Store = Literal["sqlite", "postgresql"]
Server = Literal["separate", "embedded"]
# `mixed`: of the others any, anew at every kill, and now and then one process of the service.
Victims = Literal["service", "redis", "both", "mixed"]

CLIENTS = 8
WORKSPACES = 3
INTERVAL_MS = 250
INTERVAL_S = INTERVAL_MS / 1000
# A machine may be slow. But the passes must come.
UNSAVED_MS_MAX = 5_000
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
    victim: Victims
    wipe: bool
    store: Store = "sqlite"
    workers: int = 1

    @property
    def kept(self) -> str:
        return "wiped" if self.wipe else "kept"

    def __str__(self) -> str:
        words = [self.durability, self.store, self.server, self.victim, self.kept]
        return "-".join([*words, *(["workers"] if self.workers > 1 else [])])


# Where the ledger is, and how many workers, beyond SQLite and one.
PARTS: list[tuple[Store, int]] = [("postgresql", 1), ("sqlite", 2), ("postgresql", 2)]

ROWS = [
    *(
        Row(durability, server, victim, wipe)
        for server in get_args(Server)
        for durability in get_args(Durability)
        for victim in ("service", "redis", "both")
        for wipe in (False, True)
    ),
    *(
        Row(durability, "separate", "mixed", wipe, store, workers)
        for store, workers in PARTS
        for durability in get_args(Durability)
        for wipe in (False, True)
    ),
]


@dataclass(slots=True)
class Outcome:
    """What a row came to. Amounts are micros; all but `acknowledged` and `kills` should be 0.

    `lost`: acknowledged records that are not in the ledger. `lost_max`: how many may be: what was
    acknowledged since the last pass before each kill began. `unsaved_ms`: how long ago that was at
    most. `lost_wrongly`: those of the lost that are not among these. `lost_at_once`: the most that
    one kill lost. `interval_max`: the most records acknowledged in any interval. `doubled`: how
    much the counters of workspaces hold above the records of the ledger. `drift`: counters, of any
    scope, that differ from the sum of their records, and sums of the ledger's own that do.
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
    lost_wrongly: int = 0
    unsaved_ms: int = 0
    lost_at_once: int = 0
    interval_max: int = 0
    doubled: int = 0
    held: int = 0
    drift: list[str] = field(default_factory=list)
    surprises: list[str] = field(default_factory=list)

    def faults(self) -> list[str]:
        """What must not be; empty when all is well."""
        found = [*self.surprises, *self.drift]
        if self.lost_wrongly:
            found.append(f"{self.lost_wrongly} of {self.lost} lost records may not be")
        if self.unsaved_ms > UNSAVED_MS_MAX:
            found.append(f"the last pass began {self.unsaved_ms} ms before a kill")
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
    database_url: str | None = None,
    deadline_s: float = float("inf"),
) -> Outcome:
    """Runs `rounds` rounds, or as many as begin before `deadline_s` of the monotonic clock.

    `database_url`: of an empty database in PostgreSQL, for a row that is kept there.
    """
    assert (database_url is not None) == (row.store == "postgresql")
    random_source = random.Random(f"{seed}/{row}")
    outcome, tally = Outcome(row), Tally()
    hold_ms = SHORT_HOLD_MS if row.wipe else LONG_HOLD_MS
    started_s = time.monotonic()
    async with Site(
        folder,
        embedded=row.server == "embedded",
        random_source=random_source,
        database_url=database_url,
        workers=row.workers,
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
        losses: list[tuple[float, float]] = []
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
                victim = _victim(row, random_source)
                since_s = None
                if row.durability == "snapshot" and row.wipe:
                    since_s = await unsaved_since_s(
                        site.service.url,
                        interval_s=INTERVAL_S,
                        started_s=losses[-1][1] if losses else started_s,
                    )
                begun_s, complete_s = await site.crash(
                    victim, wipe=row.wipe, pause_ms_max=PAUSE_MS_MAX
                )
                outcome.kills += 1
                if since_s is not None:
                    losses.append((since_s, complete_s))
                    unsaved_ms = int((begun_s - since_s) * 1000)
                    outcome.unsaved_ms = max(outcome.unsaved_ms, unsaved_ms)
            stopping.set()
        await _count(outcome, site, tally, losses)
    return outcome


def _load_ms(row: Row) -> tuple[int, int]:
    if (row.server, row.victim) == ("embedded", "redis"):
        return EMBEDDED_LOAD_MS_MIN, EMBEDDED_LOAD_MS_MAX
    return LOAD_MS_MIN, LOAD_MS_MAX


def _victim(row: Row, random_source: random.Random) -> Victim:
    if row.victim != "mixed":
        return row.victim
    victims: list[Victim] = ["service", "redis", "both"]
    if row.workers > 1:
        victims.append("worker")
    # What a keeper had read when it died is claimed seconds later, and until then Redis alone has
    # it, which no metric tells.
    if row.durability == "sync" or not row.wipe:
        victims.append("keeper")
    return random_source.choice(victims)


async def _count(
    outcome: Outcome, site: Site, tally: Tally, losses: list[tuple[float, float]]
) -> None:
    """Lets everything come to rest, and compares counters, ledger and tally.

    `losses`: since when Redis alone may have had what it lost, and when all of that was gone.
    """
    outcome.acknowledged = len(tally.records)
    outcome.repeats = tally.counts["repeats"]
    outcome.degraded = tally.counts["degraded"]
    outcome.queued = sum(record.queued for record in tally.records)

    def may_be_lost(record: Acknowledged) -> bool:
        return not record.queued and record.may_be_lost(losses, 0)

    outcome.lost_max = sum(map(may_be_lost, tally.records))
    outcome.interval_max = most_within([record.at_s for record in tally.records], INTERVAL_S)
    outcome.surprises = tally.surprises
    lost: list[Acknowledged] = []
    ask = Connection(site.service.port, site.running)
    is_settled = await site.settled()
    for workspace_id in tally.parents:
        await _at_rest(ask, workspace_id)
    # What expired meanwhile is news to the ledger, and may tell it what Redis has to be told of.
    if not (is_settled and await site.settled()):
        outcome.drift.append("the stream does not run dry, or the ledger keeps unapplied records")
    for workspace_id, parents in tally.parents.items():
        records = {r.event_id: r for r in tally.records if r.workspace_id == workspace_id}
        in_ledger = {row.event_id: row async for row in site.storage.ledger_rows(workspace_id)}
        kept = [record for record in records.values() if record.event_id in in_ledger]
        lost += [record for record in records.values() if record.event_id not in in_ledger]
        outcome.drift += [
            f"{workspace_id}: ledger row {event_id}: {row.charged_micros} micros"
            for event_id, row in in_ledger.items()
            if event_id not in records
            or row.charged_micros != records[event_id].cost_micros
            or row.chat_id != records[event_id].chat_id
        ]
        outcome.drift += [str(drift) for drift in await site.storage.drift(workspace_id)]
        usage, _ = await ask.insist("GET", f"/usage/workspaces/{workspace_id}")
        outcome.held += usage.body["held_micros"]
        spent = sum(record.cost_micros for record in kept)
        for name, period in usage.body["periods"].items():
            outcome.drift += _difference(f"{workspace_id} {name}", period["spent_micros"], spent)
            outcome.doubled = max(outcome.doubled, period["spent_micros"] - spent)
        outcome.drift += [
            difference async for difference in _chat_differences(ask, workspace_id, parents, kept)
        ]
    ask.close()
    outcome.lost_wrongly = sum(not may_be_lost(record) for record in lost)
    outcome.lost, outcome.lost_at_once = len(lost), most_at_once(lost, losses)


async def _at_rest(ask: Connection, workspace_id: str) -> None:
    """Waits until nothing is held, or the holds that are left do not end."""
    deadline_s = time.monotonic() + HOLDS_S_MAX
    while True:
        usage, _ = await ask.insist("GET", f"/usage/workspaces/{workspace_id}")
        if usage.body["held_micros"] == 0 or time.monotonic() > deadline_s:
            return
        await asyncio.sleep(0.1)


async def _chat_differences(
    ask: Connection, workspace_id: str, parents: dict[str, str | None], kept: list[Acknowledged]
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
        answer, _ = await ask.insist("GET", path)
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
