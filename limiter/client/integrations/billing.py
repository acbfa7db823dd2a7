"""What came of a call that went wrong: whether it is billed, and how it is raised. No SDK here.

A provider bills what it has worked on, also when nobody waits for the answer any more. It does not
bill what it refused, nor what never reached it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TypeVar, cast

from limiter.client.call import CallState
from limiter.errors import InvalidRequest, LimiterError

logger = logging.getLogger(__name__)

Error = TypeVar("Error", bound=LimiterError)

# Their names, because httpx, httpx2 and aiohttp each have classes of their own for them.
_BEFORE_SENDING = frozenset(
    {
        *("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "ProxyError"),
        *("ClientConnectorError", "ConnectionRefusedError"),
    }
)
_REFUSED_FROM = 400
_CAUSES_MAX = 20


def is_billed(error: BaseException) -> bool:
    """Whether a call that ended in this may be billed: False only where it surely is not."""
    cause: BaseException | None = error
    for _ in range(_CAUSES_MAX):
        if cause is None:
            return True
        status = getattr(cause, "status_code", None)
        if isinstance(status, int) and status >= _REFUSED_FROM:
            return False
        if any(kind.__name__ in _BEFORE_SENDING for kind in type(cause).__mro__):
            return False
        cause = cause.__cause__
    return True


def tell(call: CallState, usage: Mapping[str, int]) -> None:
    """Tells a call its usage, by the names of `CallState.usage`.

    Numbers that cannot be are not told, so that the call is settled like one without any.
    """
    try:
        call.usage(
            input_tokens=usage["input_tokens"],
            output_tokens=usage["output_tokens"],
            cache_read_tokens=usage["cache_read_tokens"],
            cache_write_tokens=usage["cache_write_tokens"],
        )
    except InvalidRequest as error:
        logger.error("call %s has impossible usage: %s", call.reservation_id, error)


def passed_on(error: Error, *theirs: type[Exception]) -> Error:
    """The same error, as one that the SDK hands on: `theirs` are what it neither wraps nor repeats.

    SDKs take whatever else comes from below for a broken connection, and try again.
    """
    ours = type(error)
    both = type(ours.__name__, (ours, *theirs), {"__module__": ours.__module__})
    twin = both.__new__(both, *error.args)
    vars(twin).update(vars(error))
    return cast(Error, twin)
