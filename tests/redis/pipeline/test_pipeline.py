"""Many callers on one connection: each has its own reply and its own time, and is sent once."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections import Counter
from pathlib import Path

import hiredis
import pytest

from limiter.errors import RedisUnavailable
from limiter.redis.pipeline import Pipeline
from limiter.redis.wire import CALLS_MAX
from tests.redis.pipeline.peer import (
    DEADLINE_MS,
    SLACK_MS,
    Peer,
    begin,
    elapsed_ms,
    ok_to_handshake,
    pipeline_of,
    pipeline_to_peer,
    refusal,
)
from tests.redis.support import unix_url
from tests.support.servers import ServerProcess

LONG_MS = 30_000


def echoed(command: list[bytes]) -> bytes:
    """What a server answers to ECHO and to the handshake."""
    if command[0] != b"ECHO":
        return ok_to_handshake(command)
    return b"$%d\r\n%s\r\n" % (len(command[1]), command[1])


def connections(server: ServerProcess) -> int:
    """How many connections of the limiter's the server has."""
    return sum(client["name"] == "limiter" for client in server.client.client_list())


@pytest.mark.parametrize("kind", ["unix", "tcp"])
async def test_2000_callers_each_get_their_own_reply(own_server: ServerProcess, kind: str) -> None:
    url = unix_url(own_server) if kind == "unix" else own_server.url
    async with pipeline_of(url, deadline_ms=LONG_MS, connect_ms=LONG_MS) as pipeline:

        async def caller(number: int) -> None:
            for turn in range(3):
                # Of very different lengths, so that reads end in the middle of a reply.
                text = f"{number}-{turn}-" + "x" * (number * 37 % 3_000)
                assert await pipeline.call("ECHO", text) == text.encode()

        await asyncio.gather(*(caller(number) for number in range(2_000)))
        assert connections(own_server) == 1


async def test_a_reply_is_what_the_server_said_errors_included(own_server: ServerProcess) -> None:
    async with pipeline_of(unix_url(own_server)) as pipeline:
        assert await pipeline.call("SET", "key", 2**53 - 1) == b"OK"
        assert await pipeline.call(b"GET", "key") == b"9007199254740991"
        assert await pipeline.call("GET", "other") is None
        assert await pipeline.call("EVAL", "return {1, {'a', 2}}", 0) == [1, [b"a", 2]]
        error = await pipeline.call("HGET", "key", "field")
        assert isinstance(error, hiredis.ReplyError)
        assert str(error).startswith("WRONGTYPE")


# --------------------------------------------------------------------- deadlines, cancellation


async def test_a_late_reply_is_dropped_and_nobody_elses_is_touched(tmp_path: Path) -> None:
    async with pipeline_to_peer(tmp_path) as (pipeline, peer):
        first = begin(pipeline.call("GET", "first"))
        await peer.received(1)
        late = begin(pipeline.call("GET", "late"))
        await peer.received(2)
        peer.write(b":1\r\n")
        assert await first == 1
        assert await elapsed_ms(late) <= DEADLINE_MS + SLACK_MS
        punctual = begin(pipeline.call("GET", "punctual"))
        await peer.received(3)
        peer.write(b":2\r\n:3\r\n")
        assert await punctual == 3
        # It was slow and not silent, and so keeps its connection.
        assert peer.connections == 1


async def test_an_unanswered_call_takes_its_deadline_and_not_more(tmp_path: Path) -> None:
    deadline_ms = 1_500
    async with pipeline_to_peer(tmp_path, deadline_ms=deadline_ms) as (pipeline, _):
        taken_ms = await elapsed_ms(pipeline.call("GET", "key"))
    assert deadline_ms <= taken_ms <= deadline_ms + SLACK_MS


async def test_a_cancelled_call_does_not_leave_its_reply_to_the_next(tmp_path: Path) -> None:
    async with pipeline_to_peer(tmp_path, deadline_ms=LONG_MS) as (pipeline, peer):
        tasks = [begin(pipeline.call("GET", number)) for number in range(5)]
        await peer.received(5)
        for number in (0, 3):
            tasks[number].cancel()
            with pytest.raises(asyncio.CancelledError):
                await tasks[number]
        peer.write(b":0\r\n:1\r\n:2\r\n:3\r\n:4\r\n")
        assert [await tasks[number] for number in (1, 2, 4)] == [1, 2, 4]
        last = begin(pipeline.call("GET", 5))
        await peer.received(6)
        peer.write(b":5\r\n")
        assert await last == 5
        assert peer.connections == 1


