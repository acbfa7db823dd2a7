"""Runs the service: the embedded server if one is wanted, the keeper, uvicorn with its workers.

Owns processes and their ends. The supervisor is the parent of everything: the embedded server goes
with it, and workers and keeper that lose it stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from types import ModuleType

import uvicorn
from fastapi import FastAPI
from pydantic import SecretStr

from limiter import logs
from limiter.errors import StartupError
from limiter.http.app import create_app
from limiter.http.protocol import BoundedProtocol
from limiter.keeper import Keeper
from limiter.keyring import Keyring
from limiter.measured import MeasuredLimiter
from limiter.metrics import Metrics
from limiter.redis.embedded import EmbeddedServer
from limiter.runtime import open_running
from limiter.settings import ENV_PREFIX, Settings, load_settings
from limiter.web.site import page_routes

logger = logging.getLogger(__name__)

_PARENT_POLL_S = 1.0
_SHUTDOWN_S_MAX = 10

# So many more objects made than freed bring a collection: a few thousand calls under way.
_YOUNG_OBJECTS_MAX = 50_000

# Tells a worker who its supervisor is: a worker that is adopted by another process has lost it.
_SUPERVISOR_VARIABLE = "LIMITER_SUPERVISOR_PID"

# Tells workers where all processes of the service share their metrics.
_METRICS_VARIABLE = "LIMITER_METRICS_FOLDER"

# Whoever names a collector wants traces; OpenTelemetry's own variables say so.
_ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


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
            # What must keep the service from starting is said here, in one line, and not by others.
            redis_answers = asyncio.run(_rehearse(settings))
            keeper.begin()
            if redis_answers:
                keeper.wait_for_pass(metrics)
        os.environ[_METRICS_VARIABLE] = folder
        os.environ[_SUPERVISOR_VARIABLE] = str(os.getpid())
        uvicorn.run(
            "limiter.serve:worker_app",
            factory=True,
            host=settings.host,
            port=settings.port,
            workers=settings.workers,
            loop="uvloop",
            http=BoundedProtocol,
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


async def _rehearse(settings: Settings) -> bool:
    """Whether Redis answers; it may come later. Raises what keeps the service from starting."""
    if settings.auth == "off" and not settings.is_local:
        logger.warning("LIMITER_AUTH=off: whoever reaches %s may set every limit", settings.host)
    async with open_running(settings) as parts:
        if settings.demands_keys and not await parts.storage.api_keys.has_admin():
            raise StartupError(
                f"callers on {settings.host} need a key, and there is no admin key yet: "
                "make one with `limiter keys create --role admin`"
            )
        return (await parts.limiter.readiness()).redis


def worker_app() -> FastAPI:
    """The app of one worker process, made by uvicorn from the environment."""
    supervisor = int(os.environ.pop(_SUPERVISOR_VARIABLE))
    folder = Path(os.environ.pop(_METRICS_VARIABLE))
    settings = load_settings()
    logs.set_up(settings)
    metrics = Metrics(folder)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with _traces() as limiter_type:
            async with (
                open_running(
                    settings, metrics=metrics, limiter_type=limiter_type, keeps=False
                ) as parts,
                Keyring(parts.storage.api_keys) as keyring,
            ):
                app.state.limiter = parts.limiter
                app.state.keyring = keyring
                watch = asyncio.create_task(_stop_without(supervisor))
                _spare_collections()
                yield
                watch.cancel()

    app = create_app(settings, lifespan=lifespan, metrics=metrics)
    app.router.routes.extend(page_routes(app.state, settings))
    return app


@contextlib.contextmanager
def _traces() -> Iterator[type[MeasuredLimiter]]:
    """The kind of Limiter to run: one with spans, where OpenTelemetry is installed and set up."""
    exporters = _trace_exporters(os.environ)
    traced = _traced() if exporters else None
    if traced is None:
        yield MeasuredLimiter
        return
    with traced.exporting(exporters):
        yield traced.TracedLimiter


def _traced() -> ModuleType | None:
    # Who wants no traces does not pay for them, not even at the start.
    try:
        from limiter import traced
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        logger.warning("no traces: the extra `otel` of llm-spend-limiter is not installed")
        return None
    return traced


def _trace_exporters(environment: Mapping[str, str]) -> list[str]:
    """Names of the exporters that OpenTelemetry's variables ask for; none: no traces."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return []
    named = environment.get("OTEL_TRACES_EXPORTER", "")
    if not named and any(environment.get(name) for name in _ENDPOINT_VARIABLES):
        named = "otlp"
    return [name for each in named.split(",") if (name := each.strip()) not in ("", "none")]


def _spare_collections() -> None:
    """Keeps the garbage collector away from what stays, and from looking at every few calls.

    A call makes no cycles; its objects go when it ends. At the default thresholds the collector
    took a tenth of a busy worker's time, most of it for what was loaded at the start.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS_MAX, 20, 50)


async def _stop_without(supervisor: int) -> None:
    """Ends this worker once its supervisor is gone, however that ended."""
    # Nothing can be waited for: a process is told of its children's end, not of its parent's.
    while os.getpid() == supervisor or os.getppid() == supervisor:  # noqa: ASYNC110
        await asyncio.sleep(_PARENT_POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)
