"""The ASGI app: which path is answered by what. It decides nothing.

The routes of the Limiter are plain ASGI apps (`endpoint.Endpoint`) on a FastAPI router; their part
of OpenAPI comes from the structs that they read and write. What is added with FastAPI's own
decorators works beside them and speaks the same problems.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import State
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from limiter import __version__, request_id
from limiter.errors import LimiterError
from limiter.http import paths
from limiter.http.access import Guard
from limiter.http.answers import identified
from limiter.http.calls import Calls
from limiter.http.direct import STATE_KEY
from limiter.http.docs_page import DocsPage
from limiter.http.endpoint import Endpoint
from limiter.http.openapi import DESCRIPTION, TAGS, extended
from limiter.http.problems import error_answer
from limiter.http.routes import MetricsRoute, Routes
from limiter.metrics import Metrics
from limiter.settings import Settings

# What has to be open while the app runs.
Opens = Callable[[FastAPI], AbstractAsyncContextManager[None]]


class App(FastAPI):
    """FastAPI with a short cut: the calls are answered before its middleware.

    Middleware added to the app does not see `hot` paths, so what has to hold for those, too, must
    be part of their endpoints. The short cut saves nearly half of what HTTP adds to a check.
    """

    def __init__(self, *, hot: dict[str, Endpoint], **options: Any) -> None:
        super().__init__(**options)
        self._hot: dict[tuple[str, str], Endpoint] = {
            ("POST", path): endpoint for path, endpoint in hot.items()
        }
        self.direct = {path.encode(): endpoint for path, endpoint in hot.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        its_id = request_id.begin(scope["headers"])
        try:
            endpoint = self._hot.get((scope["method"], scope["path"]))
            if endpoint is not None:
                await endpoint(scope, receive, send)
            else:
                await super().__call__(scope, receive, send)
        finally:
            its_id.answered()

    def openapi(self) -> dict[str, Any]:
        """FastAPI's document with the routes of the Limiter."""
        return extended(super().openapi())


def create_app(settings: Settings, *, lifespan: Opens, metrics: Metrics | None = None) -> FastAPI:
    """The app of one process. `lifespan` sets `app.state.limiter` to a running Limiter, which
    counts in `metrics`, and `app.state.keyring` to a Keyring, where the settings demand keys.
    """
    state = State()
    guard = Guard(state) if settings.demands_keys else None
    calls, routes = Calls(state, settings), Routes(state, settings)
    hot = {
        paths.CHECK: Endpoint({"POST": calls.check}, guard),
        paths.RECORD: Endpoint({"POST": calls.record}, guard),
        paths.RELEASE: Endpoint({"POST": calls.release}, guard),
    }
    endpoints = {
        **hot,
        paths.WORKSPACE_CONFIG: Endpoint(
            {
                "GET": routes.workspace_config,
                "PATCH": routes.patch_workspace,
                "PUT": routes.put_workspace,
            },
            guard,
        ),
        paths.CHAT_CONFIG: Endpoint(
            {
                "GET": routes.chat_config,
                "PATCH": routes.patch_chat,
                "PUT": routes.put_chat,
                "DELETE": routes.delete_chat,
            },
            guard,
        ),
        paths.WORKSPACE_USAGE: Endpoint({"GET": routes.workspace_usage}, guard),
        paths.CHAT_USAGE: Endpoint({"GET": routes.chat_usage}, guard),
        paths.HEALTH: Endpoint({"GET": routes.healthz}, guard),
        paths.READINESS: Endpoint({"GET": routes.readyz}, guard),
        paths.METRICS: Endpoint({"GET": MetricsRoute(metrics or Metrics()).metrics}, guard),
        paths.DOCS: Endpoint({"GET": DocsPage().page}, guard),
    }

    @contextlib.asynccontextmanager
    async def handing_over(app: App) -> AsyncIterator[dict[str, object]]:
        async with lifespan(app):
            yield {STATE_KEY: app.direct}

    app = App(
        hot=hot,
        title="llm-spend-limiter",
        version=__version__,
        description=DESCRIPTION,
        openapi_tags=TAGS,
        routes=[
            Route(path, endpoint, methods=endpoint.methods) for path, endpoint in endpoints.items()
        ],
        lifespan=handing_over,
        exception_handlers=dict.fromkeys(
            (LimiterError, HTTPException, RequestValidationError, Exception), _answer_error
        ),
        # A redirect would put the caller's Host header into ours.
        redirect_slashes=False,
        # FastAPI's own would name workspaces, by their paths, and have the words of errors.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        # Its pages load a script from a public CDN.
        docs_url=None,
        redoc_url=None,
    )
    app.state = state
    return app


async def _answer_error(_: Request, error: Exception) -> Response:
    return identified(error_answer(error))