async def test_a_caller_may_have_a_shorter_deadline_of_its_own(tmp_path: Path) -> None:
    async with pipeline_to_peer(tmp_path, deadline_ms=LONG_MS) as (pipeline, peer):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pipeline.call("GET", "hasty"), 0.05)
        patient = begin(pipeline.call("GET", "patient"))
        await peer.received(2)
        peer.write(b":1\r\n:2\r\n")
        assert await patient == 2


async def first_and_later_silent_call(
    pipeline: Pipeline, peer: Peer
) -> tuple[asyncio.Task[object], asyncio.Task[object]]:
    """Two unanswered calls on a connection that has worked: half of a deadline of 1 s apart."""
    connected = begin(pipeline.call("GET", "connected"))
    await peer.received(1)
    peer.write(b":0\r\n")
    assert await connected == 0
    first = begin(pipeline.call("GET", "first"))
    await peer.received(2)
    await asyncio.sleep(0.5)
    return first, begin(pipeline.call("GET", "later"))


async def test_a_silent_connection_is_left_but_its_calls_keep_their_time(tmp_path: Path) -> None:
    async with pipeline_to_peer(tmp_path, deadline_ms=1_000) as (pipeline, peer):
        silent, other = await first_and_later_silent_call(pipeline, peer)
        assert await refusal(silent) == "Redis did not answer in time"
        assert not other.done()
        new = begin(pipeline.call("GET", "new"))
        await peer.received(4)
        assert peer.connections == 2
        peer.write(b":1\r\n:2\r\n", connection=0)
        peer.write(b":3\r\n", connection=1)
        assert (await other, await new) == (2, 3)
        # The old connection goes, the new one stays.
        await peer.until(lambda: peer.ended == 1)
        after = begin(pipeline.call("GET", "after"))
        await peer.received(5)
        peer.write(b":4\r\n")
        assert await after == 4
        assert peer.connections == 2


async def test_calls_on_a_silent_connection_end_with_it(tmp_path: Path) -> None:
    async with pipeline_to_peer(tmp_path) as (pipeline, peer):
        peer.answer = lambda command: b"" if command[0] == b"GET" else echoed(command)
        assert await pipeline.call("ECHO", "connected") == b"connected"
        calls = []
        for number in range(10):
            calls.append(begin(elapsed_ms(pipeline.call("GET", number))))
            await asyncio.sleep(0.02)
        assert max(await asyncio.gather(*calls)) <= DEADLINE_MS + SLACK_MS
        await peer.until(lambda: peer.ended == 1)
        assert peer.connections == 1


