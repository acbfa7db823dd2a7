"""The HTTP API as a client sees it: how a request is written, and what an answer means.

Sync and async clients share it. It must not send anything, and not know of repeats beyond saying
which answers are none (`NotAnswered`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Generic, Literal, TypeVar

import msgspec

from limiter import errors, ids
from limiter.client.errors import NoAnswer, UnexpectedAnswer
from limiter.errors import InvalidRequest, LimiterError
from limiter.models import (
    Admitted,
    ChatTreeUsage,
    CheckRequest,
    Denied,
    Id,
    Recorded,
    RecordRequest,
    Refused,
    Released,
    ReleaseRequest,
    WorkspaceUsage,
)

Answer = TypeVar("Answer")
Body = TypeVar("Body", bound=msgspec.Struct)

# Answers of what stands in between, or of a service that has too much to do.
_STATUSES_WITHOUT_ANSWER = frozenset({408, 425, 429, 502, 503, 504})
_DETAIL_LENGTH_MAX = 200
_LOCATED = re.compile(r".* - at `\$\.([^`]+)`")

_encode = msgspec.json.Encoder().encode
_ERRORS: Mapping[str, type[LimiterError]] = {
    error.code: error
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, LimiterError)
}

# What errors have beside their sentence.
_NAMED_BY: Mapping[type, tuple[str, ...]] = {
    errors.InvalidRequest: ("field",),
    errors.WorkspaceNotFound: ("workspace_id",),
    errors.ChatNotFound: ("chat_id",),
    errors.ReservationNotFound: ("reservation_id",),
    errors.IdReused: ("field",),
    errors.ReservationSettled: ("state",),
    errors.ModelUnpriced: ("model",),
}


@dataclass(frozen=True, slots=True)
class Exchange(Generic[Answer]):
    """A request, ready to be sent as often as it takes, and how to read what comes back.

    `answers`: a decoder for each status that is one. `about`: what an error says it was about.
    """

    method: str
    path: str
    answers: Mapping[int, Callable[[bytes], Answer]]
    content: bytes | None = None
    about: Mapping[str, object] = field(default_factory=dict)

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.content is None else {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class NotAnswered(Exception):
    """The same request may be answered later: `error` is what it is if nobody ever does.

    `retry_after_ms`: how long whoever answered wants to be left alone.
    """

    def __init__(self, error: LimiterError, retry_after_ms: int | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after_ms = retry_after_ms


# --------------------------------------------------------------------------- requests


def built(body_type: type[Body], **fields: object) -> Body:
    """A request's body, checked as the service will. Fields that are None are left out.

    Raises InvalidRequest, naming the field.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    try:
        return msgspec.convert(msgspec.to_builtins(given), body_type)
    except (msgspec.ValidationError, TypeError) as error:
        located = _LOCATED.fullmatch(str(error))
        raise InvalidRequest(str(error), field=located[1] if located else None) from None


def _about(request: msgspec.Struct) -> dict[str, object]:
    about = {name: getattr(request, name, None) for name in ("workspace_id", "chat_id")}
    about["reservation_id"] = getattr(request, "reservation_id", None)
    about["model"] = getattr(getattr(request, "usage", None), "model", None)
    return about


class _Refusal(msgspec.Struct):
    """Both fields are required here: any other problem with status 503 has neither."""

    allowed: Literal[False]
    degraded: Literal[True]


_decode_refusal = msgspec.json.Decoder(_Refusal).decode


def _refused(content: bytes) -> Refused:
    _decode_refusal(content)
    return Refused()


_denied = msgspec.json.Decoder(Denied).decode
_recorded = msgspec.json.Decoder(Recorded).decode
_CHECKED: Mapping[int, Callable[[bytes], Admitted | Denied | Refused]] = {
    200: msgspec.json.Decoder(Admitted).decode,
    402: _denied,
    409: _denied,
    503: _refused,
}
_RECORDED = {200: _recorded, 202: _recorded}
_RELEASED = {200: msgspec.json.Decoder(Released).decode}
_USAGE = {200: msgspec.json.Decoder(WorkspaceUsage).decode}
_CHAT_USAGE = {200: msgspec.json.Decoder(ChatTreeUsage).decode}


