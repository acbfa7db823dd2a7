"""What the ledger took by itself gets into Redis once, also when it cannot be told; and a record
that is to be durable costs no transaction of its own when another process has made it so.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import pytest
import redis

from limiter.durable import Storage
from limiter.ids import fingerprint
from limiter.models import ChatPatch
from limiter.runtime import Parts, open_parts
from limiter.settings import load_settings
from limiter.snapshot import Snapshot
from limiter.stored import ResolvedRecord
from tests.faults.scene import (
    SCENE_MS_MAX,
    STREAM,
    WORKSPACE,
    check,
    limit,
    limiter_on,
    record,
    spent,
)
from tests.support.redis_process import RedisProcess

RECORDS = 200


@contextlib.asynccontextmanager
async def parts_on(redis_server: RedisProcess, store_url: str) -> AsyncIterator[Parts]:
    """A limiter that does by itself only what it is called for, with a workspace."""
    settings = load_settings(
        {"redis_url": redis_server.url, "database_url": store_url, "redis_deadline_ms": 10_000}
    )
    async with asyncio.timeout(SCENE_MS_MAX / 1000), open_parts(settings) as parts:
        await limit(parts.limiter, 1_000)
        yield parts


def queued(event_id: str, micros: int, **fields: Any) -> ResolvedRecord:
    return ResolvedRecord(
        workspace_id="acme",
        event_id=event_id,
        fingerprint=fingerprint(record(event_id, micros)),
        cost_micros=micros,
        **fields,
    )


def poison_newest(client: redis.Redis) -> None:
    """As if a foreign hand had changed the newest entry before anybody read it."""
    newest: Any = client.xrevrange(STREAM, count=1)
    [(stream_id, fields)] = newest
    client.xdel(STREAM, stream_id)
    client.xadd(STREAM, {**fields, b"charged": b"nan"})


async def assert_settled(parts: Parts, charges: dict[str, int]) -> None:
    """Nothing waits; ledger, aggregates and Redis have each charge once, also after a new start."""
    await parts.snapshot.run_once()
    assert await parts.limiter.bring_back() == 0
    storage = parts.storage
    assert await storage.unapplied() == []
    rows = {row.event_id: row.charged_micros async for row in storage.ledger_rows("acme")}
    assert rows == charges
    assert await storage.drift("acme") == []
    assert await spent(parts.limiter) == sum(charges.values())
    await parts.snapshot.reconcile()
    assert await spent(parts.limiter) == sum(charges.values())


async def test_a_row_whose_entry_is_poisoned_is_not_told_for_ever(
    redis_server: RedisProcess, store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = redis_server.client
    async with parts_on(redis_server, store_url) as parts:
        await parts.limiter.record(record("e0", 1, chat_id="c"))
        await parts.snapshot.run_once()
        await parts.storage.queue_record(queued("e1", 40, chat_id="c"))
        await parts.storage.queue_record(queued("e2", 2))
        assert await parts.limiter.bring_back() == 2
        poison_newest(client)
        await parts.snapshot.run_once()
        assert [row.record.event_id for row in await parts.storage.unapplied()] == ["e2"]
        # Redis has it, and has nothing more to say of it.
        assert await parts.limiter.bring_back() == 1
        assert await parts.storage.unapplied() == []
        letters = {letter.stream_id: letter.reason for letter in await parts.storage.dead_letters()}
        assert len(letters) == 2
        assert letters["acme:e2"] == "its entry did not come back"
        await assert_settled(parts, {"e0": 1, "e1": 40, "e2": 2})
        assert (await parts.limiter.chat_usage("acme", "c")).spent_micros == 41
        # A client that never got its answer asks again: it is one charge still.
        assert (await parts.limiter.record(record("e2", 2))).duplicate is True
        # So it is when Redis does not know the id any more, and charges once more at first.
        client.flushall()
        assert (await parts.limiter.record(record("e2", 2))).duplicate is False
        await assert_settled(parts, {"e0": 1, "e1": 40, "e2": 2})
    assert "loaded with what Redis could not be told of" in caplog.text


async def test_a_row_that_redis_refuses_counts_without_being_told(
    redis_server: RedisProcess, store_url: str
) -> None:
    """The hold's news had not come to the ledger when the record named another chat."""
    async with parts_on(redis_server, store_url) as parts:
        await parts.limiter.configure_chat("acme", "mine", ChatPatch())
        await parts.limiter.configure_chat("acme", "other", ChatPatch())
        await parts.limiter.check(check(30, reservation_id="r", chat_id="mine"))
        await parts.storage.queue_record(queued("e1", 40, reservation_id="r", chat_id="other"))
        await parts.storage.queue_record(queued("e2", 2))
        assert await parts.limiter.bring_back() == 1
        assert await parts.storage.unapplied() == []
        [letter] = await parts.storage.dead_letters()
        assert letter.stream_id == "acme:e1"
        assert "reservation_chat_mismatch" in letter.reason
        await assert_settled(parts, {"e1": 40, "e2": 2})
        other = await parts.limiter.chat_usage("acme", "other")
        assert (other.spent_micros, other.held_micros) == (40, 0)
        assert (await parts.limiter.usage("acme")).held_micros == 0


async def test_a_foreign_key_in_the_way_keeps_no_row_waiting(
    redis_server: RedisProcess, store_url: str
) -> None:
    client = redis_server.client
    async with parts_on(redis_server, store_url) as parts:
        await parts.storage.queue_record(queued("e1", 40))
        client.delete(WORKSPACE)
        client.set(WORKSPACE, "foreign")
        assert await parts.limiter.bring_back() == 0
        assert await parts.storage.unapplied() == []
        client.delete(WORKSPACE)
        await assert_settled(parts, {"e1": 40})


