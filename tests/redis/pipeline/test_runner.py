"""Scripts by name: brought to the server when it lacks them, run once, failures told apart."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from pathlib import Path

import hiredis
import pytest

from limiter.errors import RedisUnavailable, ScriptError
from limiter.redis.embedded import EmbeddedServer
from limiter.redis.runner import ScriptRunner
from limiter.redis.scripts import ScriptSet
from tests.redis.pipeline.peer import (
    SLACK_MS,
    Peer,
    begin,
    elapsed_ms,
    eventually,
    ok_to_handshake,
    pipeline_of,
    pipeline_to_peer,
    refusal,
)
from tests.redis.support import kill_and_await_restart, unix_url
from tests.support.servers import ServerProcess

LONG_MS = 30_000

COUNT = """\
-- count: how often it was called, and with what.
return { 'counted', redis.call('INCR', KEYS[1]), ARGV[1] }
"""
BUG = """\
-- bug: indexes what is not there.
if ARGV[1] == 'lua' then return nothing.here end
return { 'hit', redis.call('HGET', KEYS[1], 'field') }
"""
BAD = """\
-- bad: what it says first is not a status.
return ARGV[1] == 'list' and { 1 } or ARGV[1] == 'empty' and {} or 'text'
"""
KEY = ("{0}:number",)
NOSCRIPT = b"-NOSCRIPT No matching script. Please use EVAL.\r\n"
COUNTED = b"*3\r\n$7\r\ncounted\r\n:1\r\n$1\r\nx\r\n"


@pytest.fixture
def scripts(tmp_path: Path) -> ScriptSet:
    folder = tmp_path / "lua"
    folder.mkdir()
    for name, text in (("count", COUNT), ("bug", BUG), ("bad", BAD)):
        (folder / f"{name}.lua").write_text(text)
    return ScriptSet(folder)


def calls_of(server: ServerProcess, command: str) -> int:
    stats = server.client.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


# --------------------------------------------------------------------- replies


async def test_a_script_is_called_by_name(own_server: ServerProcess, scripts: ScriptSet) -> None:
    async with pipeline_of(unix_url(own_server), deadline_ms=LONG_MS) as pipeline:
        runner = ScriptRunner(pipeline, scripts)
        assert await runner.run("count", KEY, "one") == [b"counted", 1, b"one"]
        assert await runner.run("count", KEY, 2) == [b"counted", 2, b"2"]
        assert calls_of(own_server, "eval") == 1
        with pytest.raises(KeyError):
            await runner.run("none", KEY)


async def test_a_failing_script_names_its_file_and_line(
    own_server: ServerProcess, scripts: ScriptSet
) -> None:
    async with pipeline_of(unix_url(own_server), deadline_ms=LONG_MS) as pipeline:
        runner = ScriptRunner(pipeline, scripts)
        own_server.client.set(KEY[0], "text")
        for _ in ("by EVAL", "by EVALSHA"):
            with pytest.raises(ScriptError, match=r"^bug\.lua:2: .*nothing"):
                await runner.run("bug", KEY, "lua")
        with pytest.raises(ScriptError, match=r"WRONGTYPE"):
            await runner.run("bug", KEY, "type")


@pytest.mark.parametrize("shape", ["list", "empty", "text"])
async def test_a_reply_without_a_status_is_an_error(
    own_server: ServerProcess, scripts: ScriptSet, shape: str
) -> None:
    async with pipeline_of(unix_url(own_server), deadline_ms=LONG_MS) as pipeline:
        with pytest.raises(ScriptError, match=r"^bad: unexpected reply"):
            await ScriptRunner(pipeline, scripts).run("bad", KEY, shape)


IN_SCRIPT_6 = f"ERR Error running script (call to f_{'a' * 40}): @user_script:1: @user_script: 1: -"
IN_SCRIPT_7 = f" script: {'a' * 40}, on @user_script:1."


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("LOADING Redis is loading the dataset in memory", "LOADING"),
        ("BUSY Valkey is busy running a script. You can only call SCRIPT KILL", "BUSY"),
        ("MASTERDOWN Link with MASTER is down", "MASTERDOWN"),
        ("NOAUTH Authentication required.", "NOAUTH"),
        ("NOPERM User limiter has no permissions to run the 'evalsha' command", "NOPERM"),
        ("CLUSTERDOWN The cluster is down", "CLUSTERDOWN"),
        ("TRYAGAIN Multiple keys request during rehashing of slot", "TRYAGAIN"),
        ("OOM command not allowed when used memory > 'maxmemory'." + IN_SCRIPT_7, "OOM"),
        ("READONLY You can't write against a read only replica." + IN_SCRIPT_7, "READONLY"),
        ("MISCONF Redis is configured to save RDB snapshots" + IN_SCRIPT_7, "MISCONF"),
        ("NOREPLICAS Not enough good replicas to write. script: on @user_script:1.", "NOREPLICAS"),
        (IN_SCRIPT_6 + "OOM command not allowed when used memory > 'maxmemory'.", "OOM"),
        (IN_SCRIPT_6 + "READONLY You can't write against a read only replica.", "READONLY"),
        (IN_SCRIPT_6 + "MISCONF Redis is configured to save RDB snapshots", "MISCONF"),
        (IN_SCRIPT_6 + "NOREPLICAS Not enough good replicas to write.", "NOREPLICAS"),
    ],
)
async def test_a_server_that_cannot_answer_is_unavailable(
    tmp_path: Path, scripts: ScriptSet, message: str, code: str
) -> None:
    async with pipeline_to_peer(tmp_path, deadline_ms=LONG_MS) as (pipeline, peer):
        peer.answer = lambda command: ok_to_handshake(command) or b"-%s\r\n" % message.encode()
        with pytest.raises(RedisUnavailable) as caught:
            await ScriptRunner(pipeline, scripts).run("count", KEY, "x")
        # The rest may name users of the server; it is kept for the log.
        assert str(caught.value) == f"Redis cannot answer: {code}"
        assert isinstance(caught.value.__cause__, hiredis.ReplyError)
        assert len(peer.commands) == 1


@pytest.mark.parametrize(
    "message",
    [
        "ERR wrong number of arguments for 'evalsha' command",
        "WRONGTYPE Operation against a key holding the wrong kind of value" + IN_SCRIPT_7,
        f"ERR Error running script (call to f_{'a' * 40}): @user_script:1: WRONGTYPE Operation",
        "ERR user_script:1: attempt to index local 'OOM' (a nil value)" + IN_SCRIPT_7,
        "ERR the key 'lim:{0}:OOM:workspace' is READONLY",
        "BUSYGROUP Consumer Group name already exists",
    ],
)
async def test_any_other_error_is_the_scripts_own(
    tmp_path: Path, scripts: ScriptSet, message: str
) -> None:
    async with pipeline_to_peer(tmp_path, deadline_ms=LONG_MS) as (pipeline, peer):
        peer.answer = lambda command: ok_to_handshake(command) or b"-%s\r\n" % message.encode()
        with pytest.raises(ScriptError):
            await ScriptRunner(pipeline, scripts).run("count", KEY, "x")


async def test_ping_tells_whether_the_server_takes_commands(
    tmp_path: Path, scripts: ScriptSet
) -> None:
    async with pipeline_to_peer(tmp_path) as (pipeline, peer):
        runner = ScriptRunner(pipeline, scripts)
        for said, meaning in ((b"+PONG\r\n", True), (b"-LOADING\r\n", False), (b"", False)):
            peer.answer = lambda command, said=said: (  # type: ignore[misc]
                ok_to_handshake(command) or said
            )
            assert await runner.ping() is meaning


# --------------------------------------------------------------------- a lost reply


async def test_a_call_whose_reply_is_lost_is_not_sent_again(
    tmp_path: Path, scripts: ScriptSet
) -> None:
    async with pipeline_to_peer(tmp_path, deadline_ms=LONG_MS) as (pipeline, peer):
        runner = ScriptRunner(pipeline, scripts)
        for sent in (1, 2):
            call = begin(runner.run("count", KEY, "x"))
            await peer.received(sent)
            peer.hang_up()
            await refusal(call)
        assert [command[0] for command in peer.commands] == [b"EVALSHA", b"EVALSHA"]


async def test_a_first_call_whose_reply_is_lost_is_not_sent_again(
    tmp_path: Path, scripts: ScriptSet
) -> None:
    async with pipeline_to_peer(tmp_path, deadline_ms=LONG_MS) as (pipeline, peer):
        peer.answer = lambda command: (
            NOSCRIPT if command[0] == b"EVALSHA" else ok_to_handshake(command)
        )
        call = begin(ScriptRunner(pipeline, scripts).run("count", KEY, "x"))
        await peer.received(2)
        peer.hang_up()
        await refusal(call)
        assert [command[0] for command in peer.commands] == [b"EVALSHA", b"EVAL"]


# --------------------------------------------------------------------- scripts that are missing


class Keeper:
    """Answers as a server does that keeps what came by EVAL, until it is flushed."""

    def __init__(self, *, keeps: bool = True) -> None:
        self.keeps = keeps
        self.known: set[bytes] = set()
        self.ran: Counter[bytes] = Counter()

    def __call__(self, command: list[bytes]) -> bytes:
        if command[0] == b"EVAL":
            if self.keeps:
                digest = hashlib.sha1(command[1], usedforsecurity=False).hexdigest()
                self.known.add(digest.encode())
        elif command[0] != b"EVALSHA":
            return ok_to_handshake(command)
        elif command[1] not in self.known:
            return NOSCRIPT
        self.ran[command[-1]] += 1
        return COUNTED


def sent(peer: Peer, name: bytes) -> int:
    return sum(command[0] == name for command in peer.commands)


async def test_one_of_many_callers_brings_a_missing_script(
    tmp_path: Path, scripts: ScriptSet
) -> None:
    async with pipeline_to_peer(tmp_path, deadline_ms=LONG_MS) as (pipeline, peer):
        keeper = peer.answer = Keeper()
        runner = ScriptRunner(pipeline, scripts)
        await asyncio.gather(*(runner.run("count", KEY, number) for number in range(500)))
        assert sent(peer, b"EVAL") == 1
        assert sent(peer, b"EVALSHA") == 500 + 499
        assert keeper.ran == Counter({b"%d" % number: 1 for number in range(500)})


async def test_each_script_is_brought_by_itself(tmp_path: Path, scripts: ScriptSet) -> None:
    async with pipeline_to_peer(tmp_path, deadline_ms=LONG_MS) as (pipeline, peer):
        peer.answer = Keeper()
        runner = ScriptRunner(pipeline, scripts)
        names = ["count", "bug", "bad"] * 20
        await asyncio.gather(*(runner.run(name, KEY, "x") for name in names))
        texts = [command[1] for command in peer.commands if command[0] == b"EVAL"]
        assert sorted(texts) == sorted(text.encode() for text in (COUNT, BUG, BAD))


async def test_when_bringing_a_script_fails_one_other_does_it(
    tmp_path: Path, scripts: ScriptSet
) -> None:
    async with pipeline_to_peer(tmp_path, deadline_ms=LONG_MS) as (pipeline, peer):
        keeper = Keeper()

        def full_at_first(command: list[bytes]) -> bytes:
            if command[0] == b"EVAL" and sent(peer, b"EVAL") == 1:
                return b"-OOM command not allowed\r\n"
            return keeper(command)

        peer.answer = full_at_first
        runner = ScriptRunner(pipeline, scripts)
        calls = [begin(runner.run("count", KEY, number)) for number in range(50)]
        assert await refusal(calls[0]) == "Redis cannot answer: OOM"
        await asyncio.gather(*calls[1:])
        assert sent(peer, b"EVAL") == 2
        assert keeper.ran == Counter({b"%d" % number: 1 for number in range(1, 50)})


async def test_who_brings_a_script_and_gives_up_takes_it_from_nobody(
    tmp_path: Path, scripts: ScriptSet
) -> None:
    async with pipeline_to_peer(tmp_path, deadline_ms=LONG_MS) as (pipeline, peer):
        keeper = Keeper()
        late: list[bytes] = []

        def answer_late(command: list[bytes]) -> bytes:
            if command[0] == b"EVAL" or late:
                late.append(keeper(command))
                return b""
            return keeper(command)

        peer.answer = answer_late
        runner = ScriptRunner(pipeline, scripts)
        calls = [begin(runner.run("count", KEY, number)) for number in range(50)]
        await peer.received(50 + 50)
        calls[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await calls[0]
        peer.write(b"".join(late))
        await asyncio.gather(*calls[1:])
        assert sent(peer, b"EVAL") == 1
        assert keeper.ran == Counter({b"%d" % number: 1 for number in range(50)})


async def test_a_server_that_keeps_no_script_is_served_by_eval(
    tmp_path: Path, scripts: ScriptSet
) -> None:
    """Such as a proxy in front of several."""
    async with pipeline_to_peer(tmp_path, deadline_ms=LONG_MS) as (pipeline, peer):
        keeper = peer.answer = Keeper(keeps=False)
        runner = ScriptRunner(pipeline, scripts)
        await asyncio.gather(*(runner.run("count", KEY, number) for number in range(50)))
        assert keeper.ran == Counter({b"%d" % number: 1 for number in range(50)})


async def test_bringing_a_script_takes_no_more_than_the_deadline(
    tmp_path: Path, scripts: ScriptSet
) -> None:
    """NOSCRIPT comes late and EVAL is never answered: nobody's time starts anew for that."""
    deadline_ms = 1_500
    async with pipeline_to_peer(tmp_path, deadline_ms=deadline_ms) as (pipeline, peer):
        runner = ScriptRunner(pipeline, scripts)
        calls = [begin(elapsed_ms(runner.run("count", KEY, number))) for number in range(20)]
        await peer.received(20)
        await asyncio.sleep(deadline_ms * 0.9 / 1000)
        peer.write(NOSCRIPT * 20)
        taken_ms = await asyncio.gather(*calls)
        assert sent(peer, b"EVAL") == 1
        assert max(taken_ms) <= deadline_ms + SLACK_MS


