"""The page's part of the app: which path is answered by what.

Every error becomes a page, as every error of the API becomes a problem.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from starlette.datastructures import State
from starlette.requests import Request
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from limiter.errors import WorkspaceNotFound
from limiter.http.endpoint import Handler
from limiter.http.problems import error_answer, problem_of
from limiter.settings import Settings
from limiter.web.guard import ForeignForm, require_own_form
from limiter.web.pages import Pages
from limiter.web.render import StaticFiles, Templates

_SAFE = ("GET", "HEAD")


class PageEndpoint:
    """Answers one path of the page."""

    def __init__(self, handlers: Mapping[str, Handler], templates: Templates) -> None:
        self.methods = list(handlers)
        self._handlers = {**handlers, "HEAD": handlers["GET"]} if "GET" in handlers else handlers
        self._templates = templates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            if request.method not in _SAFE:
                require_own_form(request)
            answer = await self._handlers[request.method](request)
        except ForeignForm:
            answer = self._templates.answer("foreign.html", status=403, notice=None, csrf=None)
        except WorkspaceNotFound as error:
            answer = self._templates.answer(
                "missing.html", status=404, notice=None, csrf=None, workspace_id=error.workspace_id
            )
        except Exception as error:  # noqa: BLE001  # The reader is owed an answer in any case.
            # It logs what is the service's own fault, and knows the status.
            problem, status = problem_of(error), error_answer(error).status_code
            answer = self._templates.answer(
                "error.html",
                status=status,
                notice=None,
                csrf=None,
                phrase=HTTPStatus(status).phrase,
                problem=problem,
            )
        await answer(scope, receive, send)


def page_routes(state: State, settings: Settings) -> list[BaseRoute]:
    """The routes. `state.limiter` is a running Limiter while they are called."""
    static = StaticFiles()
    templates = Templates(static)
    pages = Pages(state, settings, templates)
    paths: dict[str, Mapping[str, Handler]] = {
        "/": {"GET": pages.workspaces},
        "/workspaces": {"POST": pages.create_workspace},
        "/workspaces/{workspace_id}": {"GET": pages.workspace, "POST": pages.save_limits},
        "/workspaces/{workspace_id}/release": {"POST": pages.release},
        "/workspaces/{workspace_id}/chats/{chat_id}": {
            "GET": pages.chat,
            "POST": pages.save_chat,
        },
        "/static/{name}": {"GET": static.answer},
    }
    return [
        Route(path, endpoint, methods=endpoint.methods)
        for path, endpoint in (
            (path, PageEndpoint(handlers, templates)) for path, handlers in paths.items()
        )
    ]
