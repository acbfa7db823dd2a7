"""Who calls: the key of a request, and what it may do. It must not know where keys are kept.

Every handler declares what it demands (`limiter.access.demands`). Where keys are demanded, a
`Guard` stands before the handler: 401 and a wrong role's 403 come before the body is read. Which
workspace a request is about stands in its path or its body, so that the handler itself asks
`require_reach`, before anything is looked up.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from starlette.datastructures import State
from starlette.requests import Request
from starlette.responses import Response

from limiter.access import Demand, Principal, demand_of
from limiter.errors import Forbidden, Unauthenticated
from limiter.keyring import Keyring

Answered = TypeVar("Answered", bound=Response)
Handler = Callable[[Request], Awaitable[Answered]]

# Who the audit says it was, where nobody is asked for a key.
ANYBODY: Final = "http"

_PRINCIPAL: Final = "limiter.principal"
_BEARER: Final = b"bearer "


class Guard:
    """Lets requests with a fitting key through. The app's lifespan sets `state.keyring`."""

    def __init__(self, state: State) -> None:
        self._state = state

    def guarded(self, handler: Handler[Answered]) -> Handler[Answered]:
        """The handler behind what it demands. Raises TypeError if it does not say what that is."""
        demand = demand_of(handler)
        if demand is Demand.NOTHING:
            return handler

        roles = demand.value

        async def guarded(request: Request) -> Answered:
            keyring: Keyring = self._state.keyring
            presented = _presented(request)
            principal = keyring.known(presented) or await keyring.principal(presented)
            if principal is None:
                raise Unauthenticated("the key is not valid")
            if principal.role not in roles:
                raise Forbidden(f"a key with the role {principal.role} may not do this")
            request.scope[_PRINCIPAL] = principal
            return await handler(request)

        return guarded


def _presented(request: Request) -> str:
    """The one key of a request. Raises Unauthenticated.

    Another scheme of Authorization is not for us: something on the way may have needed it.
    """
    keys = set()
    for name, value in request.scope["headers"]:
        if name == b"authorization" and value[: len(_BEARER)].lower() == _BEARER:
            keys.add(value[len(_BEARER) :].strip(b" "))
        elif name == b"x-api-key":
            keys.add(value)
    if not keys:
        raise Unauthenticated("a key is needed: Authorization: Bearer lim_...")
    if len(keys) > 1:
        raise Unauthenticated("there is more than one key")
    presented: bytes = keys.pop()
    return presented.decode("latin-1")


def require_reach(request: Request, workspace_id: str) -> None:
    """Raises Forbidden where the caller's key is bound to another workspace.

    It says the same of workspaces that exist and of those that do not. Only behind a `Guard`.
    """
    principal: Principal = request.scope[_PRINCIPAL]
    if not principal.reaches(workspace_id):
        raise Forbidden("the key is bound to another workspace")


def actor_of(request: Request) -> str:
    """Who the audit says it was. Only behind a `Guard`."""
    principal: Principal = request.scope[_PRINCIPAL]
    return principal.actor
