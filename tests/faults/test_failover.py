"""Redis comes back knowing less than the ledger: noticed, and repaired by loading, never by adding.

A replica that missed the tail is promoted; an old copy of the append-only file is put back; the
clock of the new server is behind.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from limiter.models import Admitted, Denied
from limiter.redis.scripts import ScriptSet, lua_folder
from tests.faults.proxy import running_proxy
from tests.faults.scene import (
    WORKSPACE,
    assert_counted_once,
    check,
    drained,
    eventually,
    ledger,
    limit,
    limiter_on,
    record,
    spent,
)
from tests.support.redis_process import RedisProcess, running_redis

HOUR_MS = 3_600_000


async def in_step(master: RedisProcess, replica: RedisProcess) -> None:
    async def offsets() -> bool:
        info = replica.client.info("replication")
        there = master.client.info("replication")["master_repl_offset"]
        return bool(info["master_link_status"] == "up" and info["slave_repl_offset"] == there)

    assert await eventually(offsets, bool)


async def test_a_replica_that_missed_the_tail_is_noticed_and_repaired(
    tmp_path: Path, store_url: str
) -> None:
    folders = [tmp_path / "master", tmp_path / "replica"]
    for folder in folders:
        folder.mkdir()
    with (
        running_redis(folders[0], "--repl-diskless-sync-delay", "0") as master,
        running_redis(folders[1]) as replica,
        running_proxy(master.socket_path) as link,
        running_proxy(master.socket_path) as address,
    ):
        replica.client.replicaof("127.0.0.1", str(link.port))
        async with limiter_on(address.url, store_url) as limiter:
            await limit(limiter, 1_000)
            await limiter.record(record("e1", 100, chat_id="c"))
            await limiter.check(check(50, reservation_id="r1"))
            await drained(master.client)
            await in_step(master, replica)
            link.cut()
            # The tail: in the ledger, and not in the replica.
            await limiter.record(record("e2", 800, chat_id="c"))
            await limiter.record(record(None, 40, reservation_id="r1"))
            await limiter.record(record("e3", 60, chat_id="new", parent_chat_id="c"))
            await drained(master.client)
            master.kill()
            replica.client.replicaof("NO", "ONE")
            address.turn_to(replica.socket_path)
            charges = {"e1": 100, "e2": 800, "r1": 40, "e3": 60}

            async def denied() -> bool:
                # It asks for nothing: what is let pass before the loss is noticed must not hold.
                return isinstance(await limiter.check(check(0)), Denied)

            assert await eventually(denied, bool)
            usage = await limiter.usage("acme")
            assert (usage.held_micros, usage.live_holds) == (0, 0)
            # A client that was never told sends again: Redis has forgotten it, the ledger has not.
            await limiter.record(record("e2", 800, chat_id="c"))
            await assert_counted_once(limiter, replica.client, store_url, charges)
            await limiter.record(record("e4", 5, chat_id="new"))
            charges["e4"] = 5
            await assert_counted_once(limiter, replica.client, store_url, charges)
            chat = await limiter.chat_usage("acme", "c")
            assert (chat.spent_micros, chat.own_spent_micros) == (965, 900)


async def test_entries_that_are_numbered_again_are_noticed(
    redis_server: RedisProcess, tmp_path: Path, store_url: str
) -> None:
    """The old copy is written to before anybody looks: numbers that the ledger has come again."""
    client = redis_server.client
    aof, copy = tmp_path / "redis" / "appendonlydir", tmp_path / "copy"
    async with limiter_on(redis_server.url, store_url) as limiter:
        await limiter.record(record("e1", 1, chat_id="c"))
        await drained(client)
        shutil.copytree(aof, copy)
        for number in range(2, 8):
            await limiter.record(record(f"e{number}", 10, chat_id="c"))
        await drained(client)
    redis_server.kill()
    redis_server.wipe()
    shutil.copytree(copy, aof)
    redis_server.start()
    assert client.hget(WORKSPACE, "spent.hourly") == b"1"
    charges = {"e1": 1, **{f"e{number}": 10 for number in range(2, 8)}}
    async with limiter_on(redis_server.url, store_url) as limiter:
        # Before the first look at the server, as the first call of a process may come.
        await limiter.record(record("f1", 100, chat_id="c"))
        await limiter.record(record("f2", 100, chat_id="c"))
        await limiter.record(record("e3", 10, chat_id="c"))
        charges |= {"f1": 100, "f2": 100}
        await assert_counted_once(limiter, client, store_url, charges)
        assert (await limiter.chat_usage("acme", "c")).spent_micros == 261


async def test_an_old_copy_that_is_restored_is_noticed_while_the_service_runs(
    redis_server: RedisProcess, tmp_path: Path, store_url: str
) -> None:
    client = redis_server.client
    aof, copy = tmp_path / "redis" / "appendonlydir", tmp_path / "copy"
    async with limiter_on(redis_server.url, store_url) as limiter:
        await limit(limiter, 1_000)
        await limiter.record(record("e1", 1))
        await limiter.check(check(100, reservation_id="r1"))
        await drained(client)
        shutil.copytree(aof, copy)
        await limiter.record(record(None, 99, reservation_id="r1"))
        await limiter.record(record("e2", 900))
        await drained(client)
        redis_server.kill()
        redis_server.wipe()
        shutil.copytree(copy, aof)
        assert (await limiter.record(record("e3", 10))).queued is True
        redis_server.start()
        charges = {"e1": 1, "r1": 99, "e2": 900, "e3": 10}
        await assert_counted_once(limiter, client, store_url, charges)
        # The hold that ended stays ended, although the copy had it.
        assert (await limiter.usage("acme")).held_micros == 0
        assert isinstance(await limiter.check(check(1)), Denied)


# --------------------------------------------------------------------- the clock steps back


def scripts_with_a_clock_that_can_step_back() -> ScriptSet:
    """The piece `now` as it is, but for the server's time, which a key says instead."""
    text = (lua_folder() / "lib" / "now.lua").read_text(encoding="utf-8")
    driven = text.replace(
        "redis.call('TIME')",
        "{ math.floor(redis.call('GET', 'test:clock') / 1000),"
        " redis.call('GET', 'test:clock') % 1000 * 1000 }",
    )
    assert driven != text
    return ScriptSet(pieces={"now": driven})


