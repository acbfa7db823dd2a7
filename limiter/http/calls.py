"""POST /check, /record and /release: what stands in front of and behind every model call.

Each reads one struct, asks the Limiter, and writes one struct. They decide nothing.
"""

from __future__ import annotations

import msgspec
from starlette.datastructures import State
from starlette.requests import Request

from limiter.access import Demand, demands
from limiter.errors import InvalidRequest, Unavailable
from limiter.http.access import require_reach
from limiter.http.answers import JSON_HEADERS, Answer, encode
from limiter.http.bodies import decoder, header_values, query_parameters
from limiter.http.endpoint import Handlers
from limiter.http.problems import denial_answer, error_answer
from limiter.http.ratelimit import of_usage
from limiter.models import (
    Admitted,
    CheckRequest,
    Recorded,
    RecordRequest,
    ReleaseRequest,
)
from limiter.redis.keys import require_id
from limiter.settings import Settings

_CHECK_PARAMETERS = frozenset({"decision"})
_IDEMPOTENCY_KEY = "Idempotency-Key"

_decode_check = decoder(CheckRequest)
_decode_record = decoder(RecordRequest)
_decode_release = decoder(ReleaseRequest)


class Calls(Handlers):
    """The handlers, each for one route and method."""

    def __init__(self, state: State, settings: Settings) -> None:
        super().__init__(state, settings)
        self._tells_what_is_left = settings.ratelimit_headers == "all"

    @demands(Demand.CALLER)
    async def check(self, request: Request) -> Answer:
        """200 admitted, 402 and 409 denied, 503 refused; with `?decision=true` always 200."""
        decision = _decision(request)
        check = _decode_check(await self.body(request))
        if self._demands_keys:
            require_reach(request, check.workspace_id)
        result = await self.limiter.check(check)
        if isinstance(result, Admitted):
            return self._counted(200, result)
        return denial_answer(result, decision=decision)

    @demands(Demand.CALLER)
    async def record(self, request: Request) -> Answer:
        """200, or 202 when the record waits in the ledger for Redis to come back."""
        query_parameters(request)
        record = _with_key(_decode_record(await self.body(request)), request)
        if self._demands_keys:
            require_reach(request, record.workspace_id)
        try:
            recorded: Recorded = await self.limiter.record(record)
        except Unavailable as error:
            # It may have been charged all the same: only an id keeps a second try from charging
            # twice, and a running total does by itself.
            ids = (record.event_id, record.reservation_id, record.source)
            return error_answer(error, should_retry=any(ids))
        return self._counted(202 if recorded.queued else 200, recorded)

    @demands(Demand.CALLER)
    async def release(self, request: Request) -> Answer:
        """200, as often as it is asked."""
        query_parameters(request)
        release = _decode_release(await self.body(request))
        if self._demands_keys:
            require_reach(request, release.workspace_id)
        return Answer(200, encode(await self.limiter.release(release)))

    def _counted(self, status: int, result: Admitted | Recorded) -> Answer:
        headers = JSON_HEADERS
        if self._tells_what_is_left:
            headers = [*JSON_HEADERS, *of_usage(result.periods, result.chat)]
        return Answer(status, encode(result), headers)


def _decision(request: Request) -> bool:
    value = query_parameters(request, _CHECK_PARAMETERS).get("decision", "false")
    if value not in ("true", "false"):
        raise InvalidRequest("decision: true and false are allowed", field="decision")
    return value == "true"


def _with_key(record: RecordRequest, request: Request) -> RecordRequest:
    """The record with the Idempotency-Key header as its event id."""
    keys = set(header_values(request, b"idempotency-key"))
    if not keys:
        return record
    if len(keys) > 1:
        raise InvalidRequest(f"{_IDEMPOTENCY_KEY}: is there twice", field=_IDEMPOTENCY_KEY)
    key = keys.pop().decode("latin-1")
    # A structured header says it with quotes, most clients without.
    if len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]
    require_id(key, _IDEMPOTENCY_KEY)
    if record.event_id not in (None, key):
        raise InvalidRequest(f"event_id: differs from {_IDEMPOTENCY_KEY}", field="event_id")
    return msgspec.structs.replace(record, event_id=key)