@pytest.mark.parametrize("seed", range(2))
async def test_flushes_under_load_fail_no_call(
    own_server: ServerProcess, scripts: ScriptSet, seed: int
) -> None:
    chance = random.Random(seed)
    callers, turns, flushes = 500, 8, 0
    async with (
        pipeline_of(unix_url(own_server), deadline_ms=LONG_MS) as pipeline,
        pipeline_of(unix_url(own_server), deadline_ms=LONG_MS) as other,
    ):
        runner = ScriptRunner(pipeline, scripts)
        is_over = asyncio.Event()

        async def caller(name: int) -> list[int]:
            counts = []
            for turn in range(turns):
                status, count, said = await runner.run("count", KEY, f"{name}-{turn}")
                assert (status, said) == (b"counted", f"{name}-{turn}".encode())
                counts.append(count)
            return counts

        async def flusher() -> None:
            nonlocal flushes
            while not is_over.is_set():
                assert await other.call("SCRIPT", "FLUSH") == b"OK"
                flushes += 1
                await asyncio.sleep(chance.random() * 0.01)

        flushing = begin(flusher())
        counts = await asyncio.gather(*(caller(name) for name in range(callers)))
        is_over.set()
        await flushing
    flat = sorted(count for some in counts for count in some)
    assert flat == list(range(1, callers * turns + 1))
    assert flushes > 1
    assert 1 <= calls_of(own_server, "eval") <= 3 * flushes


