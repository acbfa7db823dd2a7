"""A change of limits that is stored and that Redis was not told of comes into force by itself."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest

from limiter import Limiter
from limiter.models import ChatPatch
from tests.faults.configurer import LIMIT_MICROS, configurer
from tests.faults.scene import check, eventually, limit, limiter_on
from tests.support.redis_process import RedisProcess

OLD_MICROS = 1_000
ENDED_MS_MAX = 20_000


async def limit_in_force(limiter: Limiter, scope: str) -> int | None:
    """What Redis says that the limit is."""
    if scope == "workspace":
        return (await limiter.usage("acme")).periods["hourly"].limit_micros
    return (await limiter.chat_usage("acme", "c1")).limit_micros


@pytest.mark.parametrize("moment", ["killed", "frozen", "died"])
@pytest.mark.parametrize("scope", ["workspace", "chat"])
async def test_a_limit_that_redis_was_not_told_of_comes_into_force(
    redis_server: RedisProcess, store_url: str, scope: str, moment: str
) -> None:
    async with limiter_on(redis_server.url, store_url) as limiter:
        await limit(limiter, OLD_MICROS)
        await limiter.configure_chat("acme", "c1", ChatPatch(spend_limit_micros=OLD_MICROS))
        assert (await limiter.check(check(1, chat_id="c1"))).allowed

    info: Any = redis_server.client.info("server")
    with configurer(redis_server.url, store_url, scope, moment, int(info["process_id"])) as process:
        assert process.stdout is not None
        answer = await asyncio.to_thread(process.stdout.readline)
        # Nobody is left who knows that something is still to be told.
        process.kill()
        await asyncio.to_thread(process.wait, ENDED_MS_MAX / 1_000)
    assert answer.strip() == ("" if moment == "died" else "not_in_force_yet")
    if moment != "died":
        # Before it goes on, or it would read what was sent to it while it was frozen.
        redis_server.signal(signal.SIGKILL)
        redis_server.kill()
        redis_server.start()

    async with limiter_on(redis_server.url, store_url) as limiter:

        async def in_force() -> int | None:
            return await limit_in_force(limiter, scope)

        assert await eventually(in_force, lambda micros: micros != OLD_MICROS) == LIMIT_MICROS
        assert not (await limiter.check(check(LIMIT_MICROS + 1, chat_id="c1"))).allowed
