"""Signing in and out. It must not know how a session is made."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from limiter.access import Demand, demands
from limiter.http.answers import Answer
from limiter.web.forms import FormReader
from limiter.web.guard import (
    PageGuard,
    cookie_header,
    page_behind,
    require_own_token,
    session_of,
)
from limiter.web.notices import NOTICES, Notice
from limiter.web.render import Templates, see_other


class Signing:
    """The handlers. Where no keys are demanded they lead to the page at once."""

    def __init__(self, guard: PageGuard, forms: FormReader, templates: Templates) -> None:
        self._guard = guard
        self._forms = forms
        self._templates = templates

    @demands(Demand.NOTHING)
    async def form(self, request: Request) -> Response:
        """The form that asks for a key."""
        if not self._guard.demands_keys:
            return see_other("/")
        notice = NOTICES.get(request.query_params.get("notice", ""))
        return await self.page(behind="/", notice=notice)

    @demands(Demand.NOTHING)
    async def sign_in(self, request: Request) -> Response:
        """Opens a session for an admin key."""
        if not self._guard.demands_keys:
            return see_other("/")
        form = await self._forms.read(request)
        behind = page_behind(form.get("behind", "/"))
        cookie = await self._guard.sign_in(form.get("key", ""))
        if cookie is None:
            return await self.page(behind=behind, is_wrong=True, status=401)
        return see_other(behind, [cookie_header(request, cookie)])

    @demands(Demand.ADMIN)
    async def sign_out(self, request: Request) -> Response:
        """Ends the session of this browser."""
        require_own_token(request, await self._forms.read(request))
        if session_of(request) is None:
            return see_other("/")
        return see_other("/sign-in?notice=signed-out", [cookie_header(request, "")])

    async def page(
        self,
        *,
        behind: str,
        is_wrong: bool = False,
        notice: Notice | None = None,
        status: int = 200,
    ) -> Answer:
        """The form; `behind` is the page that it leads to."""
        return await self._templates.answer(
            "sign_in.html", status=status, notice=notice, csrf=None, behind=behind, wrong=is_wrong
        )
