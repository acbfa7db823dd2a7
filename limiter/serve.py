"""Runs the service: the embedded server if one is wanted, then uvicorn with its workers.

Owns processes and their ends. The supervisor is the parent of everything: the embedded server goes
with it, and workers that lose it stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from pydantic import SecretStr

from limiter.http.app import create_app
from limiter.metrics import Metrics
from limiter.redis.embedded import EmbeddedServer
from limiter.runtime import open_limiter
from limiter.settings import ENV_PREFIX, Settings, load_settings

_PARENT_POLL_S = 1.0
_SHUTDOWN_S_MAX = 10

# Tells a worker who its supervisor is: a worker that is adopted by another process has lost it.
_SUPERVISOR_VARIABLE = "LIMITER_SUPERVISOR_PID"

# Tells workers where they share their metrics. One that is alone keeps them to itself.
_METRICS_VARIABLE = "LIMITER_METRICS_FOLDER"


def serve(settings: Settings, options: Mapping[str, str]) -> None:
    """Serves until SIGINT or SIGTERM. `options`: settings that the workers cannot find themselves.

    Raises StartupError when something is missing or unsafe; then nothing is left running.
    """
    with contextlib.ExitStack() as stack:
        for name, value in options.items():
            os.environ[ENV_PREFIX + name.upper()] = value
        if settings.redis_url is None:
            server = EmbeddedServer(settings.data_dir, settings.redis_binary)
            url = server.start()
            stack.callback(server.stop)
            os.environ[f"{ENV_PREFIX}REDIS_URL"] = url
            settings = settings.model_copy(update={"redis_url": SecretStr(url)})
        # What must keep the service from starting is said here, in one line, and not by workers.
        asyncio.run(_rehearse(settings))
        os.environ[_SUPERVISOR_VARIABLE] = str(os.getpid())
        if settings.workers > 1:
            folder = tempfile.TemporaryDirectory(prefix="limiter-metrics-")
            os.environ[_METRICS_VARIABLE] = stack.enter_context(folder)
        uvicorn.run(
            "limiter.serve:worker_app",
            factory=True,
            host=settings.host,
            port=settings.port,
            workers=settings.workers,
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="on",
            access_log=False,
            server_header=False,
            log_level=settings.log_level,
            timeout_graceful_shutdown=_SHUTDOWN_S_MAX,
        )


async def _rehearse(settings: Settings) -> None:
    async with open_limiter(settings):
        pass


def worker_app() -> FastAPI:
    """The app of one worker process, made by uvicorn from the environment."""
    supervisor = int(os.environ.pop(_SUPERVISOR_VARIABLE))
    folder = os.environ.pop(_METRICS_VARIABLE, None)
    settings = load_settings()
    metrics = Metrics(None if folder is None else Path(folder))

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_limiter(settings, metrics=metrics) as limiter:
            app.state.limiter = limiter
            watch = asyncio.create_task(_stop_without(supervisor))
            yield
            watch.cancel()

    return create_app(settings, lifespan=lifespan, metrics=metrics)


async def _stop_without(supervisor: int) -> None:
    """Ends this worker once its supervisor is gone, however that ended."""
    # Nothing can be waited for: a process is told of its children's end, not of its parent's.
    while os.getpid() == supervisor or os.getppid() == supervisor:  # noqa: ASYNC110
        await asyncio.sleep(_PARENT_POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)
