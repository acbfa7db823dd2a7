"""Who may see the page, and which forms are the page's own.

Where keys are demanded, an admin key opens a session, which is a cookie. It must not know what a
page shows or a form changes.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import State
from starlette.requests import Request

from limiter.access import Principal
from limiter.http.answers import Header
from limiter.session import SESSION_S_MAX, Sessions, csrf_ok, csrf_token
from limiter.settings import Settings
from limiter.web.forms import Form

# Who the audit says it was, where no keys are demanded.
ANYBODY: Final = "page"

COOKIE: Final = "limiter_session"
CSRF_FIELD: Final = "csrf"

_SESSION: Final = "limiter.page_session"
# Where somebody who signed in may be sent: the pages, and nothing that a stranger made up.
_ID = r"[A-Za-z0-9._@-]{1,128}"
_PAGE = re.compile(rf"(/workspaces/{_ID}(?:/chats/{_ID})?)(?:/release)?")


class ForeignForm(Exception):
    """The form was not sent by this page: another site may have made the browser send it."""


class SignedOut(Exception):
    """There is no session. `had_one`: there was one, and it has ended."""

    def __init__(self, *, had_one: bool) -> None:
        super().__init__("there is no session")
        self.had_one = had_one


@dataclass(frozen=True, slots=True)
class Session:
    """Who looks at the page, and the cookie by which that is known."""

    principal: Principal
    cookie: str


class PageGuard:
    """Knows sessions where keys are demanded. The app's lifespan sets `state.keyring`."""

    def __init__(self, state: State, settings: Settings) -> None:
        self._state = state
        self.demands_keys = settings.demands_keys

    async def require_session(self, request: Request) -> None:
        """Raises SignedOut without a session, and StoreUnavailable if that cannot be known."""
        if not self.demands_keys:
            return
        cookie = request.cookies.get(COOKIE)
        principal = await self._sessions.session(cookie, _now_s()) if cookie else None
        if cookie is None or principal is None:
            raise SignedOut(had_one=cookie is not None)
        request.scope[_SESSION] = Session(principal, cookie)

    async def sign_in(self, presented_key: str) -> str | None:
        """A cookie for an admin key; None for any other text. Raises StoreUnavailable."""
        return await self._sessions.sign_in(presented_key, _now_s())

    @property
    def _sessions(self) -> Sessions:
        return Sessions(self._state.keyring)


def require_own_form(request: Request) -> None:
    """Raises ForeignForm unless the browser says that the form comes from this very site.

    Every browser says so by `Sec-Fetch-Site`, or by `Origin` where the connection is plain HTTP.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        if site != "same-origin":
            raise ForeignForm
        return
    origin, host = request.headers.get("origin"), request.headers.get("host")
    if not origin or not host or urlsplit(origin).netloc != host:
        raise ForeignForm


def require_own_token(request: Request, form: Form) -> None:
    """Raises ForeignForm unless the form carries the token of its session, if it has one."""
    session = session_of(request)
    if session is not None and not csrf_ok(session.cookie, form.get(CSRF_FIELD, "")):
        raise ForeignForm


def session_of(request: Request) -> Session | None:
    """The session that `require_session` found; None where keys are not demanded."""
    session: Session | None = request.scope.get(_SESSION)
    return session


def token_of(request: Request) -> str | None:
    """What the forms of this page have to carry."""
    session = session_of(request)
    return None if session is None else csrf_token(session.cookie)


def actor_of(request: Request) -> str:
    """Who the audit says it was."""
    session = session_of(request)
    return ANYBODY if session is None else session.principal.actor


def page_behind(path: str) -> str:
    """The page that a form or an address belongs to; the list of workspaces for any other."""
    found = _PAGE.fullmatch(path)
    return "/" if found is None else found[1]


def cookie_header(request: Request, value: str) -> Header:
    """Sets the cookie; an empty `value` ends it.

    It is for HTTPS only if the browser came by it, which its `Origin` says also behind a proxy.
    """
    parts = [f"{COOKIE}={value}", "Path=/", "HttpOnly", "SameSite=Lax"]
    parts.append(f"Max-Age={SESSION_S_MAX if value else 0}")
    if request.headers.get("origin", "").startswith("https://"):
        parts.append("Secure")
    return (b"set-cookie", "; ".join(parts).encode("ascii"))


def _now_s() -> int:
    return int(time.time())
