"""Scripts that take several calls: callers do not notice, but for the time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from limiter.errors import RedisUnavailable, ScriptError
from limiter.redis.runner import ScriptRunner
from limiter.redis.scripts import ScriptSet
from limiter.redis.wire import JOINT_CALLS_MAX
from tests.redis.pipeline.peer import begin, pipeline_of, pipeline_to_peer
from tests.redis.pipeline.test_runner import LONG_MS, calls_of
from tests.redis.support import unix_url
from tests.support.servers import ServerProcess

# It has the name of one that takes several.
CHECK = """\
-- check: counts its calls, whose arguments are one each.
local replies = {}
for i = 2, #ARGV do
  replies[i - 1] = ARGV[i] == 'boom' and redis.error_reply('ERR boom')
    or { 'counted', redis.call('INCR', KEYS[1]), ARGV[1], ARGV[i] }
end
return #replies == 1 and replies[1] or replies
"""
ONE, OTHER = ("{0}:one",), ("{0}:other",)
CALLS = 500


@pytest.fixture
def scripts(tmp_path: Path) -> ScriptSet:
    folder = tmp_path / "lua"
    folder.mkdir()
    (folder / "check.lua").write_text(CHECK)
    return ScriptSet(folder)


async def test_each_of_many_has_its_own_reply_and_runs_once(
    own_server: ServerProcess, scripts: ScriptSet
) -> None:
    async with pipeline_of(unix_url(own_server), deadline_ms=LONG_MS) as pipeline:
        runner = ScriptRunner(pipeline, scripts)
        for keys, shared in ((ONE, "first"), (ONE, "second"), (OTHER, "third")):
            own_server.client.script_flush()
            own_server.client.delete(*ONE, *OTHER)
            own_server.client.config_resetstat()
            replies = await asyncio.gather(
                *(runner.run("check", keys, shared, number) for number in range(CALLS))
            )
            assert [reply[2:] for reply in replies] == [
                [shared.encode(), b"%d" % number] for number in range(CALLS)
            ]
            assert sorted(reply[1] for reply in replies) == list(range(1, CALLS + 1))
            # All of them met a server without the script, and one brought it.
            full = -(-CALLS // JOINT_CALLS_MAX)
            assert calls_of(own_server, "eval") == 1
            assert full <= calls_of(own_server, "evalsha") <= CALLS + full


async def test_calls_of_other_keys_or_another_first_argument_stay_apart(
    own_server: ServerProcess, scripts: ScriptSet
) -> None:
    async with pipeline_of(unix_url(own_server), deadline_ms=LONG_MS) as pipeline:
        runner = ScriptRunner(pipeline, scripts)
        assert (await runner.run("check", ONE, "a", "x"))[1] == 1
        own_server.client.config_resetstat()
        await asyncio.gather(
            *(runner.run("check", keys, shared, "x") for keys in (ONE, OTHER) for shared in "ab"),
            *(runner.run("check", keys, shared, "y") for keys in (ONE, OTHER) for shared in "ab"),
        )
        assert calls_of(own_server, "evalsha") == 4


async def test_one_that_fails_fails_alone(own_server: ServerProcess, scripts: ScriptSet) -> None:
    async with pipeline_of(unix_url(own_server), deadline_ms=LONG_MS) as pipeline:
        runner = ScriptRunner(pipeline, scripts)
        await runner.run("check", ONE, "m", "first")
        words = ["boom", "x", "boom", "y"]
        replies = await asyncio.gather(
            *(runner.run("check", ONE, "m", word) for word in words), return_exceptions=True
        )
        assert [isinstance(reply, ScriptError) for reply in replies] == [True, False, True, False]


async def test_a_lost_reply_is_lost_for_all_and_nothing_is_sent_again(
    tmp_path: Path, scripts: ScriptSet
) -> None:
    async with pipeline_to_peer(tmp_path, deadline_ms=LONG_MS) as (pipeline, peer):
        runner = ScriptRunner(pipeline, scripts)
        calls = [begin(runner.run("check", ONE, "m", number)) for number in range(3)]
        await peer.received(1)
        peer.hang_up()
        for call in calls:
            with pytest.raises(RedisUnavailable):
                await call
        assert [command[-3:] for command in peer.commands] == [[b"0", b"1", b"2"]]
