"""One connection by itself: the test is its transport, and decides what bytes come when."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import hiredis
import pytest

from limiter.errors import RedisUnavailable
from limiter.redis.wire import BATCH_CALLS_MAX, CALLS_MAX, Wire
from tests.redis.pipeline.peer import DEADLINE_MS, SLACK_MS, refusal


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.is_aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def abort(self) -> None:
        self.is_aborted = True


async def wire_with_calls(
    count: int, *, deadline_ms: int = 60_000
) -> tuple[Wire, Transport, list[asyncio.Future[Any]]]:
    """A connection that is set up, with so many calls written."""
    wire, transport = Wire(deadline_ms / 1000), Transport()
    wire.connection_made(transport)
    await wire.set_up([])
    futures = [wire.call(b"<%d>" % number) for number in range(count)]
    await asyncio.sleep(0)
    return wire, transport, futures


def ended(wire: Wire) -> None:
    """What the loop says after an abort."""
    wire.connection_lost(None)
    assert wire.gone.is_set()


async def test_the_calls_of_one_turn_leave_in_one_write() -> None:
    wire, transport, _ = await wire_with_calls(3)
    assert transport.writes == [b"<0><1><2>"]
    futures = [wire.call(b"<3>"), wire.call(b"<4>")]
    assert transport.writes == [b"<0><1><2>"]
    await asyncio.sleep(0)
    assert transport.writes == [b"<0><1><2>", b"<3><4>"]
    assert not any(future.done() for future in futures)


async def test_who_gives_up_before_the_turn_ends_sends_nothing() -> None:
    wire, transport, _ = await wire_with_calls(0)
    first, second, third = wire.call(b"<1>"), wire.call(b"<2>"), wire.call(b"<3>")
    second.cancel()
    await asyncio.sleep(0)
    assert transport.writes == [b"<1><3>"]
    wire.data_received(b":1\r\n:3\r\n")
    assert (await first, await third) == (1, 3)
    wire.call(b"<4>").cancel()
    await asyncio.sleep(0)
    assert transport.writes == [b"<1><3>"]


REPLIES: list[tuple[bytes, Any]] = [
    (b"+OK\r\n", b"OK"),
    (b":-17\r\n", -17),
    (b"$-1\r\n", None),
    (b"$6\r\nab\r\ncd\r\n", b"ab\r\ncd"),
    (b"$0\r\n\r\n", b""),
    (
        b"*3\r\n$1\r\na\r\n:1700000000000\r\n*2\r\n:0\r\n$0\r\n\r\n",
        [b"a", 1_700_000_000_000, [0, b""]],
    ),
    (b"*0\r\n", []),
    (b"*-1\r\n", None),
]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1_000])
async def test_replies_may_come_in_pieces_of_any_size(size: int) -> None:
    wire, _, futures = await wire_with_calls(len(REPLIES))
    stream = b"".join(sent for sent, _ in REPLIES)
    for start in range(0, len(stream), size):
        wire.data_received(stream[start : start + size])
    assert [await future for future in futures] == [meant for _, meant in REPLIES]


async def test_replies_may_be_cut_anywhere() -> None:
    stream = b"".join(sent for sent, _ in REPLIES)
    for cut in range(len(stream) + 1):
        wire, _, futures = await wire_with_calls(len(REPLIES))
        wire.data_received(stream[:cut])
        complete = sum(future.done() for future in futures)
        assert len(b"".join(sent for sent, _ in REPLIES[:complete])) <= cut
        wire.data_received(stream[cut:])
        assert [await future for future in futures] == [meant for _, meant in REPLIES]


async def test_an_error_is_a_reply_of_its_call_alone() -> None:
    wire, _, futures = await wire_with_calls(3)
    wire.data_received(b":0\r\n-LOADING not yet\r\n:2\r\n")
    zero, error, two = await asyncio.gather(*futures)
    assert (zero, two) == (0, 2)
    assert isinstance(error, hiredis.ReplyError)
    assert str(error) == "LOADING not yet"


async def test_replies_to_who_gave_up_are_dropped_in_order() -> None:
    wire, _, futures = await wire_with_calls(5)
    futures[0].cancel()
    futures[3].cancel()
    wire.data_received(b":0\r\n:1\r\n:2\r\n:3\r\n:4\r\n")
    assert [await futures[number] for number in (1, 2, 4)] == [1, 2, 4]
    assert wire.is_usable


GARBAGE = [
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"\x15\x03\x03\x00\x02\x02\x50",  # an alert of TLS
    b"$-5\r\n",
    b"*-5\r\n",
    b"*99999999999999\r\n",
    b":12a\r\n",
    b"\r\n",
    b"\x00",
    b"%1\r\n*0\r\n+a\r\n",  # a mapping whose key is a list
]


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_garbage_ends_the_connection_and_all_its_calls(garbage: bytes) -> None:
    wire, transport, futures = await wire_with_calls(3)
    wire.data_received(b":0\r\n" + garbage)
    assert await futures[0] == 0
    for future in futures[1:]:
        assert await refusal(future) == "Redis sent something that is no reply"
    assert transport.is_aborted
    assert not wire.is_usable
    ended(wire)


async def test_any_bytes_end_in_replies_or_in_the_end_of_the_connection() -> None:
    """No other exception leaves `data_received`: the loop would only log it."""
    chance = random.Random(1)
    ends = 0
    for _ in range(1_000):
        wire, transport, futures = await wire_with_calls(4)
        wire.data_received(bytes(chance.choices(b"*$+-:_#,(%~>0123456789ab\r\n\r\n", k=24)))
        if transport.is_aborted:
            ends += 1
            assert all(future.done() for future in futures)
            ended(wire)
        wire.close("the test is over")
        await asyncio.gather(*futures, return_exceptions=True)
    assert 0 < ends < 1_000


async def test_what_a_server_says_unasked_ends_the_connection() -> None:
    wire, transport, _ = await wire_with_calls(0)
    wire.data_received(b"-ERR max number of clients reached\r\n")
    assert transport.is_aborted
    assert wire.why_unusable == "Redis refused the connection: ERR max number of clients reached"
    ended(wire)


async def test_one_reply_too_many_ends_the_connection() -> None:
    wire, transport, futures = await wire_with_calls(1)
    wire.data_received(b":0\r\n:1\r\n")
    assert await futures[0] == 0
    assert transport.is_aborted
    assert wire.why_unusable == "Redis sent something that is no reply"
    ended(wire)


async def test_more_calls_than_may_wait_are_turned_away() -> None:
    wire, transport, futures = await wire_with_calls(CALLS_MAX)
    # Those that were given up count too, as long as their replies are owed.
    for future in futures:
        future.cancel()
    with pytest.raises(RedisUnavailable, match="too many calls"):
        wire.call(b"<one more>")
    wire.data_received(b":0\r\n")
    future = wire.call(b"<now there is room>")
    wire.data_received(b":0\r\n" * (CALLS_MAX - 1))
    await asyncio.sleep(0)
    assert transport.writes[-1] == b"<now there is room>"
    wire.data_received(b":1\r\n")
    assert await future == 1


async def test_calls_that_wait_for_the_connection_are_bounded_too() -> None:
    wire = Wire(60)
    futures = [wire.call(b"<>") for _ in range(CALLS_MAX)]
    with pytest.raises(RedisUnavailable, match="too many calls"):
        wire.call(b"<>")
    wire.close("the test is over")
    assert await refusal(futures[-1]) == "the test is over"
    await asyncio.gather(*futures, return_exceptions=True)


async def test_a_full_batch_leaves_before_the_turn_ends() -> None:
    wire, transport, _ = await wire_with_calls(0)
    before = len(transport.writes)
    futures = [wire.call(b"<%d>" % number) for number in range(2 * BATCH_CALLS_MAX + 1)]
    one, two = range(BATCH_CALLS_MAX), range(BATCH_CALLS_MAX, 2 * BATCH_CALLS_MAX)
    full = [b"".join(b"<%d>" % number for number in batch) for batch in (one, two)]
    assert transport.writes[before:] == full
    await asyncio.sleep(0)
    assert transport.writes[before:] == [*full, b"<%d>" % (2 * BATCH_CALLS_MAX)]
    wire.data_received(b":7\r\n" * len(futures))
    assert await asyncio.gather(*futures) == [7] * len(futures)


async def test_calls_wait_until_the_handshake_is_done() -> None:
    wire, transport = Wire(60), Transport()
    early = wire.call(b"<early>")
    wire.connection_made(transport)
    setting_up = asyncio.create_task(wire.set_up([b"<auth>", b"<name>"]))
    await asyncio.sleep(0)
    late = wire.call(b"<late>")
    assert transport.writes == [b"<auth>"]
    wire.data_received(b"+OK\r\n")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert transport.writes == [b"<auth>", b"<name>"]
    wire.data_received(b"+OK\r\n")
    await setting_up
    assert transport.writes == [b"<auth>", b"<name>", b"<early><late>"]
    wire.data_received(b":1\r\n:2\r\n")
    assert (await early, await late) == (1, 2)


async def test_a_refused_handshake_goes_no_further() -> None:
    wire, transport = Wire(60), Transport()
    wire.connection_made(transport)
    setting_up = asyncio.create_task(wire.set_up([b"<auth>", b"<name>"]))
    await asyncio.sleep(0)
    wire.data_received(b"-WRONGPASS no\r\n")
    assert await refusal(setting_up) == "Redis refused the connection: WRONGPASS no"
    assert transport.writes == [b"<auth>"]


async def test_a_connection_lost_between_two_steps_of_the_handshake() -> None:
    wire, transport = Wire(60), Transport()
    wire.connection_made(transport)
    setting_up = asyncio.create_task(wire.set_up([b"<auth>", b"<name>"]))
    await asyncio.sleep(0)
    wire.data_received(b"+OK\r\n")
    wire.connection_lost(None)
    assert await refusal(setting_up) == "the connection to Redis was lost"
    assert transport.writes == [b"<auth>"]


async def test_the_end_of_a_connection_tells_its_cause() -> None:
    wire, _, futures = await wire_with_calls(2)
    cause = ConnectionResetError("reset by the other side")
    wire.connection_lost(cause)
    for future in futures:
        with pytest.raises(RedisUnavailable, match="was lost") as caught:
            await future
        assert caught.value.__cause__ is cause
    assert wire.gone.is_set()
    wire.close("harmless to repeat")
    assert wire.why_unusable == "the connection to Redis was lost"


async def test_each_call_has_its_own_deadline_and_none_is_forgotten() -> None:
    deadline_ms = 1_000
    loop = asyncio.get_running_loop()
    wire, _, _ = await wire_with_calls(0, deadline_ms=deadline_ms)
    starts, ends, futures = [], [], []
    for _ in range(20):
        await asyncio.sleep(0.002)
        starts.append(loop.time())
        futures.append(wire.call(b"<>"))
        futures[-1].add_done_callback(lambda _: ends.append(loop.time()))
    for future in futures:
        assert await refusal(future) == "Redis did not answer in time"
    await asyncio.sleep(0)
    for start, end in zip(starts, ends, strict=True):
        assert deadline_ms <= (end - start) * 1000 <= deadline_ms + SLACK_MS
    # The late replies are still taken off the wire, each in its place.
    following = wire.call(b"<>")
    await asyncio.sleep(0)
    wire.data_received(b":0\r\n" * 20 + b":1\r\n")
    assert await following == 1


async def test_a_late_reply_does_not_shift_the_deadlines_after_it() -> None:
    loop = asyncio.get_running_loop()
    wire, _, (early, late) = await wire_with_calls(2, deadline_ms=DEADLINE_MS)
    wire.data_received(b":0\r\n")
    assert await early == 0
    await refusal(late)
    wire.data_received(b":1\r\n")
    began = loop.time()
    await refusal(wire.call(b"<>"))
    assert DEADLINE_MS <= (loop.time() - began) * 1000 <= DEADLINE_MS + SLACK_MS
