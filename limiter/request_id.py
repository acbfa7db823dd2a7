"""The id of the request that is being answered: for what is logged meanwhile, and for errors.

It is the caller's `X-Request-ID`, if that is a plain word, or one that is made. Most requests never
need theirs, so that it is looked for when somebody asks. It must not know what a request is about.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Final

from limiter.ids import new_id

HEADER: Final = b"x-request-id"

# It goes into logs and answers as it came. 64 characters hold a UUID, a ULID and a trace id.
_PLAIN_WORD: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class RequestId:
    """The id of one request. `headers`: those of the request, names in lower case."""

    __slots__ = ("_headers", "_text")

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._headers: Iterable[tuple[bytes, bytes]] | None = headers
        self._text: str | None = None

    @property
    def text(self) -> str | None:
        """None once the request is answered."""
        if self._headers is None:
            return None
        if self._text is None:
            self._text = _presented(self._headers) or new_id()
        return self._text

    def answered(self) -> None:
        """Tasks that began during the request, and outlive it, have no request any more."""
        self._headers = None


def _presented(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    values = [value for name, value in headers if name == HEADER]
    if len(values) == 1 and _PLAIN_WORD.fullmatch(values[0]):
        return values[0].decode()
    return None


_current: ContextVar[RequestId | None] = ContextVar("request_id", default=None)


def begin(headers: Iterable[tuple[bytes, bytes]]) -> RequestId:
    """From here on this task answers the request with these headers, until it is `answered`."""
    request_id = RequestId(headers)
    _current.set(request_id)
    return request_id


def current() -> str | None:
    """The id of the request that this task answers; None if it answers none."""
    request_id = _current.get()
    return None if request_id is None else request_id.text
