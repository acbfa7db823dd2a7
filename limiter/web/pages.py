"""The pages: each asks the Limiter, fills a template, and sends it.

They decide nothing. A form that was taken is answered by sending the browser on; one that was not
is shown again, with what was typed and what is wrong with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlencode

from starlette.datastructures import State
from starlette.requests import Request
from starlette.responses import Response

from limiter.access import Demand, demands
from limiter.errors import (
    InvalidRequest,
    NotInForceYet,
    RedisUnavailable,
    ReservationNotFound,
    StoreUnavailable,
    WorkspaceNotFound,
)
from limiter.http.answers import Answer
from limiter.http.bodies import query_parameters
from limiter.http.endpoint import Handlers
from limiter.models import ReleaseRequest, WorkspacePatch
from limiter.redis.keys import require_id
from limiter.settings import Settings
from limiter.views import WorkspaceSort
from limiter.web.changes import changes
from limiter.web.forms import (
    Form,
    FormReader,
    Misfit,
    chat_patch,
    limits_patch,
    limits_typed,
    names_nothing,
)
from limiter.web.guard import actor_of, require_own_token, token_of
from limiter.web.notices import NOTICES, Notice
from limiter.web.periods import Typed, rows
from limiter.web.render import Templates, see_other
from limiter.web.sight import CHATS_MAX, HOLDS_MAX, RECORDS_MAX, workspace_sight
from limiter.web.tables import chat_node, chat_nodes, workspace_entry

_SEARCH_LENGTH_MAX: Final = 128
_WORKSPACES_MAX: Final = 50
_NOTHING_TYPED: Final[Mapping[str, Typed]] = {}


class Pages(Handlers):
    """The handlers, each for one path and method."""

    def __init__(
        self, state: State, settings: Settings, forms: FormReader, templates: Templates
    ) -> None:
        super().__init__(state, settings)
        self._forms = forms
        self._templates = templates
        self._outage_policy = settings.outage_policy

    # ------------------------------------------------------------------ workspaces

    @demands(Demand.ADMIN)
    async def workspaces(self, request: Request) -> Response:
        """The list: searched, sorted, a page at a time."""
        return await self._workspaces(request)

    async def _workspaces(
        self,
        request: Request,
        *,
        status: int = 200,
        new_text: str = "",
        new_error: str | None = None,
    ) -> Answer:
        query = query_parameters(request, ("q", "sort", "after", "notice"))
        search = query.get("q", "").strip()[:_SEARCH_LENGTH_MAX]
        sort: WorkspaceSort = "name" if query.get("sort") == "name" else "closeness"
        page, readiness = await asyncio.gather(
            self.limiter.reads.workspaces(
                search=search or None, sort=sort, limit=_WORKSPACES_MAX, after=query.get("after")
            ),
            self.limiter.readiness(),
        )
        further = None
        if page.next is not None:
            further = "/?" + urlencode({"q": search, "sort": sort, "after": page.next})
        return await self._page(
            request,
            "workspaces.html",
            status=status,
            new_text=new_text,
            new_error=new_error,
            entries=[workspace_entry(row) for row in page.rows],
            search=search,
            sort=sort,
            complete=page.complete,
            further=further,
            is_first="after" not in query,
            redis_away=not readiness.redis,
            policy=self._outage_policy,
        )

    @demands(Demand.ADMIN)
    async def create_workspace(self, request: Request) -> Response:
        """Makes a workspace with the default limits, or leads to the one that is there."""
        form = await self._form(request)
        workspace_id = form.get("workspace_id", "").strip()
        try:
            require_id(workspace_id, "workspace_id")
        except InvalidRequest as error:
            reason = str(error).removeprefix("workspace_id: ")
            return await self._workspaces(
                request,
                status=400,
                new_text=workspace_id[:_SEARCH_LENGTH_MAX],
                new_error=f"{reason[:1].upper()}{reason[1:]}.",
            )
        try:
            await self.limiter.workspace_config(workspace_id)
        except WorkspaceNotFound:
            await self.limiter.configure(workspace_id, WorkspacePatch(), actor=actor_of(request))
            return see_other(f"/workspaces/{workspace_id}?notice=created")
        return see_other(f"/workspaces/{workspace_id}")

    # ------------------------------------------------------------------ one workspace

    @demands(Demand.ADMIN)
    async def workspace(self, request: Request) -> Response:
        """Everything of one workspace."""
        query = query_parameters(request, ("after", "notice"))
        return await self._workspace(request, chats_after=query.get("after"))

    @demands(Demand.ADMIN)
    async def save_limits(self, request: Request) -> Response:
        """Sets the limits that were changed; all of them or none."""
        workspace_id = _workspace_id(request)
        form = await self._form(request)
        try:
            patch = limits_patch(form)
            if names_nothing(patch):
                return see_other(f"/workspaces/{workspace_id}?notice=unchanged")
            await self.limiter.configure(workspace_id, patch, actor=actor_of(request))
        except Misfit as misfit:
            return await self._workspace(
                request, typed=misfit.typed, notice=NOTICES["misfit"], status=400
            )
        except (NotInForceYet, StoreUnavailable) as error:
            notice = NOTICES["half" if isinstance(error, NotInForceYet) else "nothing"]
            return await self._workspace(
                request, typed=limits_typed(form), notice=notice, status=503
            )
        return see_other(f"/workspaces/{workspace_id}?notice=saved")

    @demands(Demand.ADMIN)
    async def release(self, request: Request) -> Response:
        """Gives a hold back."""
        workspace_id = _workspace_id(request)
        form = await self._form(request)
        reservation_id = require_id(form.get("reservation_id", ""), "reservation_id")
        try:
            released = await self.limiter.release(
                ReleaseRequest(workspace_id=workspace_id, reservation_id=reservation_id)
            )
        except ReservationNotFound:
            return see_other(f"/workspaces/{workspace_id}?notice=hold-gone")
        except RedisUnavailable:
            return await self._workspace(request, notice=NOTICES["not-released"], status=503)
        notice = "released" if released.released else "hold-gone"
        return see_other(f"/workspaces/{workspace_id}?notice={notice}")

    async def _workspace(
        self,
        request: Request,
        *,
        typed: Mapping[str, Typed] = _NOTHING_TYPED,
        notice: Notice | None = None,
        status: int = 200,
        chats_after: str | None = None,
    ) -> Answer:
        workspace_id = _workspace_id(request)
        sight = await workspace_sight(self.limiter, workspace_id, chats_after=chats_after)
        policy = None if sight.config is None else sight.config.outage_policy
        return await self._page(
            request,
            "workspace.html",
            status=status,
            notice=notice,
            workspace_id=workspace_id,
            usage=sight.usage,
            config=sight.config,
            policy=policy or self._outage_policy,
            policy_is_own=policy is not None,
            rows=rows(sight.usage, sight.config, charts=sight.charts, typed=typed),
            chats=None if sight.chats is None else chat_nodes(sight.chats.rows),
            chats_next=None if sight.chats is None else sight.chats.next,
            chats_after=chats_after,
            chats_max=CHATS_MAX,
            holds=sight.holds,
            holds_max=HOLDS_MAX,
            records=sight.records,
            records_max=RECORDS_MAX,
            changes=None if sight.changes is None else changes(sight.changes),
        )

    # ------------------------------------------------------------------ one chat

    @demands(Demand.ADMIN)
    async def chat(self, request: Request) -> Response:
        """A chat with the way to its root and its children."""
        query = query_parameters(request, ("after", "notice"))
        return await self._chat(request, children_after=query.get("after"))

    @demands(Demand.ADMIN)
    async def save_chat(self, request: Request) -> Response:
        """Sets a chat's limit, or removes it."""
        workspace_id, chat_id = _workspace_id(request), _chat_id(request)
        form = await self._form(request)
        try:
            patch = chat_patch(form)
            await self.limiter.configure_chat(workspace_id, chat_id, patch, actor=actor_of(request))
        except Misfit as misfit:
            return await self._chat(
                request, typed=misfit.typed["limit"], notice=NOTICES["misfit"], status=400
            )
        return see_other(f"/workspaces/{workspace_id}/chats/{chat_id}?notice=chat-saved")

    async def _chat(
        self,
        request: Request,
        *,
        typed: Typed | None = None,
        notice: Notice | None = None,
        status: int = 200,
        children_after: str | None = None,
    ) -> Answer:
        workspace_id, chat_id = _workspace_id(request), _chat_id(request)
        chat, children = await asyncio.gather(
            self.limiter.chat_usage(workspace_id, chat_id),
            self.limiter.reads.chats(
                workspace_id, parent=chat_id, limit=CHATS_MAX, after=children_after
            ),
        )
        return await self._page(
            request,
            "chat.html",
            status=status,
            notice=notice,
            workspace_id=workspace_id,
            node=chat_node(chat, has_children=bool(children.rows), typed=typed),
            ancestors=chat.ancestors,
            children=chat_nodes(children.rows),
            children_next=children.next,
        )

    # ------------------------------------------------------------------ what all share

    async def _form(self, request: Request) -> Form:
        form = await self._forms.read(request)
        require_own_token(request, form)
        return form

    async def _page(
        self,
        request: Request,
        template: str,
        *,
        status: int = 200,
        notice: Notice | None = None,
        **values: object,
    ) -> Answer:
        notice = notice or NOTICES.get(request.query_params.get("notice", ""))
        return await self._templates.answer(
            template, status=status, notice=notice, csrf=token_of(request), **values
        )


def _workspace_id(request: Request) -> str:
    return require_id(request.path_params["workspace_id"], "workspace_id")


def _chat_id(request: Request) -> str:
    return require_id(request.path_params["chat_id"], "chat_id")
