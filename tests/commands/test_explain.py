"""`limiter explain`: what fills a limit is named, and redis-cli shows the same numbers."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from limiter.commands.explain import LARGEST, Explained, Filled, explain
from limiter.commands.output import moment_ms
from limiter.errors import ChatNotFound, WorkspaceNotFound
from limiter.models import ChatPatch, CheckRequest, RecordRequest, WorkspacePatch
from limiter.runtime import open_parts
from limiter.settings import Settings

RUN_MS_MAX = 30_000
CHATS = 7


async def build(settings: Settings) -> None:
    """A tree under c0 and a chat outside of it; c4 spent most of it, and r4 holds most."""
    async with open_parts(settings) as parts:
        limiter = parts.limiter
        await limiter.configure(
            "acme", WorkspacePatch(budget_limits={"hourly": 2_000, "daily": 10_000})
        )
        for number in range(CHATS):
            await limiter.record(
                RecordRequest(
                    workspace_id="acme",
                    chat_id=f"c{number}",
                    parent_chat_id="c0" if number else None,
                    cost_micros=500 if number == 4 else 100 + number,
                    event_id=f"e{number}",
                )
            )
            await limiter.check(
                CheckRequest(
                    workspace_id="acme",
                    chat_id=f"c{number}",
                    estimate_micros=100 if number == 4 else number + 1,
                    reservation_id=f"r{number}",
                )
            )
        await limiter.record(RecordRequest(workspace_id="acme", chat_id="other", cost_micros=300))
        check = CheckRequest(workspace_id="acme", chat_id="other", estimate_micros=9)
        assert (await limiter.check(check)).allowed
        await limiter.configure_chat("acme", "c0", ChatPatch(spend_limit_micros=1_300))
        await parts.snapshot.run_once()


SPENT_IN_TREE = 500 + sum(100 + number for number in range(CHATS) if number != 4)
HELD_IN_TREE = 100 + sum(number + 1 for number in range(CHATS) if number != 4)


@pytest.fixture
async def built(settings: Settings) -> Settings:
    await build(settings)
    return settings


async def test_every_limit_that_binds_comes_with_what_fills_it(built: Settings) -> None:
    found = await explain(built, "acme", "c4", 900)
    assert not found.allowed
    chat, hourly = found.limits
    assert [limit.violation for limit in found.limits] == found.violations

    assert (chat.scope, chat.chat_id, chat.period) == ("chat_lifetime", "c0", "lifetime")
    assert (chat.limit_micros, chat.spent_micros, chat.held_micros) == (
        1_300,
        SPENT_IN_TREE,
        HELD_IN_TREE,
    )
    assert [(one.chat_id, one.spent_micros) for one in chat.chats] == [
        ("c4", 500),
        *((f"c{number}", 100 + number) for number in (6, 5, 3, 2)),
    ]
    assert [hold.reservation_id for hold in chat.holds] == ["r4", "r6", "r5", "r3", "r2"]

    assert (hourly.scope, hourly.chat_id, hourly.period) == ("account_period", None, "hourly")
    assert hourly.spent_micros == SPENT_IN_TREE + 300
    assert hourly.held_micros == HELD_IN_TREE + 9
    assert [(one.chat_id, one.spent_micros) for one in hourly.chats[:3]] == [
        ("c4", 500),
        ("other", 300),
        ("c6", 106),
    ]
    assert hourly.chats_complete
    assert len(hourly.chats) == len(hourly.holds) == LARGEST
    assert [hold.held_micros for hold in hourly.holds[:3]] == [100, 9, 7]
    # The scene may have taken a moment longer than a bucket.
    assert sum(bucket.micros for bucket in hourly.buckets) == SPENT_IN_TREE + 300
    for bucket in hourly.buckets:
        assert moment_ms(bucket.leaves_at) - moment_ms(bucket.start) == 3_600_000 + 30_000


async def test_when_nothing_binds_the_closest_limit_is_shown(built: Settings) -> None:
    found = await explain(built, "acme", "c4", 0)
    assert (found.allowed, found.retry_after_ms, found.violations) == (True, 0, [])
    (closest,) = found.limits
    assert (closest.chat_id, closest.violation) == ("c0", None)
    (closest,) = (await explain(built, "acme", "other", 0)).limits
    assert (closest.chat_id, closest.period) == (None, "hourly")


async def test_without_an_estimate_the_default_one_counts(built: Settings) -> None:
    async with open_parts(built) as parts:
        await parts.limiter.configure("acme", WorkspacePatch(default_estimate_micros=1_999))
        assert not (await parts.limiter.explain("acme")).allowed
        assert (await parts.limiter.explain("acme", None, 1)).allowed


async def test_asking_makes_nothing(built: Settings) -> None:
    with pytest.raises(WorkspaceNotFound):
        await explain(built, "nobody", None, 1)
    with pytest.raises(ChatNotFound):
        await explain(built, "acme", "nobody", 1)
    async with open_parts(built) as parts:
        assert not await parts.storage.has_workspace("nobody")
        assert await parts.storage.chat("acme", "nobody") is None


async def test_redis_cli_shows_the_same(built: Settings, tmp_path: Path) -> None:
    found = await explain(built, "acme", "c4", 900)
    shown = {limit.period: shows(built, tmp_path, limit) for limit in found.limits}

    chat, hourly = found.limits
    (own,) = [one.own_spent_micros for one in found.chats if one.chat_id == "c0"]
    assert shown["lifetime"][0] == [
        str(number) for number in (chat.limit_micros, chat.spent_micros, chat.held_micros, own)
    ]
    counters, closed, (_, open_micros), live, *holds = shown["hourly"]
    assert counters == [
        str(number) for number in (hourly.limit_micros, hourly.spent_micros, hourly.held_micros)
    ]
    micros = [int(member.partition(":")[2]) for member in closed if member]
    assert sum(micros) + int(open_micros) == hourly.spent_micros
    assert sorted(live[0::2]) == sorted([*(f"r{n}" for n in range(CHATS)), *others(live)])
    assert holds == [
        [str(hold.held_micros), hold.chat_id, str(moment_ms(hold.expires_at))]
        for hold in hourly.holds
    ]
    assert len(shown["lifetime"]) == 2 + len(chat.holds)
    assert isinstance(found, Explained)


def others(live: list[str]) -> list[str]:
    """The one hold whose id the limiter made."""
    made = [name for name in live[0::2] if not name.startswith("r") or len(name) > 2]
    assert len(made) == 1
    return made


def shows(settings: Settings, folder: Path, limit: Filled) -> list[list[Any]]:
    """What each of the commands prints, run as it stands in a shell."""
    assert settings.redis_url is not None
    programs = str(Path(sys.executable).parent)
    environment = {
        **{name: each for name, each in os.environ.items() if "LIMITER" not in name},
        "PATH": f"{programs}:{os.environ['PATH']}",
        "LIMITER_REDIS_URL": settings.redis_url.get_secret_value(),
    }
    printed = []
    for command in limit.commands:
        assert shlex.split(command.command)[:2] == ["limiter", "redis-cli"]
        finished = subprocess.run(
            ["sh", "-c", command.command],
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=RUN_MS_MAX / 1_000,
            check=True,
        )
        printed.append(finished.stdout.splitlines())
    return printed
