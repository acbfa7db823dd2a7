"""One model call: what to ask before it, and what to tell after it, on every way out.

Sync and async clients share it. It must not send anything and never waits.

    new ─→ admitted ─→ ended          by a record or a release, once
       └─→ blocked                    CallDenied, CallRefused, or the error of the check
"""

from __future__ import annotations

import logging
from typing import Literal

import msgspec

from limiter import ids
from limiter.client.errors import CallDenied, CallRefused
from limiter.client.exchanges import built
from limiter.errors import InvalidRequest, LimiterError, ReservationNotFound, Unavailable
from limiter.models import (
    Admitted,
    CheckRequest,
    Denied,
    EstimateUsage,
    OutagePolicy,
    Recorded,
    RecordRequest,
    RecordUsage,
    Refused,
    Released,
    ReleaseRequest,
)

logger = logging.getLogger(__name__)

OnError = Literal["release", "charge_estimate"]
Ending = RecordRequest | ReleaseRequest


def check_of_call(
    workspace_id: str,
    chat_id: str | None,
    estimate_micros: int | None,
    *,
    usage: EstimateUsage | None,
    parent_chat_id: str | None,
    spend_limit_micros: int | None,
    hold_ms: int | None,
) -> CheckRequest:
    """The check of a new call. Raises InvalidRequest, naming the field."""
    return built(
        CheckRequest,
        workspace_id=workspace_id,
        chat_id=chat_id,
        estimate_micros=estimate_micros,
        usage=usage,
        parent_chat_id=parent_chat_id,
        spend_limit_micros=spend_limit_micros,
        hold_ms=hold_ms,
    )