async def test_a_reply_that_came_while_the_loop_was_held_up_counts(
    own_server: ServerProcess,
) -> None:
    """uvloop runs the timers that are due before it looks again at what can be read."""
    holder, poke = socket.socketpair()

    class Holder(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            own_server.client.lpush("list", "value")
            time.sleep(2 * DEADLINE_MS / 1000)

    transport, _ = await asyncio.get_running_loop().create_connection(Holder, sock=holder)
    with poke, contextlib.closing(transport):
        async with pipeline_of(unix_url(own_server)) as pipeline:
            assert await pipeline.call("PING") == b"PONG"
            blocked = begin(pipeline.call("BLPOP", "list", 0))
            await asyncio.sleep(DEADLINE_MS / 1000 / 5)
            poke.send(b"x")
            assert await blocked == [b"list", b"value"]
            assert await pipeline.call("PING") == b"PONG"
            assert connections(own_server) == 1


# --------------------------------------------------------------------- the connection breaks


async def test_a_connection_that_breaks_in_a_reply_fails_all_and_is_made_again(
    tmp_path: Path,
) -> None:
    async with pipeline_to_peer(tmp_path, deadline_ms=LONG_MS) as (pipeline, peer):
        calls = [begin(pipeline.call("GET", number)) for number in range(4)]
        await peer.received(4)
        peer.write(b":0\r\n$5\r\nhal")
        peer.hang_up()
        assert await calls[0] == 0
        for call in calls[1:]:
            assert await refusal(call) == "the connection to Redis was lost"
        again = begin(pipeline.call("GET", "again"))
        await peer.received(5)
        peer.write(b"$3\r\nnew\r\n")
        assert await again == b"new"
        assert peer.names() == [b"GET 0", b"GET 1", b"GET 2", b"GET 3", b"GET again"]
        assert peer.connections == 2


async def test_garbage_fails_all_and_the_connection_is_made_again(tmp_path: Path) -> None:
    async with pipeline_to_peer(tmp_path, deadline_ms=LONG_MS) as (pipeline, peer):
        calls = [begin(pipeline.call("GET", number)) for number in range(3)]
        await peer.received(3)
        peer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        for call in calls:
            assert await refusal(call) == "Redis sent something that is no reply"
        again = begin(pipeline.call("GET", "again"))
        await peer.received(4)
        peer.write(b":1\r\n")
        assert await again == 1
        assert peer.ended == 1


async def test_an_idle_connection_that_breaks_costs_no_call(tmp_path: Path) -> None:
    async with pipeline_to_peer(tmp_path) as (pipeline, peer):
        peer.answer = echoed
        for _ in range(3):
            assert await pipeline.call("ECHO", "text") == b"text"
            peer.hang_up()
            ended = peer.connections
            await peer.until(lambda ended=ended: peer.ended == ended)  # type: ignore[misc]
            # Both ends are on this loop: one more turn, and the other end knows as well.
            await asyncio.sleep(0.01)
        assert peer.connections == 3


async def test_more_callers_than_may_wait_are_turned_away_at_once(tmp_path: Path) -> None:
    async with pipeline_to_peer(tmp_path, deadline_ms=LONG_MS) as (pipeline, peer):
        calls = [begin(pipeline.call("GET", number)) for number in range(CALLS_MAX)]
        await peer.received(CALLS_MAX)
        assert "too many calls" in await refusal(pipeline.call("GET", "one more"))
        peer.write(b"".join(b":%d\r\n" % number for number in range(CALLS_MAX)))
        assert await asyncio.gather(*calls) == list(range(CALLS_MAX))
        assert len(peer.commands) == CALLS_MAX


@pytest.mark.parametrize("seed", range(4))
async def test_nothing_is_ever_sent_twice(tmp_path: Path, seed: int) -> None:
    """Connections that break, fall silent, answer late or send garbage, at random moments."""
    chance = random.Random(seed)
    silent: set[int] = set()
    async with pipeline_to_peer(tmp_path, deadline_ms=60, connect_ms=60) as (pipeline, peer):

        def answer(command: list[bytes]) -> bytes:
            number = peer.connections
            luck = chance.random()
            if number in silent or luck < 0.004:
                # A server answers in order, or not at all.
                silent.add(number)
                return b""
            if luck < 0.008:
                peer.hang_up()
                return b""
            if luck < 0.012:
                return b"no reply\r\n"
            if luck < 0.016:
                return echoed(command)[:-1] if command[0] == b"ECHO" else b"-ERR no room\r\n"
            return echoed(command)

        peer.answer = answer
        outcomes: Counter[str] = Counter()

        async def caller(name: int) -> None:
            for turn in range(40):
                text = f"{name}-{turn}"
                call = pipeline.call("ECHO", text)
                try:
                    if chance.random() < 0.05:
                        reply = await asyncio.wait_for(call, chance.random() * 0.02)
                    else:
                        reply = await call
                except RedisUnavailable:
                    outcomes["unavailable"] += 1
                    await asyncio.sleep(0.005)
                except TimeoutError:
                    outcomes["given up"] += 1
                else:
                    assert reply == text.encode()
                    outcomes["answered"] += 1

        await asyncio.gather(*(caller(name) for name in range(25)))
        assert outcomes["answered"] > 100
        assert outcomes["unavailable"] > 0
        assert peer.connections > 3
        sent = Counter(peer.names())
        assert sent.total() > outcomes["answered"]
        assert set(sent.values()) == {1}


# --------------------------------------------------------------------- closing


async def test_close_fails_what_waits_and_what_comes(tmp_path: Path) -> None:
    async with pipeline_to_peer(tmp_path, deadline_ms=LONG_MS) as (pipeline, peer):
        calls = [begin(pipeline.call("GET", number)) for number in range(3)]
        await peer.received(3)
        await pipeline.close()
        for call in calls:
            assert await refusal(call) == "the client was closed"
        assert await refusal(pipeline.call("GET", "late")) == "the client was closed"
        await peer.until(lambda: peer.ended == 1)
        await pipeline.close()
        assert peer.connections == 1


async def test_close_ends_a_silent_connection_too(tmp_path: Path) -> None:
    async with pipeline_to_peer(tmp_path, deadline_ms=1_000) as (pipeline, peer):
        silent, other = await first_and_later_silent_call(pipeline, peer)
        await refusal(silent)
        new = begin(pipeline.call("GET", "new"))
        await peer.received(4)
        await pipeline.close()
        assert await refusal(other) == "the client was closed"
        assert await refusal(new) == "the client was closed"
        await peer.until(lambda: peer.ended == 2)


async def test_a_pipeline_that_was_never_used_is_closed() -> None:
    async with pipeline_of("redis://127.0.0.1:1/0") as pipeline:
        await pipeline.close()
        assert await refusal(pipeline.call("PING")) == "the client was closed"