async def test_a_row_that_is_told_twice_before_its_entry_is_read_is_not_put_aside(
    redis_server: RedisProcess, store_url: str
) -> None:
    """Two processes do so after every outage."""
    async with parts_on(redis_server, store_url) as parts:
        assert await spent(parts.limiter) == 0
        for number in range(5):
            await parts.storage.queue_record(queued(f"e{number}", 10))
        assert await parts.limiter.bring_back() == 5
        assert await parts.limiter.bring_back() == 5
        assert await parts.storage.dead_letters() == []
        await assert_settled(parts, {f"e{number}": 10 for number in range(5)})


async def test_an_event_that_redis_has_with_another_payload_is_what_redis_has(
    redis_server: RedisProcess, store_url: str
) -> None:
    async with parts_on(redis_server, store_url) as parts:
        await parts.limiter.record(record("e1", 7))
        await parts.storage.queue_record(queued("e1", 40))
        # Its entry takes the row's place.
        assert await parts.limiter.bring_back() == 0
        assert await parts.storage.dead_letters() == []
        await assert_settled(parts, {"e1": 7})


# --------------------------------------------------------------------------- sync


@contextlib.contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, names: Iterable[str]) -> Any:
    """How often methods of durable storage are called."""
    counts = dict.fromkeys(names, 0)

    def counting(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: object, **fields: object) -> Any:
            counts[name] += 1
            return method(*args, **fields)

        return call

    with monkeypatch.context() as patch:
        for name in counts:
            patch.setattr(Storage, name, counting(name, getattr(Storage, name)))
        yield counts


async def test_records_that_another_process_made_durable_share_their_look_into_the_ledger(
    redis_server: RedisProcess, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if no pass had been this process's own.
    monkeypatch.setattr(Snapshot, "has_committed", lambda *_: False)
    async with limiter_on(
        redis_server.url, store_url, durability="sync", redis_deadline_ms=10_000
    ) as limiter:
        await limit(limiter, None)
        with counted(monkeypatch, ["fingerprints", "queue_record"]) as counts:
            answers = await asyncio.gather(
                *(limiter.record(record(f"e{number}", 1)) for number in range(RECORDS))
            )
        assert {(answer.queued, answer.duplicate) for answer in answers} == {(False, False)}
        assert counts["queue_record"] == 0
        assert 1 <= counts["fingerprints"] <= RECORDS // 10
        assert await spent(limiter) == RECORDS


async def test_only_what_the_ledger_does_not_have_is_queued(
    redis_server: RedisProcess, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Redis that loses every third entry before it is read, as if it had been emptied."""
    client = redis_server.client
    settle = Snapshot.settle

    async def lossy(self: Snapshot, workspace_id: str) -> None:
        entries: Any = client.xrange(STREAM)
        for stream_id, fields in entries:
            event_id = fields.get(b"event", b"").decode()
            if event_id.startswith("e") and int(event_id[1:]) % 3 == 0:
                lost.add(event_id)
                client.xdel(STREAM, stream_id)
        await settle(self, workspace_id)

    lost: set[str] = set()
    async with limiter_on(
        redis_server.url,
        store_url,
        durability="sync",
        redis_deadline_ms=10_000,
        snapshot_interval_ms=3_600_000,
    ) as limiter:
        await limit(limiter, None)
        await limiter.record(record("first", 1))
        monkeypatch.setattr(Snapshot, "settle", lossy)
        with counted(monkeypatch, ["queue_record"]) as counts:
            await asyncio.gather(*(limiter.record(record(f"e{number}", 1)) for number in range(30)))
        assert len(lost) == counts["queue_record"] == 10
    async with Storage(store_url) as storage:
        rows = [row.event_id async for row in storage.ledger_rows("acme")]
    assert sorted(rows) == sorted(["first", *(f"e{number}" for number in range(30))])


@pytest.mark.parametrize("in_chat", [False, True])
async def test_a_cold_workspace_is_loaded_with_what_waits_in_the_ledger(
    redis_server: RedisProcess, store_url: str, in_chat: bool
) -> None:
    """No check is let past a record that Redis was never told of, or has lost."""
    place = {"chat_id": "c1"} if in_chat else {}
    async with parts_on(redis_server, store_url) as parts:
        await parts.limiter.configure_chat("acme", "c1", ChatPatch(spend_limit_micros=900))
        await parts.storage.queue_record(queued("e1", 600, **place))
        redis_server.client.flushall()
        assert not (await parts.limiter.check(check(500, **place))).allowed
        assert (await parts.limiter.check(check(300, **place))).allowed
        await assert_settled(parts, {"e1": 600})


async def test_a_record_that_reaches_redis_after_its_row_was_adopted_counts_once(
    redis_server: RedisProcess, store_url: str
) -> None:
    async with parts_on(redis_server, store_url) as parts:
        await parts.storage.queue_record(queued("e1", 600))
        [waiting] = await parts.storage.unapplied()
        redis_server.client.flushall()
        assert await spent(parts.limiter) == 600
        # Whoever had queued it was about to tell Redis.
        assert waiting.record.event_id == "e1"
        assert (await parts.limiter.record(record("e1", 600))).duplicate
        assert await spent(parts.limiter) == 600
        await assert_settled(parts, {"e1": 600})
