"""The real trace, replayed while Redis and the service are killed: the tally is met."""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
from pathlib import Path

import pytest

from tests.crash.site import Site, Victim
from tests.replay.traces import real_trace

REQUESTS = 1_000
REPLAY_S_MAX = 240
PAUSE_MS_MAX = 200
# The replay says ten times how far it is; what is killed when it does.
KILLS: dict[int, Victim] = {2: "redis", 5: "service", 8: "redis"}


@pytest.mark.parametrize(("durability", "wipe"), [("snapshot", False), ("sync", True)])
async def test_a_replay_through_three_kills_ends_as_its_tally_says(
    tmp_path: Path, durability: str, wipe: bool
) -> None:
    report_path = tmp_path / "report.json"
    site = Site(
        tmp_path / "site",
        embedded=False,
        random_source=random.Random(16),
        durability=durability,
        snapshot_interval_ms=100,
        breaker_reset_ms=50,
    )
    async with site, asyncio.timeout(REPLAY_S_MAX):
        arguments = [
            *("replay", real_trace(), "--url", site.service.url, "--json", report_path),
            *("--requests", REQUESTS, "--workspaces", 3, "--chats", 9, "--concurrency", 8),
        ]
        replay = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("limiter"),
            *map(str, arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            kills = await _kill_as_it_goes(site, replay, wipe=wipe)
            output, errors = await replay.communicate()
        finally:
            if replay.returncode is None:
                replay.kill()
                await replay.wait()
        assert replay.returncode == 0, output.decode() + errors.decode()
        report = json.loads(report_path.read_bytes())
        assert kills == len(KILLS)
        assert report["settled"] == REQUESTS
        assert report["repeats"] > 0
        assert report["spent_micros"] == report["counters_micros"] > 0
        assert await site.settled()
        for workspace_id in await site.storage.workspaces():
            assert await site.storage.drift(workspace_id) == []


async def _kill_as_it_goes(site: Site, replay: asyncio.subprocess.Process, *, wipe: bool) -> int:
    assert replay.stderr is not None
    steps = kills = 0
    while kills < len(KILLS) and (line := await replay.stderr.readline()):
        if re.match(rb"requests: ", line):
            steps += 1
            if steps in KILLS:
                await site.crash(KILLS[steps], wipe=wipe, pause_ms_max=PAUSE_MS_MAX)
                kills += 1
    return kills
