"""The contenders of section `inprocess` that are ours, for the frame of `bench.peers.callers`.

`Limiter.check` as a program would use it, with the snapshot pass of every second; the same with
that pass at rest; the same with all calls of a turn in one batch; and its script through redis-py's
pool.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import redis
from pydantic import SecretStr

from bench.peers.callers import Call, main
from bench.plain import PlainCheck
from bench.scene import (
    ESTIMATE_MICROS,
    LEAF,
    LIMIT_MICROS,
    LIMITER_DB,
    LIMITS,
    PLAIN_DB,
    RESTING_DB,
    ROOT,
    put_workspace,
)
from limiter.models import Admitted, CheckRequest
from limiter.redis import wire
from limiter.redis.wire import BATCH_CALLS_MAX, CALLS_MAX
from limiter.runtime import open_limiter
from limiter.service import Limiter
from limiter.settings import Settings

WORKSPACE = "bench"
DEFAULT_MS = 1_000
NEVER_MS = 3_600_000


@contextlib.asynccontextmanager
async def contenders(redis_url: str) -> AsyncIterator[dict[str, Call]]:
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        calls: dict[str, Call] = {}
        for database, interval_ms in ((LIMITER_DB, DEFAULT_MS), (RESTING_DB, NEVER_MS)):
            settings = Settings(
                data_dir=folder / str(database),
                redis_url=SecretStr(f"{redis_url}?db={database}"),
                default_limits=LIMITS,
                snapshot_interval_ms=interval_ms,
            )
            limiter = await stack.enter_async_context(open_limiter(settings))
            suffix = "" if interval_ms == DEFAULT_MS else ", the snapshot pass at rest"
            await _put_chats(limiter)
            calls[f"Limiter.check holding{suffix}"] = _check(limiter, ESTIMATE_MICROS)
            if interval_ms == DEFAULT_MS:
                calls["Limiter.check without a hold"] = _check(limiter, 0)
                calls["Limiter.check holding, a batch a turn"] = _check(
                    limiter, ESTIMATE_MICROS, batch_calls_max=CALLS_MAX
                )

        plain_url = f"{redis_url}?db={PLAIN_DB}"
        with redis.Redis.from_url(plain_url, protocol=2) as client:
            put_workspace(client, WORKSPACE)
        plain = PlainCheck(plain_url)
        stack.push_async_callback(plain.aclose)
        calls["redis-py's pool, the script of check holding"] = _plain(plain)
        yield calls


async def _put_chats(limiter: Limiter) -> None:
    for request in (
        CheckRequest(workspace_id=WORKSPACE, chat_id=ROOT, spend_limit_micros=LIMIT_MICROS),
        CheckRequest(workspace_id=WORKSPACE, chat_id=LEAF, parent_chat_id=ROOT),
    ):
        assert isinstance(await limiter.check(request), Admitted)


def _check(
    limiter: Limiter, estimate_micros: int, *, batch_calls_max: int = BATCH_CALLS_MAX
) -> Call:
    async def check() -> None:
        # One contender runs at a time.
        wire.BATCH_CALLS_MAX = batch_calls_max
        request = CheckRequest(
            workspace_id=WORKSPACE, chat_id=LEAF, estimate_micros=estimate_micros
        )
        result = await limiter.check(request)
        assert isinstance(result, Admitted)
        assert not result.degraded

    return check


def _plain(plain: PlainCheck) -> Call:
    async def check() -> None:
        reply = await plain(WORKSPACE, LEAF, ESTIMATE_MICROS)
        assert reply[0] == b"admitted"

    return check


if __name__ == "__main__":
    main(contenders)
