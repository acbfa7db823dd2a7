"""Problems (RFC 9457): the one place that maps errors and denials to statuses, words and headers.

It must not decide anything: what happened is in the error, or in the `Denied` that the Limiter
returned. `type` is `urn:limiter:problem:<code>`, an identifier and not an address.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import NamedTuple

import msgspec
from fastapi.exceptions import RequestValidationError
from msgspec import UNSET, Struct, UnsetType
from starlette.exceptions import HTTPException

from limiter.errors import (
    AccessDenied,
    Conflict,
    InvalidRequest,
    LimiterError,
    NotFound,
    RedisUnavailable,
    ScriptError,
    Unauthenticated,
    Unavailable,
)
from limiter.http.answers import NO_STORE, Answer, ClosingAnswer, Header, encode
from limiter.http.bodies import (
    BodyTooLarge,
    BodyTooSlow,
    HeadTooLarge,
    RequestError,
    UnsupportedMediaType,
    printable,
)
from limiter.http.ratelimit import of_violations
from limiter.models import Denied, Reason, Refused
from limiter.money import div_ceil, format_dollars

logger = logging.getLogger(__name__)

PROBLEM_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:limiter:problem:"
PERIOD_DENIED_STATUS = 402
CHAT_DENIED_STATUS = 409
INTERNAL_CODE = "internal_error"

_LINGER_MS = 1_000
_HEADERS: list[Header] = [(b"content-type", PROBLEM_TYPE.encode()), NO_STORE]
_CHALLENGE: Header = (b"www-authenticate", b'Bearer realm="limiter"')
_SHOULD_RETRY: dict[bool, Header] = {
    True: (b"x-should-retry", b"true"),
    False: (b"x-should-retry", b"false"),
}


class Kind(NamedTuple):
    """How a class of errors is answered. `should_retry`: the same request may succeed later."""

    status: int
    should_retry: bool


# A class stands for its subclasses, unless they have a row of their own.
KINDS: dict[type[Exception], Kind] = {
    InvalidRequest: Kind(400, should_retry=False),
    Unauthenticated: Kind(401, should_retry=False),
    AccessDenied: Kind(403, should_retry=False),
    NotFound: Kind(404, should_retry=False),
    BodyTooSlow: Kind(408, should_retry=True),
    BodyTooLarge: Kind(413, should_retry=False),
    UnsupportedMediaType: Kind(415, should_retry=False),
    Conflict: Kind(422, should_retry=False),
    HeadTooLarge: Kind(431, should_retry=False),
    ScriptError: Kind(500, should_retry=False),
    Unavailable: Kind(503, should_retry=True),
    Exception: Kind(500, should_retry=False),
}


class Problem(Struct, frozen=True, kw_only=True):
    """What went wrong. `code` is stable; `field` names what of the request is to blame."""

    type: str
    title: str
    status: int
    detail: str | UnsetType = UNSET
    code: str
    field: str | UnsetType = UNSET


class DeniedProblem(Denied, frozen=True, kw_only=True):
    """The call may not be made: everything of the denial, and a sentence for people.

    402: a period limit of the workspace binds. 409: a limit in the chat's tree binds.
    """

    type: str
    title: str
    status: int
    detail: str
    code: Reason


class RefusedProblem(Refused, frozen=True, kw_only=True):
    """Redis is away and policy is to deny: no limit was looked at."""

    type: str
    title: str
    status: int
    detail: str
    code: str


def kind_of(error_type: type[Exception]) -> Kind:
    """The row of an error's class."""
    return next(KINDS[base] for base in error_type.__mro__ if base in KINDS)


def title_of(code: str) -> str:
    """A code's title: the same words each time, as a problem's title has to be."""
    return code.replace("_", " ").capitalize()


def problem_of(error: Exception) -> Problem:
    """The problem that an error is told as. Of what nobody foresaw nothing is told."""
    code, detail = INTERNAL_CODE, None
    if isinstance(error, (LimiterError, RequestError)):
        code, detail = error.code, str(error)
    return Problem(
        type=TYPE_PREFIX + code,
        title=title_of(code),
        status=kind_of(type(error)).status,
        detail=UNSET if detail is None else detail,
        code=code,
        field=getattr(error, "field", None) or UNSET,
    )


