"""FLUSHALL under load, with limits nearly used up: the ledger goes on counting."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from tests.crash.load import Acknowledged, Answer, Connection
from tests.crash.site import Site

CLIENTS = 8
FLUSHES = 12
FLUSH_PAUSE_MS = 150
STORM_FLUSHES = 100
INTERVAL_MS = 100
PASS_MS_MAX = 250

UNIT_MICROS = 1_000
ROOM_UNITS = 60
SPENT_UNITS = 940
LIMIT_MICROS = (SPENT_UNITS + ROOM_UNITS) * UNIT_MICROS
HOLD_MS = 60_000


@dataclass(slots=True)
class Seen:
    """What the clients saw. Moments are seconds of the monotonic clock.

    `recorded`: the records, of one unit each, by event id. `admitted_s`: when each check was sent
    that was admitted.
    """

    recorded: dict[str, Acknowledged] = field(default_factory=dict)
    admitted_s: list[float] = field(default_factory=list)
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    degraded: int = 0


@pytest.mark.parametrize("durability", ["sync", "snapshot"])
@pytest.mark.parametrize("scope", ["account_period", "chat_lifetime"])
async def test_no_check_is_admitted_that_the_ledger_would_deny(
    tmp_path: Path,
    durability: Literal["sync", "snapshot"],
    scope: Literal["account_period", "chat_lifetime"],
) -> None:
    seen = Seen()
    flushes: list[tuple[float, float]] = []
    tail_s = (INTERVAL_MS + PASS_MS_MAX) / 1000

    def is_safe(record: Acknowledged) -> bool:
        return durability == "sync" or not record.may_be_lost(flushes, tail_s)

    site = Site(
        tmp_path / "site",
        embedded=False,
        random_source=random.Random(17),
        durability=durability,
        snapshot_interval_ms=INTERVAL_MS,
        redis_deadline_ms=5_000,
    )
    async with site:
        pid = site.service.pid
        await _nearly_use_up(site, scope)
        stopping = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(_spend(site, number, seen, stopping))
            assert site.redis is not None
            for _ in range(FLUSHES):
                await asyncio.sleep(FLUSH_PAUSE_MS / 1000)
                begun_s = time.monotonic()
                await asyncio.to_thread(site.redis.client.flushall)
                flushes.append((begun_s, time.monotonic()))
            await asyncio.sleep(2 * INTERVAL_MS / 1000)
            stopping.set()

        # It went on: no restart, no answer by policy, no error.
        assert site.service.pid == pid
        assert seen.degraded == 0
        denied = 402 if scope == "account_period" else 409
        # A record that was flushed away before its commit is in the ledger alone at first: 202.
        assert seen.statuses.keys() <= {
            *(("check", 200), ("check", denied), ("record", 200)),
            *([("record", 202)] if durability == "sync" else []),
        }
        assert seen.statuses["check", denied] > 0

        # At every admission, all that was acknowledged before it was sent and could not be lost.
        for sent_s in seen.admitted_s:
            before = (record for record in seen.recorded.values() if record.at_s <= sent_s)
            durable = sum(is_safe(record) for record in before)
            assert (SPENT_UNITS + durable + 1) * UNIT_MICROS <= LIMIT_MICROS

        # The limit was reached, and who asks now is denied, by the ledger as by Redis.
        assert await site.settled()
        rows = {row.event_id: row async for row in site.storage.ledger_rows("acme")}
        charged = [row.charged_micros for row in rows.values()]
        lost = seen.recorded.keys() - rows.keys()
        tail = {record.event_id for record in seen.recorded.values() if not is_safe(record)}
        assert lost <= tail
        usage = site.service.get("/usage/workspaces/acme").body
        # A hold whose record was flushed away stays until it expires.
        assert sum(charged) + usage["held_micros"] >= LIMIT_MICROS
        assert usage["periods"]["hourly"]["spent_micros"] == sum(charged)
        assert await site.storage.drift("acme") == []
        final = site.service.post("/check", _check("last"))
        assert (final.status, final.body["spent_micros"]) == (denied, sum(charged))


async def test_a_record_that_sync_acknowledged_outlives_a_flush_at_any_moment(
    tmp_path: Path,
) -> None:
    """Also one between the script and the commit, when neither knows of it any more."""
    random_source = random.Random(18)
    acknowledged: list[str] = []
    site = Site(
        tmp_path / "site",
        embedded=False,
        random_source=random_source,
        durability="sync",
        snapshot_interval_ms=INTERVAL_MS,
        redis_deadline_ms=5_000,
    )

    async def record(number: int) -> None:
        connection = Connection(site.service.port, site.running)
        turn = 0
        while not stopping.is_set():
            turn += 1
            event_id = f"e-{number}-{turn}"
            body = {"workspace_id": "acme", "event_id": event_id, "cost_micros": 1}
            answer, _ = await connection.insist("POST", "/record", body)
            assert answer.status in (200, 202), answer
            acknowledged.append(event_id)
        connection.close()

    async with site:
        stopping = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(record(number))
            assert site.redis is not None
            for _ in range(STORM_FLUSHES):
                await asyncio.sleep(random_source.randint(10, 50) / 1000)
                await asyncio.to_thread(site.redis.client.flushall)
            stopping.set()
        assert await site.settled()
        in_ledger = {row.event_id async for row in site.storage.ledger_rows("acme")}
        assert in_ledger == set(acknowledged)
        usage = site.service.get("/usage/workspaces/acme").body
        assert usage["periods"]["hourly"]["spent_micros"] == len(acknowledged)
        assert await site.storage.drift("acme") == []


async def _nearly_use_up(site: Site, scope: Literal["account_period", "chat_lifetime"]) -> None:
    connection = Connection(site.service.port, site.running)
    is_chat = scope == "chat_lifetime"
    hourly = None if is_chat else LIMIT_MICROS
    calls = [
        ("PUT", "/config/workspaces/acme", {"budget_limits": {"hourly": hourly}}),
        (
            "PUT",
            "/config/workspaces/acme/chats/root",
            {"spend_limit_micros": LIMIT_MICROS if is_chat else None},
        ),
        (
            "POST",
            "/record",
            {**PLACE, "event_id": "before", "cost_micros": SPENT_UNITS * UNIT_MICROS},
        ),
    ]
    for method, path, body in calls:
        answer, _ = await connection.insist(method, path, body)
        assert answer.status == 200, answer
    connection.close()
    assert await site.settled()


PLACE = {"workspace_id": "acme", "chat_id": "leaf", "parent_chat_id": "root"}


def _check(name: str) -> dict[str, object]:
    return {
        **PLACE,
        "reservation_id": f"r-{name}",
        "estimate_micros": UNIT_MICROS,
        "hold_ms": HOLD_MS,
    }


async def _spend(site: Site, number: int, seen: Seen, stopping: asyncio.Event) -> None:
    """Checks and records one unit after the other. Every call is answered the first time."""
    connection = Connection(site.service.port, site.running)
    turn = 0
    while not stopping.is_set():
        turn += 1
        name = f"{number}-{turn}"
        answer = await connection.call("POST", "/check", _check(name))
        _see(seen, "check", answer)
        if answer.status != 200:
            continue
        seen.admitted_s.append(answer.sent_s)
        body = {
            **PLACE,
            "reservation_id": f"r-{name}",
            "event_id": f"e-{name}",
            "cost_micros": UNIT_MICROS,
        }
        answer = await connection.call("POST", "/record", body)
        _see(seen, "record", answer)
        seen.recorded[f"e-{name}"] = Acknowledged(
            workspace_id="acme",
            event_id=f"e-{name}",
            chat_id="leaf",
            cost_micros=UNIT_MICROS,
            queued=answer.status == 202,
            sent_s=answer.sent_s,
            at_s=time.monotonic(),
        )
    connection.close()


def _see(seen: Seen, call: str, answer: Answer) -> None:
    seen.statuses[call, answer.status] += 1
    seen.degraded += answer.body.get("degraded") is True
