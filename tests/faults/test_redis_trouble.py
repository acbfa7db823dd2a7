"""Redis loses a reply, forgets its scripts, is slow, or refuses to write.

Checks are answered by policy in bounded time, records wait in the ledger, nothing counts twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import redis

from limiter.errors import RedisUnavailable
from limiter.models import Admitted, ReleaseRequest
from tests.faults.proxy import Proxy
from tests.faults.scene import (
    DEADLINE_MS,
    assert_counted_once,
    check,
    drained,
    eventually,
    limit,
    limiter_on,
    record,
    spent,
)
from tests.support.keyspace import dump
from tests.support.redis_process import RedisProcess, running_redis

SLACK_MS = 400
PAUSE_MS = 3_000


# --------------------------------------------------------------------- a reply is lost


async def test_a_record_whose_reply_is_lost_counts_once(
    redis_server: RedisProcess, proxy: Proxy, store_url: str
) -> None:
    """The server has made the charge, and nobody knows: the ledger takes it, by its id."""
    async with limiter_on(proxy.url, store_url) as limiter:
        await limiter.record(record("e0", 1))
        proxy.lose_reply_to(b"lost-1")
        answer = await limiter.record(record("lost-1", 700))
        assert proxy.lost == 1
        assert (answer.queued, answer.charged_micros) == (True, 700)
        # It was charged before the line broke, and the ledger has it as well.
        await assert_counted_once(limiter, redis_server.client, store_url, {"e0": 1, "lost-1": 700})
        again = await limiter.record(record("lost-1", 700))
        assert (again.duplicate, again.charged_micros) == (True, 700)
        await assert_counted_once(limiter, redis_server.client, store_url, {"e0": 1, "lost-1": 700})


async def test_a_record_without_an_id_whose_reply_is_lost_counts_once(
    redis_server: RedisProcess, proxy: Proxy, store_url: str
) -> None:
    """The id that the service made is what makes it safe to tell Redis again."""
    async with limiter_on(proxy.url, store_url) as limiter:
        await limiter.record(record("e0", 1))
        proxy.lose_reply_to(b"c-of-the-lost")
        answer = await limiter.record(record(None, 700, chat_id="c-of-the-lost"))
        assert (proxy.lost, answer.queued) == (1, True)
        charges = {"e0": 1, answer.event_id: 700}
        await assert_counted_once(limiter, redis_server.client, store_url, charges)
        chat = await limiter.chat_usage("acme", "c-of-the-lost")
        assert chat.spent_micros == 700


async def test_a_check_whose_reply_is_lost_holds_once(
    redis_server: RedisProcess, proxy: Proxy, sqlite_url: str
) -> None:
    async with limiter_on(proxy.url, sqlite_url) as limiter:
        await limit(limiter, 1_000)
        await limiter.check(check(1))
        proxy.lose_reply_to(b"held-1")
        answer = await limiter.check(check(700, reservation_id="held-1"))
        assert isinstance(answer, Admitted)
        assert (proxy.lost, answer.degraded, answer.reservation) == (1, True, None)
        # It is held all the same, so that its client gets it by asking again, and only once.
        again = await limiter.check(check(700, reservation_id="held-1"))
        assert isinstance(again, Admitted)
        assert (again.degraded, again.duplicate) == (False, True)
        assert again.reservation is not None
        assert again.reservation.held_micros == 700
        assert (await limiter.usage("acme")).held_micros == 701


async def test_a_release_whose_reply_is_lost_gives_back_once(
    redis_server: RedisProcess, proxy: Proxy, sqlite_url: str
) -> None:
    async with limiter_on(proxy.url, sqlite_url) as limiter:
        await limiter.check(check(700, reservation_id="held-1"))
        await limiter.check(check(30, reservation_id="other"))
        # From here on the server has the script, and the lost reply is not the lack of it.
        await limiter.release(ReleaseRequest(workspace_id="acme", reservation_id="other"))
        proxy.lose_reply_to(b"held-1")
        request = ReleaseRequest(workspace_id="acme", reservation_id="held-1")
        with pytest.raises(RedisUnavailable):
            await limiter.release(request)
        assert proxy.lost == 1
        again = await limiter.release(request)
        assert (again.released, again.duplicate, again.state) == (True, True, "released")
        assert (await limiter.usage("acme")).held_micros == 0


async def test_the_record_of_a_hold_whose_reply_is_lost_ends_it_once(
    redis_server: RedisProcess, proxy: Proxy, store_url: str
) -> None:
    async with limiter_on(proxy.url, store_url) as limiter:
        await limiter.check(check(500, reservation_id="r1", chat_id="c"))
        proxy.lose_reply_to(b"r1")
        answer = await limiter.record(record(None, 450, reservation_id="r1"))
        assert (proxy.lost, answer.queued, answer.event_id) == (1, True, "r1")
        await assert_counted_once(limiter, redis_server.client, store_url, {"r1": 450})
        usage = await limiter.usage("acme")
        assert (usage.held_micros, usage.live_holds) == (0, 0)
        chat = await limiter.chat_usage("acme", "c")
        assert (chat.spent_micros, chat.held_micros) == (450, 0)


async def test_lines_that_break_at_every_call_lose_and_double_nothing(
    redis_server: RedisProcess, proxy: Proxy, store_url: str
) -> None:
    charges = {f"event-{number:02}": 10 + number for number in range(30)}
    async with limiter_on(proxy.url, store_url, breaker_failures=1_000) as limiter:
        await limiter.record(record("e0", 1))
        for event_id, micros in charges.items():
            proxy.lose_reply_to(event_id.encode())
            answer = await limiter.record(record(event_id, micros, chat_id="c"))
            assert answer.charged_micros == micros
        assert proxy.lost >= len(charges)
        await assert_counted_once(limiter, redis_server.client, store_url, {"e0": 1, **charges})
        chat = await limiter.chat_usage("acme", "c")
        assert chat.spent_micros == sum(charges.values())


# --------------------------------------------------------------------- scripts are gone


async def test_flushed_scripts_fail_no_call(redis_server: RedisProcess, sqlite_url: str) -> None:
    async with limiter_on(redis_server.url, sqlite_url, redis_deadline_ms=10_000) as limiter:
        await limit(limiter, None)
        for number in range(20):
            redis_server.client.script_flush()
            requests = [limiter.record(record(f"e{number}-{call}", 1)) for call in range(10)] + [
                limiter.check(check(1)) for _ in range(10)
            ]
            answers = await asyncio.gather(*requests)
            assert not any(getattr(answer, "degraded", False) for answer in answers)
            assert not any(getattr(answer, "queued", False) for answer in answers)
        assert await spent(limiter) == 200


async def test_a_restarted_redis_has_its_scripts_again(
    redis_server: RedisProcess, sqlite_url: str
) -> None:
    async with limiter_on(redis_server.url, sqlite_url) as limiter:
        await limiter.record(record("e1", 1))
        redis_server.kill()
        redis_server.start()

        async def answered() -> bool:
            answer = await limiter.check(check(1))
            return isinstance(answer, Admitted) and not answer.degraded

        assert await eventually(answered, bool)
        await limiter.record(record("e2", 2))
        charges = {"e1": 1, "e2": 2}
        await assert_counted_once(limiter, redis_server.client, sqlite_url, charges)


async def test_script_may_be_forbidden(redis_server: RedisProcess, sqlite_url: str) -> None:
    """As behind a proxy that does not know the command."""
    client = redis_server.client
    client.execute_command("ACL", "SETUSER", "limited", "on", ">secret", "~*", "&*", "+@all",
                           "-script")  # fmt: skip
    url = f"unix://limited:secret@{redis_server.socket_path}"
    async with limiter_on(url, sqlite_url) as limiter:
        with pytest.raises(redis.exceptions.NoPermissionError):
            redis.Redis.from_url(url).script_flush()
        for number in range(3):
            client.script_flush()
            answer = await limiter.check(check(1))
            assert isinstance(answer, Admitted)
            assert answer.degraded is False
            assert (await limiter.record(record(f"e{number}", 1))).queued is False
        await assert_counted_once(limiter, client, sqlite_url, {f"e{n}": 1 for n in range(3)})


# --------------------------------------------------------------------- slow


async def test_a_paused_redis_is_answered_for_within_the_deadline(
    redis_server: RedisProcess, store_url: str
) -> None:
    async with limiter_on(redis_server.url, store_url) as limiter:
        await limiter.record(record("e0", 1))
        await drained(redis_server.client)
        # It ends by itself: a server that is paused altogether does not take the end of it either.
        redis_server.client.execute_command("CLIENT", "PAUSE", PAUSE_MS, "ALL")
        latencies = []
        for _ in range(10):
            started = time.monotonic()
            answer = await limiter.check(check(1))
            latencies.append((time.monotonic() - started) * 1000)
            assert isinstance(answer, Admitted)
            assert answer.degraded is True
        assert max(latencies) < DEADLINE_MS + SLACK_MS
        # Once the breaker is open only its probes wait.
        assert min(latencies) < DEADLINE_MS / 2
        queued = [await limiter.record(record(f"q{n}", 10)) for n in range(5)]
        assert [answer.queued for answer in queued] == [True] * 5
        charges = {"e0": 1, **{f"q{n}": 10 for n in range(5)}}
        await assert_counted_once(limiter, redis_server.client, store_url, charges)


async def test_a_slow_redis_is_waited_for_up_to_the_deadline(
    redis_server: RedisProcess, proxy: Proxy, sqlite_url: str
) -> None:
    async with limiter_on(proxy.url, sqlite_url) as limiter:
        await limiter.record(record("e0", 1))
        proxy.delay(DEADLINE_MS // 4)
        answer = await limiter.check(check(0))
        assert isinstance(answer, Admitted)
        assert answer.degraded is False
        assert (await limiter.record(record("slow", 10))).queued is False
        proxy.delay(2 * DEADLINE_MS)
        started = time.monotonic()
        answer = await limiter.check(check(0))
        assert isinstance(answer, Admitted)
        assert answer.degraded is True
        late = await limiter.record(record("late", 100))
        assert late.queued is True
        assert (time.monotonic() - started) * 1000 < 2 * (DEADLINE_MS + SLACK_MS)
        proxy.delay(0)
        charges = {"e0": 1, "slow": 10, "late": 100}
        await assert_counted_once(limiter, redis_server.client, sqlite_url, charges)


async def test_a_line_that_goes_dead_costs_a_deadline_and_no_record(
    redis_server: RedisProcess, proxy: Proxy, store_url: str
) -> None:
    async with limiter_on(proxy.url, store_url) as limiter:
        await limiter.record(record("e0", 1))
        proxy.stall()
        started = time.monotonic()
        assert (await limiter.record(record("e1", 10))).queued is True
        assert (time.monotonic() - started) * 1000 < DEADLINE_MS + SLACK_MS
        proxy.cut()
        assert (await limiter.record(record("e2", 100))).queued is True
        proxy.mend()
        charges = {"e0": 1, "e1": 10, "e2": 100}
        await assert_counted_once(limiter, redis_server.client, store_url, charges)


# --------------------------------------------------------------------- writes are refused


@contextlib.contextmanager
def configured(server: RedisProcess, name: str, value: str | int) -> Iterator[None]:
    before = server.client.config_get(name)[name]
    server.client.config_set(name, value)
    try:
        yield
    finally:
        server.client.config_set(name, str(before))


@contextlib.contextmanager
def replica(server: RedisProcess) -> Iterator[None]:
    """Of a server that is not there: it only reads, as a master does that was voted out."""
    server.client.replicaof("127.0.0.1", "1")
    try:
        yield
    finally:
        server.client.replicaof("NO", "ONE")


@contextlib.contextmanager
def failed_save(server: RedisProcess) -> Iterator[None]:
    """The dump cannot take the place of a folder that is not empty."""
    (server.socket_path.parent / "dump.rdb" / "file").mkdir(parents=True)
    with configured(server, "save", "3600 1"):
        server.client.bgsave()
        deadline = time.monotonic() + 10
        while server.client.info("persistence")["rdb_last_bgsave_status"] != "err":
            assert time.monotonic() < deadline
            time.sleep(0.005)
        yield


Fault = Callable[[RedisProcess], AbstractContextManager[None]]
FAULTS: dict[str, Fault] = {
    "READONLY": replica,
    "MISCONF": failed_save,
    "OOM": lambda server: configured(server, "maxmemory", 1),
    "NOREPLICAS": lambda server: configured(server, "min-replicas-to-write", 1),
}


@pytest.mark.parametrize("code", FAULTS)
async def test_a_redis_that_refuses_to_write_is_answered_for_and_has_half_of_nothing(
    redis_server: RedisProcess, store_url: str, code: str
) -> None:
    client = redis_server.client
    async with limiter_on(redis_server.url, store_url, breaker_failures=1_000) as limiter:
        await limit(limiter, 10_000)
        await limiter.record(record("e0", 1, chat_id="root"))
        await limiter.check(check(100, reservation_id="r1", chat_id="leaf", parent_chat_id="root"))
        await drained(client)
        before = dump(client)
        with FAULTS[code](redis_server):
            for number in range(5):
                answer = await limiter.check(check(5, chat_id="leaf"))
                assert isinstance(answer, Admitted)
                assert (answer.degraded, answer.reservation) == (True, None)
                # A new chat in a known tree, of which nothing must be left half-made.
                await limiter.check(check(5, chat_id=f"new-{number}", parent_chat_id="leaf"))
                assert (await limiter.record(record(f"q{number}", 10, chat_id="leaf"))).queued
            assert dump(client) == before
            assert (await limiter.readiness()).store is True
            ended = await limiter.record(record(None, 90, reservation_id="r1"))
            if code == "OOM":
                # A full server lets a script that began by removing go on to its end.
                assert (ended.queued, ended.charged_micros) == (False, 90)
            else:
                assert ended.queued is True
                with pytest.raises(RedisUnavailable):
                    await limiter.release(ReleaseRequest(workspace_id="acme", reservation_id="r1"))
                assert dump(client) == before
        charges = {"e0": 1, "r1": 90, **{f"q{number}": 10 for number in range(5)}}
        await assert_counted_once(limiter, client, store_url, charges)
        root = await limiter.chat_usage("acme", "root")
        assert (root.spent_micros, root.held_micros, root.children) == (141, 0, ["leaf"])


async def test_a_redis_that_is_loading_is_answered_for(tmp_path: Path, sqlite_url: str) -> None:
    folder = tmp_path / "loading"
    folder.mkdir()
    with running_redis(folder, "--enable-debug-command", "yes") as server:
        async with limiter_on(server.url, sqlite_url, breaker_failures=1_000) as limiter:
            await limiter.record(record("e0", 1))
            await drained(server.client)
            server.client.execute_command("DEBUG", "POPULATE", 20_000, "filler", 100)
            server.client.config_set("loading-process-events-interval-bytes", 1_024)
            server.client.config_set("key-load-delay", 50)
            reload = asyncio.to_thread(server.client.execute_command, "DEBUG", "RELOAD")
            reloading = asyncio.create_task(reload)
            charges, degraded = {"e0": 1}, 0
            # Bounded by the load, which takes a second.
            while not reloading.done():
                event_id = f"e{len(charges)}"
                answer = await limiter.record(record(event_id, 10))
                charges[event_id] = 10
                if answer.queued:
                    checked = await limiter.check(check(0))
                    assert isinstance(checked, Admitted)
                    degraded += checked.degraded
            await reloading
            assert degraded > 0
            await assert_counted_once(limiter, server.client, sqlite_url, charges)


async def test_a_limiter_may_be_started_while_redis_is_loading(
    tmp_path: Path, sqlite_url: str
) -> None:
    folder = tmp_path / "loading"
    folder.mkdir()
    with running_redis(folder, "--enable-debug-command", "yes") as server:
        async with limiter_on(server.url, sqlite_url) as limiter:
            await limiter.record(record("e0", 1))
        server.client.execute_command("DEBUG", "POPULATE", 20_000, "filler", 100)
        server.client.config_set("loading-process-events-interval-bytes", 1_024)
        server.client.config_set("key-load-delay", 50)
        reload = asyncio.to_thread(server.client.execute_command, "DEBUG", "RELOAD")
        reloading = asyncio.create_task(reload)

        async def is_loading() -> bool:
            info = await asyncio.to_thread(server.client.info, "persistence")
            return bool(info["loading"])

        # From here on it goes on loading for a second.
        assert await eventually(is_loading, bool)
        async with limiter_on(server.url, sqlite_url) as limiter:
            answer = await limiter.record(record("e1", 10))
            assert (answer.queued, reloading.done()) == (True, False)
            await reloading
            await assert_counted_once(limiter, server.client, sqlite_url, {"e0": 1, "e1": 10})