async def test_a_clock_that_steps_back_stops_a_scope_and_frees_nothing(
    redis_server: RedisProcess, store_url: str
) -> None:
    client = redis_server.client
    start_ms = 1_800_000_000_000
    scripts = scripts_with_a_clock_that_can_step_back()
    client.set("test:clock", start_ms)
    async with limiter_on(redis_server.url, store_url, scripts=scripts) as limiter:
        await limit(limiter, 1_000)
        await limiter.record(record("e1", 600))
        held = await limiter.check(check(300, reservation_id="r1", hold_ms=60_000))
        assert isinstance(held, Admitted)
        before = await limiter.usage("acme")
        # Another server takes over, two hours behind.
        client.set("test:clock", start_ms - 2 * HOUR_MS)
        usage = await limiter.usage("acme")
        assert usage.at >= before.at
        assert (await spent(limiter), usage.held_micros) == (600, 300)
        assert isinstance(await limiter.check(check(200)), Denied)
        await limiter.record(record("e2", 50))
        await assert_counted_once(limiter, client, store_url, {"e1": 600, "e2": 50})
        moments = [row.at_ms for row in await ledger(store_url)]
        assert moments == sorted(moments)
        assert min(moments) >= start_ms
        # The time that is behind runs on: nothing leaves and nothing expires because of it.
        client.set("test:clock", start_ms - HOUR_MS)
        assert (await limiter.usage("acme")).held_micros == 300
        # A restart loads the scope with the time that it had reached.
        client.execute_command("DEL", WORKSPACE)
        await limiter.record(record("e3", 1))
        assert min(row.at_ms for row in await ledger(store_url)) >= start_ms
        # Once time has caught up, the hold expires at its moment and the window moves on.
        client.set("test:clock", start_ms + 61_000)
        assert (await limiter.usage("acme")).held_micros == 0
        client.set("test:clock", start_ms + 2 * HOUR_MS)
        assert (await limiter.usage("acme")).periods["hourly"].spent_micros == 0
        assert (await limiter.usage("acme")).periods["daily"].spent_micros == 651