class CallState:
    """One model call. Say what it used while it runs; leaving the `with` block tells the limiter.

    What was said last counts, so a stream can report its usage as it grows: when it breaks, what
    was said until then is recorded.
    """

    def __init__(
        self, check: CheckRequest, *, on_error: OnError, outage_policy: OutagePolicy
    ) -> None:
        self._reservation_id = check.reservation_id or ids.new_id()
        self._check = msgspec.structs.replace(check, reservation_id=self._reservation_id)
        self._on_error = on_error
        self._outage_policy = outage_policy
        self._has_begun = False
        self._has_ended = False
        self._admitted: Admitted | None = None
        self._cost_micros: int | None = None
        self._usage: RecordUsage | None = None
        self._settled: Recorded | Released | None = None
        self._unconfirmed: Ending | None = None

    # ------------------------------------------------------------------ for the caller

    @property
    def reservation_id(self) -> str:
        """The id of the hold, and of the record as well."""
        return self._reservation_id

    @property
    def admitted(self) -> Admitted:
        """What the check said: the hold, and what each limit has left."""
        if self._admitted is None:
            raise RuntimeError("the call has not been admitted")
        return self._admitted

    @property
    def degraded(self) -> bool:
        """Whether it was let pass without a look at the limits, because of an outage."""
        return self.admitted.degraded

    @property
    def settled(self) -> Recorded | Released | None:
        """What came of it, once the block is left. None: nothing was held or spent, or nobody
        has confirmed it.
        """
        return self._settled

    @property
    def unconfirmed(self) -> Ending | None:
        """What nobody has confirmed, once the block is left. It may be sent again at any time:
        its id lets it take effect once.
        """
        return self._unconfirmed

    def usage(
        self,
        *,
        input_tokens: int = 0,
        output_tokens: int = 0,
        cache_read_tokens: int = 0,
        cache_write_tokens: int = 0,
        model: str | None = None,
        provider: str | None = None,
    ) -> None:
        """What the call has used so far. `input_tokens` includes the cache tokens.

        Model and provider are those of the estimate unless they are given. Raises InvalidRequest.
        """
        self._must_run()
        if model is None and self._check.usage is not None:
            model, provider = self._check.usage.model, provider or self._check.usage.provider
        if model is None:
            raise InvalidRequest("model: is needed, as the estimate names none", field="model")
        self._usage = built(
            RecordUsage,
            model=model,
            provider=provider,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cache_read_tokens=cache_read_tokens,
            cache_write_tokens=cache_write_tokens,
        )
        self._cost_micros = None

    def cost(self, cost_micros: int) -> None:
        """What the call has cost so far, in micros, where that is known. Raises InvalidRequest."""
        self._must_run()
        built(RecordRequest, workspace_id=self._check.workspace_id, cost_micros=cost_micros)
        self._cost_micros, self._usage = cost_micros, None

    def not_billed(self) -> None:
        """The provider bills nothing: it refused the call, or the call never reached it.

        What is held is given back, whatever `on_error` says.
        """
        self._must_run()
        self._cost_micros, self._usage = None, None
        self._on_error = "release"

    def _must_run(self) -> None:
        if self._admitted is None or self._has_ended:
            raise RuntimeError("what a call used is said inside of its block")

    # ------------------------------------------------------------------ for the clients

    def begin(self) -> CheckRequest:
        """The check to ask. A call is made once."""
        if self._has_begun:
            raise RuntimeError("a call is made once: get another from the client")
        self._has_begun = True
        return self._check

    def admit(self, answer: Admitted | Denied | Refused) -> None:
        """Takes the answer to the check. Raises CallDenied, CallRefused."""
        if isinstance(answer, Denied):
            raise CallDenied(answer)
        if isinstance(answer, Refused):
            raise CallRefused
        self._admitted = answer

    def without_answer(self, error: Unavailable) -> None:
        """Nobody answered the check: goes on or raises, by policy."""
        if self._outage_policy == "deny":
            raise error
        logger.warning("a call is made without a check: %s", error)
        self.assume_held()

    def assume_held(self) -> None:
        """The check may have arrived and hold, but its answer has not come."""
        self._admitted = Admitted(degraded=True, reservation=None, periods={}, chat=None)

    def ending(self, *, has_run: bool) -> Ending | None:
        """What to tell at the end. None: nothing was held, and nothing spent.

        `has_run`: whether the body was entered; if not, nothing can have been spent.
        """
        self._has_ended = True
        admitted, check = self.admitted, self._check
        # A check that an outage left without an answer may have placed one.
        may_hold = admitted.reservation is not None or admitted.degraded
        is_reported = self._usage is not None or self._cost_micros is not None
        if has_run and not is_reported and self._on_error == "charge_estimate":
            is_reported = self._take_estimate(admitted)
        if is_reported:
            # A record that names a reservation where none was made would be called late.
            return RecordRequest(
                workspace_id=check.workspace_id,
                chat_id=check.chat_id,
                parent_chat_id=check.parent_chat_id,
                spend_limit_micros=check.spend_limit_micros,
                reservation_id=check.reservation_id if may_hold else None,
                event_id=None if may_hold else check.reservation_id,
                cost_micros=self._cost_micros,
                usage=self._usage,
            )
        if may_hold:
            return ReleaseRequest(
                workspace_id=check.workspace_id, reservation_id=self._reservation_id
            )
        return None

    def _take_estimate(self, admitted: Admitted) -> bool:
        """Takes what was held as the cost; after an outage, what would have been."""
        estimate = self._check.usage
        if admitted.reservation is not None:
            self._cost_micros = admitted.reservation.held_micros
        elif estimate is not None and admitted.degraded:
            self._usage = RecordUsage(
                model=estimate.model,
                provider=estimate.provider,
                input_tokens=estimate.input_tokens,
                output_tokens=estimate.max_output_tokens,
            )
        else:
            self._cost_micros = self._check.estimate_micros or None
        return self._usage is not None or self._cost_micros is not None

    def ended(self, answer: Recorded | Released) -> None:
        self._settled = answer

    def not_confirmed(
        self, ending: Ending, error: LimiterError, body_error: BaseException | None
    ) -> None:
        """The end could not be told. Raises `error` where it is the caller's to know.

        The body's own exception is never replaced, and after an outage that policy lets pass, the
        answer that the model gave is not thrown away.
        """
        if isinstance(error, ReservationNotFound) and self.degraded:
            return  # Nothing was held: the check had not arrived.
        self._unconfirmed = ending
        by_policy = self._outage_policy == "allow" and isinstance(error, Unavailable)
        if body_error is None and not by_policy:
            raise error
        sentence = f"the end of call {self._reservation_id} is not confirmed: {error}"
        logger.error("%s", sentence)
        if body_error is not None:
            body_error.add_note(sentence)
