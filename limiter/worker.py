"""One worker process of the service: the app that uvicorn runs, made from the environment.

Its supervisor is `limiter.serve`, which it does not outlive. It must not start processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from types import ModuleType

from fastapi import FastAPI

from limiter import logs
from limiter.errors import StartupError
from limiter.garbage import spare_collections
from limiter.http.app import create_app
from limiter.keyring import Keyring
from limiter.measured import MeasuredLimiter
from limiter.metrics import Metrics
from limiter.runtime import open_parts, open_running
from limiter.settings import Settings, load_settings
from limiter.web.site import page_routes

logger = logging.getLogger(__name__)

# Tells a worker who its supervisor is: a worker that is adopted by another process has lost it.
SUPERVISOR_VARIABLE = "LIMITER_SUPERVISOR_PID"

# Tells workers where all processes of the service share their metrics.
METRICS_VARIABLE = "LIMITER_METRICS_FOLDER"

# Whoever names a collector wants traces; OpenTelemetry's own variables say so.
_ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

_PARENT_POLL_S = 1.0


async def rehearse(settings: Settings) -> bool:
    """Opens and closes what workers open, before there are any. It makes no pass: the keeper does.

    Returns whether Redis answers; it may come later. Raises what keeps the service from starting.
    """
    if settings.auth == "off" and not settings.is_local:
        logger.warning("LIMITER_AUTH=off: whoever reaches %s may set every limit", settings.host)
    async with open_parts(settings, waits_for_redis=True) as parts:
        if settings.demands_keys and not await parts.storage.api_keys.has_admin():
            raise StartupError(
                f"callers on {settings.host} need a key, and there is no admin key yet: "
                "make one with `limiter keys create --role admin`"
            )
        return (await parts.limiter.readiness()).redis


def worker_app() -> FastAPI:
    """The app of one worker process, made by uvicorn from the environment."""
    supervisor = int(os.environ.pop(SUPERVISOR_VARIABLE))
    folder = Path(os.environ.pop(METRICS_VARIABLE))
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
                spare_collections()
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


async def _stop_without(supervisor: int) -> None:
    """Ends this worker once its supervisor is gone, however that ended."""
    # Nothing can be waited for: a process is told of its children's end, not of its parent's.
    while os.getpid() == supervisor or os.getppid() == supervisor:  # noqa: ASYNC110
        await asyncio.sleep(_PARENT_POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)
