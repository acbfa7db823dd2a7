"""Calls that leave as one command: each has its own reply, its own end, and its own time."""

from __future__ import annotations

import asyncio
from typing import Any

import hiredis
import pytest

from limiter.errors import RedisUnavailable
from limiter.redis.wire import CALLS_MAX, JOINT_CALLS_MAX, Wire
from tests.redis.pipeline.peer import refusal
from tests.redis.pipeline.test_wire import Transport, ended, wire_with_calls

HEAD = ("DO", "acme")
OTHER = ("DO", "zeta")


def command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words)


def bulk_list(*words: bytes) -> bytes:
    """A reply, which looks as a command does."""
    return command(*words)


async def joint_wire(
    count: int, *, deadline_ms: int = 60_000
) -> tuple[Wire, Transport, list[asyncio.Future[Any]]]:
    """A connection on which so many calls of one head have left."""
    wire, transport, _ = await wire_with_calls(0, deadline_ms=deadline_ms)
    futures = [wire.call_jointly(HEAD, (number, "x")) for number in range(count)]
    await asyncio.sleep(0)
    return wire, transport, futures


async def test_they_leave_as_one_and_each_has_its_reply() -> None:
    wire, transport, futures = await joint_wire(3)
    assert transport.writes == [
        command(b"DO", b"acme", b"0", b"x", b"1", b"x", b"2", b"x"),
    ]
    wire.data_received(b"*3\r\n" + bulk_list(b"a", b"b") + b"-ERR no\r\n" + bulk_list(b"c"))
    first, second, third = await asyncio.gather(*futures)
    assert (first, third) == ([b"a", b"b"], [b"c"])
    assert isinstance(second, hiredis.ReplyError)


async def test_one_alone_is_a_plain_command_whose_reply_is_its_own() -> None:
    wire, transport, (future,) = await joint_wire(1)
    assert transport.writes == [command(b"DO", b"acme", b"0", b"x")]
    wire.data_received(b"*1\r\n" + bulk_list(b"a"))
    assert await future == [[b"a"]]


async def test_only_those_of_one_head_and_in_the_place_of_the_first() -> None:
    wire, transport, _ = await wire_with_calls(0)
    futures = [
        wire.call_jointly(HEAD, (1,)),
        wire.call(b"<2>"),
        wire.call_jointly(OTHER, (3,)),
        wire.call_jointly(HEAD, (4,)),
        wire.call(b"<5>"),
        wire.call_jointly(OTHER, (6,)),
    ]
    await asyncio.sleep(0)
    assert transport.writes == [
        command(b"DO", b"acme", b"1", b"4") + b"<2>" + command(b"DO", b"zeta", b"3", b"6") + b"<5>"
    ]
    wire.data_received(
        b"*2\r\n" + bulk_list(b"1") + bulk_list(b"4") + b":2\r\n"
        b"*2\r\n" + bulk_list(b"3") + bulk_list(b"6") + b":5\r\n"
    )
    assert await asyncio.gather(*futures) == [[b"1"], 2, [b"3"], [b"4"], 5, [b"6"]]


@pytest.mark.parametrize(
    "reply", [bulk_list(b"cold", b"workspace"), b"*0\r\n", b"$-1\r\n", b":3\r\n"]
)
async def test_a_reply_that_is_no_list_of_theirs_is_for_all(reply: bytes) -> None:
    wire, _, futures = await joint_wire(2)
    wire.data_received(reply)
    first, second = await asyncio.gather(*futures)
    assert first == second


async def test_an_error_is_for_all() -> None:
    wire, _, futures = await joint_wire(3)
    wire.data_received(b"-NOSCRIPT No matching script\r\n")
    for reply in await asyncio.gather(*futures):
        assert isinstance(reply, hiredis.ReplyError)
    assert wire.is_usable


async def test_who_gives_up_before_it_leaves_is_no_part_of_it() -> None:
    wire, transport, _ = await wire_with_calls(0)
    futures = [wire.call_jointly(HEAD, (number,)) for number in range(3)]
    futures[0].cancel()
    await asyncio.sleep(0)
    assert transport.writes == [command(b"DO", b"acme", b"1", b"2")]
    wire.data_received(b"*2\r\n" + bulk_list(b"1") + bulk_list(b"2"))
    assert await asyncio.gather(*futures[1:]) == [[b"1"], [b"2"]]


async def test_the_reply_to_who_gave_up_since_is_dropped() -> None:
    wire, _, futures = await joint_wire(3)
    later = wire.call(b"<later>")
    await asyncio.sleep(0)
    futures[1].cancel()
    wire.data_received(b"*3\r\n" + b"".join(bulk_list(b"%d" % n) for n in range(3)) + b":9\r\n")
    assert (await futures[0], await futures[2], await later) == ([b"0"], [b"2"], 9)


async def test_a_late_reply_to_all_of_them_is_dropped() -> None:
    wire, _, futures = await joint_wire(2, deadline_ms=10)
    for future in futures:
        assert await refusal(future) == "Redis did not answer in time"
    assert not wire.is_usable
    wire.data_received(b"*2\r\n" + bulk_list(b"0") + bulk_list(b"1"))
    wire.close("the test is over")
    ended(wire)


async def test_they_end_with_the_connection() -> None:
    wire, _, futures = await joint_wire(2)
    wire.data_received(b"*2\r\n" + bulk_list(b"0"))
    wire.connection_lost(None)
    for future in futures:
        assert await refusal(future) == "the connection to Redis was lost"
    assert wire.gone.is_set()


async def test_words_that_cannot_be_sent_are_refused_at_once_and_alone() -> None:
    wire, transport, _ = await wire_with_calls(0)
    first = wire.call_jointly(HEAD, ("1",))
    with pytest.raises(UnicodeEncodeError):
        wire.call_jointly(HEAD, ("\ud800",))
    second = wire.call_jointly(HEAD, ("2",))
    await asyncio.sleep(0)
    assert transport.writes == [command(b"DO", b"acme", b"1", b"2")]
    wire.data_received(b"*2\r\n" + bulk_list(b"1") + bulk_list(b"2"))
    assert [await first, await second] == [[b"1"], [b"2"]]


async def test_no_command_is_longer_than_the_server_can_afford() -> None:
    """However many calls have waited until the connection was there."""
    wire, transport = Wire(60), Transport()
    futures = [wire.call_jointly(HEAD, (number,)) for number in range(2 * JOINT_CALLS_MAX + 1)]
    wire.connection_made(transport)
    await wire.set_up([])
    numbers = [b"%d" % number for number in range(2 * JOINT_CALLS_MAX + 1)]
    full = JOINT_CALLS_MAX
    groups = [numbers[:full], numbers[full : 2 * full], numbers[2 * full :]]
    assert transport.writes == [b"".join(command(b"DO", b"acme", *group) for group in groups)]
    for group in groups[:2]:
        wire.data_received(b"*%d\r\n" % full + b"".join(map(bulk_list, group)))
    wire.data_received(bulk_list(numbers[-1]))
    assert await asyncio.gather(*futures) == [[number] for number in numbers]


async def test_more_than_may_wait_are_turned_away() -> None:
    wire = Wire(60)
    futures = [wire.call_jointly(HEAD, (number,)) for number in range(CALLS_MAX)]
    with pytest.raises(RedisUnavailable, match="too many calls"):
        wire.call_jointly(HEAD, (0,))
    wire.close("the test is over")
    await asyncio.gather(*futures, return_exceptions=True)
