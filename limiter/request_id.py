"""The request that is being answered: its id, for what is logged meanwhile and for errors.

The id is the caller's `X-Request-ID`, if that is a plain word, or one that is made. Most requests
never need theirs, so that it is looked for when somebody asks. It must not know what a request is
about.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Final

from limiter.ids import new_id

HEADER: Final = b"x-request-id"

# It goes into logs and answers as it came. 64 characters hold a UUID, a ULID and a trace id.
_PLAIN_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Headers = Sequence[tuple[bytes, bytes]]


class RequestId:
    """The id of one request. `headers`: those of the request, names in lower case."""

    __slots__ = ("_headers", "_text")

    def __init__(self, headers: Headers) -> None:
        self._headers: Headers | None = headers
        self._text: str | None = None

    @property
    def is_answered(self) -> bool:
        return self._headers is None

    @property
    def text(self) -> str:
        """The id, which stays the same."""
        if self._text is None:
            presented = self.header(HEADER) or ""
            self._text = presented if _PLAIN_WORD.fullmatch(presented) else new_id()
        return self._text

    def header(self, name: bytes) -> str | None:
        """The value of a header, as it came; None if it is not there, or there twice."""
        values = [value for key, value in self._headers or () if key == name]
        return values[0].decode("latin-1") if len(values) == 1 else None

    def answered(self) -> None:
        """Tasks that began during the request, and outlive it, have no request any more."""
        self._headers = None


_current: ContextVar[RequestId | None] = ContextVar("request_id", default=None)


def begin(headers: Headers) -> RequestId:
    """From here on this task answers the request with these headers, until it is `answered`."""
    request_id = RequestId(headers)
    _current.set(request_id)
    return request_id


def answering() -> RequestId | None:
    """That of the request that this task answers, if it answers one."""
    request_id = _current.get()
    return None if request_id is None or request_id.is_answered else request_id


def current() -> str | None:
    """The id of the request that this task answers; None if it answers none."""
    request_id = answering()
    return None if request_id is None else request_id.text
