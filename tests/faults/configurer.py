"""A process that changes a limit while something happens between durable storage and Redis.

python -m tests.faults.configurer REDIS_URL STORE_URL SCOPE MOMENT REDIS_PID

It sets the limit of `SCOPE` (`workspace` or `chat`). Once durable storage has it, and before Redis
is told, comes `MOMENT`: Redis is `killed` or `frozen`, or this process has `died`. Where it lives
on, it says with which code the change was answered, and waits to be killed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

from limiter.durable import Storage
from limiter.errors import LimiterError
from limiter.models import ChatPatch, WorkspacePatch
from limiter.runtime import open_parts
from limiter.settings import load_settings
from tests.support.module import running_module

LIMIT_MICROS = 100
DEADLINE_MS = 200


def configurer(
    redis_url: str, store_url: str, scope: str, moment: str, redis_pid: int
) -> AbstractContextManager[subprocess.Popen[str]]:
    """Runs one; kills it at the end if it is still there."""
    name = "tests.faults.configurer"
    return running_module(name, redis_url, store_url, scope, moment, str(redis_pid))


def _set_trap(moment: str, redis_pid: int) -> None:
    target = os.getpid() if moment == "died" else redis_pid
    number = signal.SIGSTOP if moment == "frozen" else signal.SIGKILL

    def trapped(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **fields: Any) -> Any:
            stored = await method(*args, **fields)
            os.kill(target, number)
            return stored

        return call

    for name in ("configure_workspace", "configure_chat"):
        setattr(Storage, name, trapped(getattr(Storage, name)))


async def _configure(redis_url: str, store_url: str, scope: str) -> None:
    settings = load_settings(
        {"redis_url": redis_url, "database_url": store_url, "redis_deadline_ms": DEADLINE_MS}
    )
    async with open_parts(settings) as parts:
        try:
            if scope == "workspace":
                patch = WorkspacePatch(budget_limits={"hourly": LIMIT_MICROS})
                await parts.limiter.configure("acme", patch)
            else:
                chat = ChatPatch(spend_limit_micros=LIMIT_MICROS)
                await parts.limiter.configure_chat("acme", "c1", chat)
        except LimiterError as error:
            print(error.code, flush=True)  # noqa: T201 - this is how it is followed
        # Its parent kills it.
        await asyncio.Event().wait()


def main(redis_url: str, store_url: str, scope: str, moment: str, redis_pid: str) -> None:
    _set_trap(moment, int(redis_pid))
    asyncio.run(_configure(redis_url, store_url, scope))


if __name__ == "__main__":
    main(*sys.argv[1:])
