"""What goes over the wire between an SDK and a model: requests that cost, and the usage they tell.

A dialect says which requests cost something, at most how much, and where answers tell what they
used. A reader looks at an answer while it passes. Neither sends anything, nor knows of a limit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from limiter.errors import InvalidRequest
from limiter.models import EstimateUsage, RecordUsage

# An answer beyond this passes by unread, and what was held for it is charged.
_BYTES_MAX = 64 * 1024 * 1024
_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")

_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class Planned:
    """A request that costs something: at most `usage`.

    `content` is what to send in place of the request's body, if usage has to be asked for.
    """

    usage: EstimateUsage
    content: bytes | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """What an answer, or one event of it, tells. `hide`: the caller has not asked for this event.

    `is_final`: nothing is added to this any more.
    """

    usage: RecordUsage
    is_final: bool = True
    hide: bool = False


class Dialect(Protocol):
    """How one provider's API is spoken."""

    def plan(self, path: str, body: Mapping[str, Any]) -> Planned | None:
        """What a POST of this body may cost. None: nothing that tokens would tell."""

    def answer(self, planned: Planned, body: Any, before: RecordUsage | None) -> Told | None:
        """What an answer or an event tells; `before` is what earlier events have told."""


class Reader:
    """Looks at an answer as it passes: feed it the chunks, and hand on what it returns.

    Events are handed on as soon as they are complete.
    """

    def __init__(self, dialect: Dialect, planned: Planned, content_type: str) -> None:
        self._dialect = dialect
        self._planned = planned
        self._is_stream = content_type.partition(";")[0].strip() == "text/event-stream"
        self._waiting = bytearray()
        self._is_too_long = False
        self._told: Told | None = None

    @property
    def told(self) -> Told | None:
        """What was told last."""
        return self._told

    def feed(self, chunk: bytes) -> bytes:
        """What to hand on now."""
        if self._is_too_long or len(self._waiting) + len(chunk) > _BYTES_MAX:
            self._is_too_long = True
            return self._pass_by(chunk)
        self._waiting += chunk
        if not self._is_stream:
            return chunk
        passed = bytearray()
        start = 0
        for end in _EVENT_END.finditer(self._waiting):
            event = bytes(self._waiting[start : end.end()])
            start = end.end()
            if not self._hides(_data(event)):
                passed += event
        del self._waiting[:start]
        return bytes(passed)

    def finish(self) -> bytes:
        """The answer has ended. Returns what is left to hand on."""
        rest = bytes(self._waiting)
        self._waiting.clear()
        if self._is_stream:
            return b"" if self._hides(_data(rest)) else rest
        self._hides(rest)
        return b""

    def _pass_by(self, chunk: bytes) -> bytes:
        # Of a stream the beginning of an event waits here; of anything else it has been handed on.
        kept_back = bytes(self._waiting) if self._is_stream else b""
        self._waiting.clear()
        return kept_back + chunk

    def _hides(self, document: bytes) -> bool:
        if b'"usage"' not in document:
            return False
        try:
            body = _decode(document)
            before = None if self._told is None else self._told.usage
            told = self._dialect.answer(self._planned, body, before)
        except (msgspec.MsgspecError, InvalidRequest, LookupError, TypeError, AttributeError):
            return False  # Not what the provider documents: it tells nothing.
        if told is None:
            return False
        self._told = told
        return told.hide


def _data(event: bytes) -> bytes:
    """The data of a server-sent event."""
    lines = event.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return b"\n".join(
        line.removeprefix(b"data:").removeprefix(b" ") for line in lines if line[:5] == b"data:"
    )


def count(usage: Mapping[str, Any], *path: str) -> int:
    """A number of tokens in an answer; 0 where it is not told."""
    value: Any = usage
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, int) else 0
