"""Runs the service: the embedded server if one is wanted, the keeper, uvicorn with its workers.

Owns processes and their ends. The supervisor is the parent of everything: the embedded server goes
with it, and workers and keeper that lose it stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import uvicorn
from pydantic import SecretStr

from limiter import logs
from limiter.keeperprocess import Keeper
from limiter.metrics import Metrics
from limiter.redis.embedded import EmbeddedServer
from limiter.settings import ENV_PREFIX, Settings

_SHUTDOWN_S_MAX = 10


def serve(settings: Settings, options: Mapping[str, str]) -> None:
    """Serves until SIGINT or SIGTERM. `options`: settings that the workers cannot find themselves.

    Raises StartupError when something is missing or unsafe; then nothing is left running.
    """
    logs.set_up(settings)
    # uvicorn ends by the signal that it was ended by, which would leave the other processes to
    # their own devices.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with contextlib.ExitStack() as stack:
        for name, value in options.items():
            os.environ[ENV_PREFIX + name.upper()] = value
        if settings.redis_url is None:
            server = EmbeddedServer(settings.data_dir, settings.redis_binary)
            url = server.start()
            stack.callback(server.stop)
            os.environ[f"{ENV_PREFIX}REDIS_URL"] = url
            settings = settings.model_copy(update={"redis_url": SecretStr(url)})
        folder = tempfile.mkdtemp(prefix="limiter-metrics-")
        # Whoever ends last removes it: the keeper may be killed, or the supervisor.
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        # The age of the snapshot counts from here, also if no keeper ever comes.
        with contextlib.closing(Metrics(Path(folder))) as metrics:
            metrics.passes_begin()
            keeper = Keeper(folder)
            stack.callback(keeper.stop)
            # The keeper imports what takes long while this process does.
            from limiter import worker

            # What must keep the service from starting is said here, in one line, and not by others.
            redis_answers = asyncio.run(worker.rehearse(settings))
            keeper.begin()
            if redis_answers:
                keeper.wait_for_pass(metrics)
        os.environ[worker.METRICS_VARIABLE] = folder
        os.environ[worker.SUPERVISOR_VARIABLE] = str(os.getpid())
        uvicorn.run(
            "limiter.worker:worker_app",
            factory=True,
            host=settings.host,
            port=settings.port,
            workers=settings.workers,
            loop="uvloop",
            http="limiter.http.protocol:BoundedProtocol",
            ws="none",
            lifespan="on",
            access_log=False,
            server_header=False,
            # Nothing here depends on who the client is.
            proxy_headers=False,
            # Nothing of its own: it logs as everything here does.
            log_config=None,
            timeout_graceful_shutdown=_SHUTDOWN_S_MAX,
        )
