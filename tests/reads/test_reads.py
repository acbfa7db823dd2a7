"""What pages and commands look at, over a real Redis and each real store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from limiter.errors import ChatNotFound, InvalidRequest, LimiterError, WorkspaceNotFound
from limiter.models import (
    ChatPatch,
    CheckRequest,
    RecordRequest,
    ReleaseRequest,
    WorkspacePatch,
    iso_ms,
)
from limiter.periods import DAY_MS, HOUR_MS, PERIOD_NAMES, SECOND_MS
from limiter.reads import LIMIT_MAX, Reads
from limiter.runtime import Parts
from limiter.views import Bucket
from tests.support.clock import START_MS, DrivenClock
from tests.support.keyspace import dump
from tests.support.redis_process import RedisProcess

HOURLY_MS = HOUR_MS + 30 * SECOND_MS


async def record(parts: Parts, micros: int, event_id: str, chat_id: str | None = None) -> None:
    await parts.limiter.record(
        RecordRequest(workspace_id="acme", cost_micros=micros, event_id=event_id, chat_id=chat_id)
    )


async def hold(parts: Parts, micros: int, name: str, *, hold_ms: int) -> None:
    answer = await parts.limiter.check(
        CheckRequest(
            workspace_id="acme",
            chat_id="c1",
            estimate_micros=micros,
            reservation_id=name,
            hold_ms=hold_ms,
        )
    )
    assert answer.allowed


# --------------------------------------------------------------------------- holds


async def test_holds_are_live_and_say_when_they_were_placed(
    parts: Parts, reads: Reads, clock: DrivenClock
) -> None:
    await hold(parts, 70, "long", hold_ms=HOUR_MS)
    await parts.snapshot.run_once()
    # The stream's entry is dated by the server's own clock, and so is what is said of it.
    (placed,) = await reads.holds("acme")
    assert placed.placed_at is not None
    await hold(parts, 5, "short", hold_ms=1_000)
    short, long = await reads.holds("acme")
    assert (short.reservation_id, short.held_micros, short.chat_id) == ("short", 5, "c1")
    assert (short.placed_at, short.age_ms) == (None, None)
    assert short.expires_at == iso_ms(clock.now_ms + 1_000)
    assert long == placed
    assert [one.reservation_id for one in await reads.holds("acme", limit=1)] == ["short"]
    clock.advance(1_000)
    assert [one.reservation_id for one in await reads.holds("acme")] == ["long"]
    await parts.limiter.release(ReleaseRequest(workspace_id="acme", reservation_id="long"))
    assert await reads.holds("acme") == []


async def test_holds_of_a_cold_workspace_are_those_of_durable_storage(
    parts: Parts, reads: Reads, clock: DrivenClock, redis_server: RedisProcess
) -> None:
    # Durable storage is asked by this machine's clock, as nobody in Redis knows the workspace.
    far_ms = 80_000 * DAY_MS
    clock.set(far_ms)
    await hold(parts, 70, "long", hold_ms=HOUR_MS)
    await parts.snapshot.run_once()
    live = await reads.holds("acme")
    redis_server.client.flushall()
    (cold,) = await reads.holds("acme")
    assert (cold.reservation_id, cold.held_micros, cold.chat_id) == ("long", 70, "c1")
    assert (cold.placed_at, cold.expires_at) == (live[0].placed_at, iso_ms(far_ms + HOUR_MS))
    assert dump(redis_server.client) == {}


# --------------------------------------------------------------------------- chats


async def make_tree(parts: Parts) -> None:
    """c1 > (c2 > c4, c3), d1; 1,000 micros a chat and 50 held on c4; c2 has a limit."""
    for chat_id, parent in (("c1", None), ("c2", "c1"), ("c3", "c1"), ("c4", "c2"), ("d1", None)):
        await parts.limiter.record(
            RecordRequest(
                workspace_id="acme",
                cost_micros=1_000,
                chat_id=chat_id,
                parent_chat_id=parent,
                event_id=chat_id,
            )
        )
    await parts.limiter.check(
        CheckRequest(workspace_id="acme", chat_id="c4", estimate_micros=50, reservation_id="r")
    )
    await parts.limiter.configure_chat("acme", "c2", ChatPatch(spend_limit_micros=5_000))
    await parts.snapshot.run_once()


async def test_a_tree_is_walked_from_its_roots(
    parts: Parts, reads: Reads, redis_server: RedisProcess
) -> None:
    await make_tree(parts)
    await record(parts, 7, "fresh", "c4")  # in Redis alone
    before = dump(redis_server.client)
    roots = await reads.chats("acme")
    assert [(row.chat_id, row.spent_micros, row.has_children) for row in roots.rows] == [
        ("c1", 4_007, True),
        ("d1", 1_000, False),
    ]
    children = await reads.chats("acme", parent="c1")
    c2, c3 = children.rows
    assert (c2.chat_id, c2.parent_chat_id, c2.root_chat_id) == ("c2", "c1", "c1")
    assert (c2.spent_micros, c2.own_spent_micros, c2.held_micros) == (2_007, 1_000, 50)
    assert (c2.limit_micros, c2.remaining_micros, c2.has_children) == (5_000, 2_943, True)
    assert (c3.limit_micros, c3.remaining_micros, c3.has_children) == (None, None, False)
    assert {row.live for row in (*roots.rows, *children.rows)} == {True}
    assert dump(redis_server.client) == before

    redis_server.client.flushall()
    cold = await reads.chats("acme", parent="c1")
    assert [(row.spent_micros, row.held_micros, row.live) for row in cold.rows] == [
        (2_000, 50, False),
        (1_000, 0, False),
    ]
    assert dump(redis_server.client) == {}


async def test_chats_come_in_pages(parts: Parts, reads: Reads) -> None:
    for number in range(5):
        await record(parts, 1, f"e{number}", f"c{number}")
    await parts.snapshot.run_once()
    found, after = [], None
    for size in (2, 2, 1):
        page = await reads.chats("acme", limit=2, after=after)
        assert len(page.rows) == size
        found += [row.chat_id for row in page.rows]
        after = page.next
    assert (found, after) == ([f"c{number}" for number in range(5)], None)


# --------------------------------------------------------------------------- records, audit


async def test_the_latest_records_come_first(
    parts: Parts, reads: Reads, clock: DrivenClock
) -> None:
    await hold(parts, 70, "r", hold_ms=1_000)
    clock.advance(2_000)
    await record(parts, 5, "first")
    await parts.limiter.record(
        RecordRequest(workspace_id="acme", reservation_id="r", cost_micros=80)
    )
    await parts.limiter.record(
        RecordRequest(workspace_id="acme", cumulative_micros=3, source="worker", event_id="s")
    )
    assert await reads.records("acme") == []  # not durable yet
    await parts.snapshot.run_once()
    report, late, first = await reads.records("acme")
    assert (late.event_id, late.charged_micros, late.late, late.chat_id) == ("r", 80, True, "c1")
    assert (first.at, first.charged_micros) == (iso_ms(START_MS + 2_000), 5)
    assert (first.late, first.expiry, first.priced, first.applied) == (False, False, True, True)
    assert (report.source, report.charged_micros) == ("worker", 3)
    assert await reads.records("acme", limit=1) == [report]


async def test_the_audit_names_who_changed_what(parts: Parts, reads: Reads) -> None:
    await parts.limiter.configure(
        "acme", WorkspacePatch(budget_limits={"hourly": 5}), actor="cli:ann"
    )
    await parts.limiter.configure_chat("acme", "c1", ChatPatch(spend_limit_micros=9), actor="bob")
    chat, workspace = await reads.audit("acme")
    assert (chat.actor, chat.chat_id, chat.before) == ("bob", "c1", None)
    assert chat.after["limit_micros"] == 9
    assert (workspace.actor, workspace.chat_id, workspace.before) == ("cli:ann", None, None)
    assert await reads.audit("acme", limit=1) == [chat]


# --------------------------------------------------------------------------- windows


async def test_a_window_is_shown_as_it_stands_now(
    parts: Parts, reads: Reads, clock: DrivenClock, redis_server: RedisProcess
) -> None:
    await record(parts, 5, "e1")
    clock.advance(31 * SECOND_MS)
    await record(parts, 7, "e2")
    await record(parts, 1, "e3")
    before = dump(redis_server.client)
    buckets = [Bucket(start_ms=START_MS, micros=5), Bucket(start_ms=START_MS + 30_000, micros=8)]
    assert await reads.history("acme", "hourly") == buckets
    assert await reads.history("acme", "monthly") == [Bucket(start_ms=START_MS, micros=13)]
    assert await reads.frees_up("acme", "hourly") == HOURLY_MS - 31 * SECOND_MS
    assert dump(redis_server.client) == before

    clock.set(START_MS + HOURLY_MS)
    assert await reads.history("acme", "hourly") == buckets[1:]
    assert await reads.frees_up("acme", "hourly") == 30 * SECOND_MS
    clock.advance(30 * SECOND_MS)
    assert await reads.history("acme", "hourly") == []
    assert await reads.frees_up("acme", "hourly") is None
    usage = await parts.limiter.usage("acme")
    assert usage.periods["hourly"].spent_micros == 0


async def test_a_window_of_a_cold_workspace_is_that_of_durable_storage(
    parts: Parts, reads: Reads, clock: DrivenClock, redis_server: RedisProcess
) -> None:
    far_ms = START_MS + 80_000 * DAY_MS
    clock.set(far_ms)
    await record(parts, 5, "e1")
    await parts.snapshot.run_once()
    live = await reads.history("acme", "hourly")
    redis_server.client.flushall()
    assert await reads.history("acme", "hourly") == live == [Bucket(start_ms=far_ms, micros=5)]
    frees_up_ms = await reads.frees_up("acme", "hourly")
    assert frees_up_ms is not None
    assert frees_up_ms > 70_000 * DAY_MS
    assert dump(redis_server.client) == {}


# --------------------------------------------------------------------------- the rest

METHODS: list[Callable[[Reads, str], Awaitable[object]]] = [
    lambda reads, name: reads.holds(name),
    lambda reads, name: reads.chats(name),
    lambda reads, name: reads.records(name),
    lambda reads, name: reads.audit(name),
    *((lambda reads, name, p=period: reads.history(name, p)) for period in PERIOD_NAMES),
    lambda reads, name: reads.frees_up(name, "hourly"),
]


@pytest.mark.parametrize("method", METHODS)
async def test_an_unknown_workspace_is_not_found(
    reads: Reads, method: Callable[[Reads, str], Awaitable[object]]
) -> None:
    with pytest.raises(WorkspaceNotFound):
        await method(reads, "nobody")
    with pytest.raises(InvalidRequest):
        await method(reads, "no:body")


async def test_what_cannot_be_asked_is_refused(parts: Parts, reads: Reads) -> None:
    await parts.limiter.configure("acme", WorkspacePatch())
    wrong: list[tuple[type[LimiterError], Awaitable[object]]] = [
        (ChatNotFound, reads.chats("acme", parent="nobody")),
        (InvalidRequest, reads.chats("acme", parent="a:b")),
        (InvalidRequest, reads.chats("acme", after="a\0b")),
        (InvalidRequest, reads.history("acme", "yearly")),
        (InvalidRequest, reads.holds("acme", limit=0)),
        (InvalidRequest, reads.records("acme", limit=LIMIT_MAX + 1)),
        (InvalidRequest, reads.workspaces(limit=0)),
        (InvalidRequest, reads.workspaces(search="a" * 200)),
        (InvalidRequest, reads.workspaces(after="acme")),
        (InvalidRequest, reads.workspaces(after="-1.a\0")),
        (InvalidRequest, reads.workspaces(after="a\0", sort="name")),
    ]
    for expected, call in wrong:
        with pytest.raises(expected):
            await call


async def test_while_redis_is_away_durable_storage_is_shown(
    parts: Parts, reads: Reads, redis_server: RedisProcess
) -> None:
    await make_tree(parts)
    redis_server.kill()
    (row,) = (await reads.workspaces()).rows
    assert (row.workspace_id, row.live) == ("acme", False)
    assert [(chat.chat_id, chat.live) for chat in (await reads.chats("acme")).rows] == [
        ("c1", False),
        ("d1", False),
    ]
    assert len(await reads.records("acme")) == 5
    # They are of a time long ago, by this machine's clock.
    assert await reads.holds("acme") == []
    assert await reads.history("acme", "monthly") == []