async def test_a_user_who_may_not_use_script_is_served(
    own_server: ServerProcess, scripts: ScriptSet
) -> None:
    rules = ("limiter", "on", ">secret", "~*", "&*", "+@all", "-script")
    own_server.client.execute_command("ACL", "SETUSER", *rules)
    url = f"redis://limiter:secret@127.0.0.1:{own_server.port}/0"
    async with pipeline_of(url, deadline_ms=LONG_MS) as pipeline:
        runner = ScriptRunner(pipeline, scripts)
        for flushed in range(2):
            calls = [runner.run("count", KEY, "x") for _ in range(50)]
            counts = [reply[1] for reply in await asyncio.gather(*calls)]
            assert sorted(counts) == list(range(50 * flushed + 1, 50 * flushed + 51))
            own_server.client.script_flush()
        assert calls_of(own_server, "eval") == 2


async def test_a_restarted_server_gets_its_scripts_again(
    binary: Path, tmp_path: Path, scripts: ScriptSet
) -> None:
    server = EmbeddedServer(tmp_path / "data", binary)
    url = server.start()
    try:
        async with pipeline_of(url) as pipeline:
            runner = ScriptRunner(pipeline, scripts)
            assert (await runner.run("count", KEY, "x"))[1] == 1
            for _ in range(2):
                await asyncio.to_thread(kill_and_await_restart, server)
                await eventually(lambda: runner.run("count", ("{0}:other",), "x"), LONG_MS)
            replies = await asyncio.gather(*(runner.run("count", KEY, "x") for _ in range(100)))
            counts = sorted(reply[1] for reply in replies)
            # Of the first call, the append-only file may have known or not.
            assert counts in (list(range(1, 101)), list(range(2, 102)))
    finally:
        await asyncio.to_thread(server.stop)
