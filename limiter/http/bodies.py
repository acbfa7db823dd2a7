"""Reading requests: the body within its bounds, then the struct, then what is wrong with it.

A body is refused for its type or its size before it is parsed, and everything that a caller sent is
refused before anything is read from Redis. It must not answer, and must not know any route.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Container
from typing import ClassVar, Final, NamedTuple, TypeVar
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request
from starlette.types import Receive

from limiter.errors import Forbidden, InvalidRequest
from limiter.http.answers import encode
from limiter.models import (
    ID_LENGTH_MAX,
    ID_PATTERN,
    ChatPatch,
    CheckRequest,
    EstimateUsage,
    Limit,
    RecordRequest,
    RecordUsage,
    ReleaseRequest,
    WorkspacePatch,
)

Body = TypeVar("Body", bound=msgspec.Struct)

# What browsers say of a request that the page itself sends, or somebody who types an address.
_OWN_SITE = (b"same-origin", b"none")

# In the scope of a request whose body came with its headers: that body.
WHOLE_BODY: Final = "limiter.body"

_QUOTE_LENGTH_MAX = 80
_MESSAGE_LENGTH_MAX = 100


class MediaType(NamedTuple):
    """What a body may say that it is. `usual` is what nearly every client sends."""

    usual: bytes
    pattern: re.Pattern[bytes]


JSON = MediaType(
    b"application/json",
    re.compile(rb"application/([a-z0-9.+-]+\+)?json\s*(;.*)?", re.IGNORECASE),
)
FORM = MediaType(
    b"application/x-www-form-urlencoded",
    re.compile(rb"application/x-www-form-urlencoded\s*(;.*)?", re.IGNORECASE),
)

# The wordings of msgspec: a message, then where; and the two messages that name a field.
_LOCATED = re.compile(r"(.*) - at `\$\.?([^`]*)`", re.DOTALL)
_NAMED = re.compile(r"Object (contains unknown|missing required) field `(.*)`", re.DOTALL)
_ANY_LIMIT = "budget_limits[...]"

_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")

_REQUEST_FIELDS = frozenset(
    name
    for struct in (
        CheckRequest,
        EstimateUsage,
        RecordRequest,
        RecordUsage,
        ReleaseRequest,
        WorkspacePatch,
        ChatPatch,
    )
    for name in struct.__struct_fields__
)


class _AnyLimits(msgspec.Struct):
    budget_limits: dict[str, msgspec.Raw]


_decode_any_limits = msgspec.json.Decoder(_AnyLimits).decode
_decode_limit: Callable[[msgspec.Raw], object] = msgspec.json.Decoder(Limit).decode


class RequestError(Exception):
    """A request that HTTP itself refuses, before the Limiter sees it."""

    code: ClassVar[str]


class BodyTooLarge(RequestError):
    """The body is above `body_bytes_max`. It was not parsed."""

    code = "body_too_large"

    def __init__(self, bytes_max: int) -> None:
        super().__init__(f"a body has at most {bytes_max} bytes")


class BodyTooSlow(RequestError):
    """The body took longer than `body_timeout_ms` to arrive. It was not parsed."""

    code = "body_too_slow"

    def __init__(self, timeout_ms: int) -> None:
        super().__init__(f"a body has {timeout_ms} ms to arrive")


class HeadTooLarge(RequestError):
    """The request line and the headers are above what a connection takes. Nothing was read."""

    code = "head_too_large"

    def __init__(self, bytes_max: int, headers_max: int) -> None:
        super().__init__(f"a request has at most {headers_max} headers, in {bytes_max} bytes")


class UnsupportedMediaType(RequestError):
    """The body says that it is something else than the route reads, or compressed."""

    code = "unsupported_media_type"


def printable(text: str, length_max: int = _QUOTE_LENGTH_MAX) -> str:
    """A caller's text, cut, and escaped where it is not printable ASCII.

    Everything that answers or logs quote of a request has gone through here.
    """
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text[:length_max])


def header_values(request: Request, name: bytes) -> list[bytes]:
    """Every value of a header; `name` is in lower case."""
    return [value for key, value in request.scope["headers"] if key == name]


def query_parameters(request: Request, known: Container[str] = ()) -> dict[str, str]:
    """The query's parameters. Raises InvalidRequest for one that is not known, or is there twice.

    A misspelt parameter would otherwise be silently without effect.
    """
    query: bytes = request.scope["query_string"]
    parameters: dict[str, str] = {}
    if not query:
        return parameters
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name not in known or name in parameters:
            what = "is there twice" if name in parameters else "is not a parameter of this route"
            raise _misnamed(name, what)
        parameters[name] = value
    return parameters


async def read_body(
    request: Request, *, bytes_max: int, timeout_ms: int, media_type: MediaType = JSON
) -> bytes:
    """The whole body, read within `bytes_max` and `timeout_ms`.

    Raises UnsupportedMediaType, BodyTooLarge, BodyTooSlow; Forbidden if a browser says that a page
    of another site sends it; InvalidRequest if the client leaves.
    """
    for name, value in request.scope["headers"]:
        if name == b"content-type":
            if value != media_type.usual and not media_type.pattern.fullmatch(value):
                raise UnsupportedMediaType(f"the content-type must be {media_type.usual.decode()}")
        elif name == b"content-encoding":
            if value.lower() != b"identity":
                raise UnsupportedMediaType("the body must not be compressed")
        # Where nobody is asked for a key, any page that a developer opens could spend a budget.
        elif name == b"sec-fetch-site" and value not in _OWN_SITE:
            raise Forbidden("a page of another site may not do this")
        # The header only makes the refusal earlier: what is read is counted in any case.
        elif name == b"content-length" and _exceeds(value, bytes_max):
            raise BodyTooLarge(bytes_max)
    body: bytes | None = request.scope.get(WHOLE_BODY)
    if body is None:
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                body = await _read(request.receive, bytes_max)
        except TimeoutError:
            raise BodyTooSlow(timeout_ms) from None
    if len(body) > bytes_max:
        raise BodyTooLarge(bytes_max)
    return body


async def _read(receive: Receive, bytes_max: int) -> bytes:
    """The body, or as much of it as shows that it is too large."""
    body = bytearray()
    more = True
    while more and len(body) <= bytes_max:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise InvalidRequest("the connection was closed before the body was complete")
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(body)


def _exceeds(digits: bytes, bytes_max: int) -> bool:
    # Python refuses to convert thousands of digits; eighteen are beyond any bound already.
    return digits.isdigit() and (len(digits) > 18 or int(digits) > bytes_max)


def decoder(body_type: type[Body]) -> Callable[[bytes], Body]:
    """A function that makes the struct of a body. It raises InvalidRequest, naming the field."""
    decode_json = msgspec.json.Decoder(body_type).decode

    def decode(body: bytes) -> Body:
        try:
            struct = decode_json(body)
        except msgspec.ValidationError as error:
            raise _invalid(error, body) from None
        except msgspec.DecodeError as error:
            raise InvalidRequest(f"the body is not valid JSON: {error}") from None
        except UnicodeDecodeError:
            raise InvalidRequest("the body is not valid UTF-8") from None
        # msgspec takes the last of two; another reader of the same bytes may take the first. Where
        # the body has as many quotes as its struct written out, no name is there twice.
        if b"\\" in body or body.count(b'"') != encode(struct).count(b'"'):
            _refuse_repeats(body.decode())
        return struct

    return decode


def _members(members: list[tuple[str, object]]) -> None:
    seen = set()
    for name, _ in members:
        if name in seen:
            raise _misnamed(name, "is there twice")
        seen.add(name)


_refuse_repeats = json.JSONDecoder(object_pairs_hook=_members).decode


def _invalid(error: msgspec.ValidationError, body: bytes) -> InvalidRequest:
    """What msgspec found, with its field. `error` quotes the caller."""
    located = _LOCATED.fullmatch(str(error))
    message, path = located.groups() if located else (str(error), "")
    if error.__cause__ is not None:
        # A rule of the struct itself: its sentence names the field that it is about first.
        names = (word for word in re.findall(r"\w+", message) if word in _REQUEST_FIELDS)
        field = _joined(path, next(names, ""))
        return InvalidRequest(printable(message, _MESSAGE_LENGTH_MAX), field=field or None)
    if named := _NAMED.fullmatch(message):
        field = _joined(path, named[2])
        message = "is required" if named[1].startswith("missing") else "is not a known field"
    elif path == _ANY_LIMIT:
        field = _joined("budget_limits", _misfit(body))
    else:
        field = _joined(path, "")
    if repr(ID_PATTERN) in message:
        message = f"1 to {ID_LENGTH_MAX} characters of A-Z a-z 0-9 . _ @ - are allowed"
    message = printable(message[0].lower() + message[1:], _MESSAGE_LENGTH_MAX)
    return InvalidRequest(f"{field or 'the body'}: {message}", field=field or None)


def _misfit(body: bytes) -> str:
    """The first period whose limit does not fit: msgspec names the mapping alone."""
    try:
        entries = _decode_any_limits(body).budget_limits
    except (ValueError, RecursionError):
        # What follows the misfit is broken as well.
        return ""
    for period, limit in entries.items():
        try:
            _decode_limit(limit)
        except ValueError:
            return period
    return ""


def _misnamed(name: str, what: str) -> InvalidRequest:
    field = _joined("", name)
    return InvalidRequest(f"{field or 'an empty name'}: {what}", field=field or None)


def _joined(path: str, name: str) -> str:
    return ".".join(printable(part) for part in (path, name) if part)