def check(request: CheckRequest) -> Exchange[Admitted | Denied | Refused]:
    """Without an id it could not be asked twice, so one is made where there is none."""
    if request.reservation_id is None:
        request = msgspec.structs.replace(request, reservation_id=ids.new_id())
    return Exchange("POST", "/check", _CHECKED, _encode(request), _about(request))


def record(request: RecordRequest) -> Exchange[Recorded]:
    """Without an id it could be charged twice, so one is made where there is none."""
    if request.event_id is None and request.reservation_id is None:
        request = msgspec.structs.replace(request, event_id=ids.new_id())
    return Exchange("POST", "/record", _RECORDED, _encode(request), _about(request))


def release(request: ReleaseRequest) -> Exchange[Released]:
    return Exchange("POST", "/release", _RELEASED, _encode(request), _about(request))


def usage(workspace_id: str) -> Exchange[WorkspaceUsage]:
    path = f"/usage/workspaces/{_path_id(workspace_id, 'workspace_id')}"
    return Exchange("GET", path, _USAGE, about={"workspace_id": workspace_id})


def chat_usage(workspace_id: str, chat_id: str) -> Exchange[ChatTreeUsage]:
    workspace, chat = _path_id(workspace_id, "workspace_id"), _path_id(chat_id, "chat_id")
    path = f"/usage/workspaces/{workspace}/chats/{chat}"
    return Exchange(
        "GET", path, _CHAT_USAGE, about={"workspace_id": workspace_id, "chat_id": chat_id}
    )


def _path_id(value: str, field_name: str) -> str:
    # `..` is a valid id, but any client on the way would make another path of it.
    if value in (".", ".."):
        raise InvalidRequest(f"{field_name}: {value!r} cannot be asked for", field=field_name)
    try:
        return msgspec.convert(value, Id)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"{field_name}: {error}", field=field_name) from None


# --------------------------------------------------------------------------- answers


class _Problem(msgspec.Struct):
    code: str
    detail: str = ""
    field: str | None = None


_decode_problem = msgspec.json.Decoder(_Problem).decode


def read(exchange: Exchange[Answer], reply: Reply) -> Answer:
    """The answer. Raises NotAnswered where a repeat may help, and otherwise what the service says.

    A denial is an answer, also where it says that it will fit later: waiting is up to the caller.
    """
    decode = exchange.answers.get(reply.status)
    if decode is not None:
        try:
            return decode(reply.content)
        except msgspec.DecodeError:
            pass  # A problem, or something that is not from the service.
    error = _error(exchange, reply)
    if _may_be_repeated(reply):
        raise NotAnswered(error, _retry_after_ms(reply))
    raise error


def _may_be_repeated(reply: Reply) -> bool:
    told = reply.headers.get("x-should-retry")
    if told in ("true", "false"):
        return told == "true"
    return reply.status in _STATUSES_WITHOUT_ANSWER


def _error(exchange: Exchange[Any], reply: Reply) -> LimiterError:
    try:
        problem = _decode_problem(reply.content)
    except msgspec.DecodeError:
        problem = _Problem(code="")
    error_type = _ERRORS.get(problem.code)
    if error_type is not None:
        return _rebuilt(error_type, problem, exchange.about)
    what = f"{exchange.method} {exchange.path} was answered with status {reply.status}"
    if not problem.code and reply.status in _STATUSES_WITHOUT_ANSWER:
        return NoAnswer(what)
    said = problem.detail[:_DETAIL_LENGTH_MAX] or "its body is none of the service's"
    return UnexpectedAnswer(f"{what}: {said}", status=reply.status, told=problem.code or None)


def _rebuilt(
    error_type: type[LimiterError], problem: _Problem, about: Mapping[str, object]
) -> LimiterError:
    """The error as it was raised in the service, with the service's own sentence.

    What its class names is taken from the request. The state of a reservation is in the sentence
    alone, so `ReservationSettled.state` is `unknown` here.
    """
    error = error_type.__new__(error_type, problem.detail)
    told = {**about, "field": problem.field, "state": "unknown"}
    for base in error_type.__mro__:
        for name in _NAMED_BY.get(base, ()):
            setattr(error, name, told.get(name))
    return error


def _retry_after_ms(reply: Reply) -> int | None:
    """What `Retry-After` says: seconds or a date (RFC 9110). None where it says neither."""
    value = reply.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit() and len(value) < 10:
        return int(value) * 1_000
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0, int((moment - datetime.now(UTC)).total_seconds() * 1_000))
