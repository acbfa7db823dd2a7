"""Who may see the page, and which forms are the page's own.

It must not know what a page shows or a form changes.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request

# Who the audit says it was, where no keys are demanded.
ACTOR: Final = "page"


class ForeignForm(Exception):
    """The form was not sent by this page: another site may have made the browser send it."""


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
