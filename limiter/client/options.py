"""What sync and async clients have in common: their options, and how a call is asked for."""

from __future__ import annotations

from typing import Generic, TypeVar
from urllib.parse import urlsplit

import httpx2

from limiter.access import split_key
from limiter.client.call import OnError, check_of_call
from limiter.models import CheckRequest, EstimateUsage, OutagePolicy

CallT = TypeVar("CallT")

CHECK_DEADLINE_MS = 2_000
SETTLE_DEADLINE_MS = 5_000

# Servers close idle connections after some seconds; a request must not meet one that is closing.
_IDLE_S_MAX = 2.0
_CONNECTIONS_MAX = 100
LIMITS = httpx2.Limits(max_connections=_CONNECTIONS_MAX, keepalive_expiry=_IDLE_S_MAX)


def base_url(url: str) -> str:
    """The service's address without a slash at its end. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"not the address of a service: {url!r}")
    return url.rstrip("/")


def key_headers(key: str | None) -> dict[str, str]:
    """What presents an API key. Raises ValueError for what is none, and does not repeat it."""
    if key is None:
        return {}
    if split_key(key) is None:
        raise ValueError("not an API key: one reads lim_<id>_<secret>")
    return {"authorization": f"Bearer {key}"}


class Caller(Generic[CallT]):
    """Base of the clients."""

    def __init__(
        self, *, outage_policy: OutagePolicy, check_deadline_ms: int, settle_deadline_ms: int
    ) -> None:
        if min(check_deadline_ms, settle_deadline_ms) <= 0:
            raise ValueError("a deadline is above 0")
        self._outage_policy = outage_policy
        self._check_deadline_ms = check_deadline_ms
        self._settle_deadline_ms = settle_deadline_ms

    def call(
        self,
        workspace_id: str,
        chat_id: str | None = None,
        estimate_micros: int | None = None,
        *,
        usage: EstimateUsage | None = None,
        parent_chat_id: str | None = None,
        spend_limit_micros: int | None = None,
        hold_ms: int | None = None,
        on_error: OnError = "release",
    ) -> CallT:
        """A model call, to be entered with `with` or `async with`.

        `estimate_micros` or `usage` is an upper bound of what it costs, and is held while the
        block runs; without either the workspace's default is. Entering raises CallDenied with all
        violations, CallRefused, Unavailable if policy is to deny, and `limiter.errors`.

        Leaving the block records what `call.usage` or `call.cost` said last, also when the body
        raises or is cancelled. If nothing was said, nothing is known of the cost: `on_error`
        `release` then gives the hold back, as for a call that never reached the model, and
        `charge_estimate` charges what was held, as for a stream that broke and is billed all the
        same. A body that ends well without a word is treated just so.

        Raises InvalidRequest, naming the field.
        """
        check = check_of_call(
            workspace_id,
            chat_id,
            estimate_micros,
            usage=usage,
            parent_chat_id=parent_chat_id,
            spend_limit_micros=spend_limit_micros,
            hold_ms=hold_ms,
        )
        return self._new_call(check, on_error)

    def _new_call(self, check: CheckRequest, on_error: OnError) -> CallT:
        raise NotImplementedError