def error_answer(error: Exception, *, should_retry: bool | None = None) -> Answer:
    """The answer to an error. `should_retry` overrides what is true for its class.

    Where the service itself is at fault it is logged.
    """
    if isinstance(error, HTTPException):
        return _framework_answer(error)
    if isinstance(error, RequestValidationError):
        error = _first_mistake(error)
    kind = kind_of(type(error))
    problem = problem_of(error)
    if kind.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error("%s", problem.code, exc_info=error)
    retry = kind.should_retry if should_retry is None else should_retry
    headers = [*_HEADERS, _SHOULD_RETRY[retry]]
    if isinstance(error, Unauthenticated):
        headers.append(_CHALLENGE)
    if isinstance(error, (BodyTooLarge, BodyTooSlow)):
        return ClosingAnswer(kind.status, encode(problem), headers, linger_ms=_LINGER_MS)
    return Answer(kind.status, encode(problem), headers)


def _framework_answer(error: HTTPException) -> Answer:
    """No such route, no such method: what the router says by itself."""
    code = HTTPStatus(error.status_code).name.lower()
    problem = Problem(
        type=TYPE_PREFIX + code,
        title=title_of(code),
        status=error.status_code,
        detail=error.detail,
        code=code,
    )
    headers = [*_HEADERS, _SHOULD_RETRY[False]]
    for name, value in (error.headers or {}).items():
        headers.append((name.lower().encode("latin-1"), value.encode("latin-1")))
    return Answer(error.status_code, encode(problem), headers)


def _first_mistake(error: RequestValidationError) -> InvalidRequest:
    """What FastAPI found in a request to a route of its own making."""
    mistake = error.errors()[0]
    field = printable(".".join(str(step) for step in mistake["loc"][1:]))
    return InvalidRequest(printable(f"{field}: {mistake['msg']}"), field=field)


def denial_problem(denial: Denied | Refused) -> DeniedProblem | RefusedProblem:
    """The problem that a denial is told as."""
    return _refused_problem(denial) if isinstance(denial, Refused) else _denied_problem(denial)


def denial_answer(denial: Denied | Refused, *, decision: bool) -> Answer:
    """The answer to a denial; with `decision` the same body as a plain answer with status 200."""
    problem = denial_problem(denial)
    if decision:
        return Answer(HTTPStatus.OK, encode(problem))
    if isinstance(denial, Refused):
        return Answer(problem.status, encode(problem), [*_HEADERS, _SHOULD_RETRY[True]])
    # Time has to mend all of them.
    transient = all(violation.transient for violation in denial.violations)
    headers = [*_HEADERS, _SHOULD_RETRY[transient], *of_violations(denial.violations)]
    if denial.retry_after_ms is not None:
        headers.append((b"retry-after", b"%d" % div_ceil(denial.retry_after_ms, 1_000)))
    return Answer(problem.status, encode(problem), headers)


def _denied_problem(denied: Denied) -> DeniedProblem:
    by_period = denied.scope == "account_period"
    return DeniedProblem(
        **msgspec.structs.asdict(denied),
        type=TYPE_PREFIX + denied.reason,
        title=title_of(denied.reason),
        status=PERIOD_DENIED_STATUS if by_period else CHAT_DENIED_STATUS,
        detail=_sentence(denied),
        code=denied.reason,
    )


def _refused_problem(refused: Refused) -> RefusedProblem:
    code = RedisUnavailable.code
    return RefusedProblem(
        **msgspec.structs.asdict(refused),
        type=TYPE_PREFIX + code,
        title=title_of(code),
        status=kind_of(RedisUnavailable).status,
        detail="Redis cannot be reached, and the policy for that is to deny.",
        code=code,
    )


def _sentence(denied: Denied) -> str:
    """The first violation in words and dollars, how many more there are, and when it fits."""
    first = denied.violations[0]
    limit = f"limit of chat {first.chat_id}" if first.chat_id else f"{first.period} limit"
    dollars = format_dollars(first.limit_micros)
    estimate = format_dollars(denied.estimate_micros)
    if first.reason == "blocked":
        words = f"The {limit} is {dollars}: every call is blocked."
    elif first.reason == "estimate_exceeds_limit":
        words = f"The {limit} is {dollars}: a call that may cost {estimate} never fits."
    else:
        spent, held = format_dollars(first.spent_micros), format_dollars(first.held_micros)
        words = f"The {limit} is {dollars}: {spent} is spent and {held} is held"
        words += f", and this call may cost {estimate}." if denied.estimate_micros else "."
    if others := len(denied.violations) - 1:
        words += " One more limit denies it." if others == 1 else f" {others} more limits deny it."
    if denied.resets_at is not None:
        words += f" It fits from {denied.resets_at} on."
    return words
