"""Configuration, usage and health: the routes that people and probes ask.

Each checks the ids of its path, reads at most one struct, asks the Limiter, and writes one struct.
They decide nothing.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct
from starlette.requests import Request

from limiter.access import Demand, demands
from limiter.http.access import ANYBODY, actor_of, require_reach
from limiter.http.answers import JSON_HEADERS, NO_STORE, Answer, encode
from limiter.http.bodies import decoder, query_parameters
from limiter.http.endpoint import Handlers
from limiter.http.ratelimit import of_usage
from limiter.metrics import CONTENT_TYPE, Metrics
from limiter.models import ChatPatch, WorkspacePatch
from limiter.redis.keys import require_id

_METRICS_HEADERS = [(b"content-type", CONTENT_TYPE.encode()), NO_STORE]

_decode_workspace_patch = decoder(WorkspacePatch)
_decode_chat_patch = decoder(ChatPatch)


class Liveness(Struct, frozen=True):
    """The process lives."""

    alive: Literal[True] = True


class Routes(Handlers):
    """The handlers, each for one route and method."""

    # ------------------------------------------------------------------ configuration

    @demands(Demand.ADMIN)
    async def workspace_config(self, request: Request) -> Answer:
        """The configuration; 404 for a workspace that does not exist."""
        workspace_id = _workspace_id(request)
        return Answer(200, encode(await self.limiter.workspace_config(workspace_id)))

    @demands(Demand.ADMIN)
    async def patch_workspace(self, request: Request) -> Answer:
        """Changes what the body names; answers what GET would."""
        return await self._configure_workspace(request, replace=False)

    @demands(Demand.ADMIN)
    async def put_workspace(self, request: Request) -> Answer:
        """Sets everything: what the body does not name goes back to the service's defaults."""
        return await self._configure_workspace(request, replace=True)

    async def _configure_workspace(self, request: Request, *, replace: bool) -> Answer:
        workspace_id = _workspace_id(request)
        patch = _decode_workspace_patch(await self.body(request))
        config = await self.limiter.configure(
            workspace_id, patch, replace=replace, actor=self._actor(request)
        )
        return Answer(200, encode(config))

    @demands(Demand.ADMIN)
    async def chat_config(self, request: Request) -> Answer:
        """A chat's place and limit; 404 for a chat that does not exist."""
        ids = _workspace_id(request), _chat_id(request)
        return Answer(200, encode(await self.limiter.chat_config(*ids)))

    @demands(Demand.ADMIN)
    async def patch_chat(self, request: Request) -> Answer:
        """Creates the chat, or changes what the body names."""
        return await self._configure_chat(request, replace=False)

    @demands(Demand.ADMIN)
    async def put_chat(self, request: Request) -> Answer:
        """Creates the chat, or sets everything that can be changed."""
        return await self._configure_chat(request, replace=True)

    async def _configure_chat(self, request: Request, *, replace: bool) -> Answer:
        ids = _workspace_id(request), _chat_id(request)
        patch = _decode_chat_patch(await self.body(request))
        config = await self.limiter.configure_chat(
            *ids, patch, replace=replace, actor=self._actor(request)
        )
        return Answer(200, encode(config))

    @demands(Demand.ADMIN)
    async def delete_chat(self, request: Request) -> Answer:
        """Removes the chat's limit. Its spend and its place in the tree stay."""
        ids = _workspace_id(request), _chat_id(request)
        await self.limiter.delete_chat(*ids, actor=self._actor(request))
        return Answer(204, b"", ())

    def _actor(self, request: Request) -> str:
        return actor_of(request) if self._demands_keys else ANYBODY

    # ------------------------------------------------------------------ usage

    @demands(Demand.CALLER)
    async def workspace_usage(self, request: Request) -> Answer:
        """Every window of a workspace now."""
        workspace_id = self._own_workspace_id(request)
        usage = await self.limiter.usage(workspace_id)
        return Answer(200, encode(usage), [*JSON_HEADERS, *of_usage(usage.periods, None)])

    @demands(Demand.CALLER)
    async def chat_usage(self, request: Request) -> Answer:
        """A chat's sums and its place in the tree now."""
        ids = self._own_workspace_id(request), _chat_id(request)
        usage = await self.limiter.chat_usage(*ids)
        return Answer(200, encode(usage), [*JSON_HEADERS, *of_usage({}, usage)])

    def _own_workspace_id(self, request: Request) -> str:
        workspace_id = _workspace_id(request)
        if self._demands_keys:
            require_reach(request, workspace_id)
        return workspace_id

    # ------------------------------------------------------------------ health

    @demands(Demand.NOTHING)
    async def healthz(self, _: Request) -> Answer:
        """The process lives. It looks at nothing else, so that no outage restarts the service."""
        return Answer(200, encode(Liveness()))

    @demands(Demand.NOTHING)
    async def readyz(self, _: Request) -> Answer:
        """200 when Redis and the store answer, 503 otherwise; the body says which does not."""
        readiness = await self.limiter.readiness()
        return Answer(200 if readiness.ready else 503, encode(readiness))


class MetricsRoute:
    """The one handler that asks no Limiter, so that it answers whatever is away."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    @demands(Demand.MONITOR)
    async def metrics(self, _: Request) -> Answer:
        """What all workers of this service have counted, for Prometheus."""
        return Answer(200, self._metrics.text(), _METRICS_HEADERS)


def _workspace_id(request: Request) -> str:
    query_parameters(request)
    return require_id(request.path_params["workspace_id"], "workspace_id")


def _chat_id(request: Request) -> str:
    return require_id(request.path_params["chat_id"], "chat_id")
