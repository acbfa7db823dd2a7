"""The page's part of the app: which path is answered by what.

Every error becomes a page, as every error of the API becomes a problem.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from starlette.datastructures import State
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from limiter.access import Demand, demand_of
from limiter.errors import WorkspaceNotFound
from limiter.http.access import Handler
from limiter.http.answers import identified
from limiter.http.problems import error_answer, problem_of
from limiter.settings import Settings
from limiter.web.forms import FormReader
from limiter.web.guard import (
    ForeignForm,
    PageGuard,
    SignedOut,
    page_behind,
    require_own_form,
    token_of,
)
from limiter.web.notices import NOTICES
from limiter.web.pages import Pages
from limiter.web.render import StaticFiles, Templates
from limiter.web.signing import Signing

_SAFE = ("GET", "HEAD")


class PageEndpoint:
    """Answers one path of the page.

    Raises TypeError for a handler that does not declare what it demands.
    """

    def __init__(
        self,
        handlers: Mapping[str, Handler[Response]],
        guard: PageGuard,
        signing: Signing,
        templates: Templates,
    ) -> None:
        self.methods = list(handlers)
        self._handlers = {**handlers, "HEAD": handlers["GET"]} if "GET" in handlers else handlers
        self.demands = {method: demand_of(handler) for method, handler in self._handlers.items()}
        self._guard = guard
        self._signing = signing
        self._templates = templates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        answer = await self._answer(request)
        if answer.status_code >= HTTPStatus.BAD_REQUEST:
            identified(answer)
        await answer(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        try:
            if request.method not in _SAFE:
                require_own_form(request)
            if self.demands[request.method] is not Demand.NOTHING:
                await self._guard.require_session(request)
            return await self._handlers[request.method](request)
        except SignedOut as error:
            behind = page_behind(request.url.path)
            notice = NOTICES["ended"] if error.had_one else None
            return await self._signing.page(behind=behind, notice=notice, status=401)
        except ForeignForm:
            return await self._templates.answer("foreign.html", status=403, **_plain(request))
        except WorkspaceNotFound as error:
            return await self._templates.answer(
                "missing.html", status=404, workspace_id=error.workspace_id, **_plain(request)
            )
        except Exception as error:  # noqa: BLE001  # The reader is owed an answer in any case.
            # It logs what is the service's own fault, and knows the status.
            answer = error_answer(error)
            return await self._templates.answer(
                "error.html",
                status=answer.status_code,
                phrase=HTTPStatus(answer.status_code).phrase,
                problem=problem_of(error),
                behind=page_behind(request.url.path),
                **_plain(request),
            )


def _plain(request: Request) -> dict[str, object]:
    return {"notice": None, "csrf": token_of(request)}


def page_routes(state: State, settings: Settings) -> list[BaseRoute]:
    """The routes. While they are called, `state.limiter` is a running Limiter, and
    `state.keyring` a Keyring where the settings demand keys.
    """
    static = StaticFiles()
    templates = Templates(static)
    guard, forms = PageGuard(state, settings), FormReader(settings)
    signing = Signing(guard, forms, templates)
    pages = Pages(state, settings, forms, templates)
    paths: dict[str, Mapping[str, Handler[Response]]] = {
        "/": {"GET": pages.workspaces},
        "/workspaces": {"POST": pages.create_workspace},
        "/workspaces/{workspace_id}": {"GET": pages.workspace, "POST": pages.save_limits},
        "/workspaces/{workspace_id}/release": {"POST": pages.release},
        "/workspaces/{workspace_id}/chats/{chat_id}": {
            "GET": pages.chat,
            "POST": pages.save_chat,
        },
        "/sign-in": {"GET": signing.form, "POST": signing.sign_in},
        "/sign-out": {"POST": signing.sign_out},
        "/static/{name}": {"GET": static.answer},
    }
    endpoints = {
        path: PageEndpoint(handlers, guard, signing, templates) for path, handlers in paths.items()
    }
    return [Route(path, endpoint, methods=endpoint.methods) for path, endpoint in endpoints.items()]
