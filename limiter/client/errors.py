"""What a client raises on top of `limiter.errors`, and nothing else: no HTTP, no repeats.

    LimiterError
    ├── CallBlocked               the call must not be made
    │   ├── CallDenied            limits bind; has all of them
    │   └── CallRefused           the service's Redis is away, and its policy is to deny
    ├── Unavailable
    │   └── NoAnswer              nobody answered in time
    └── UnexpectedAnswer          an answer that the API does not have

Everything else is what the Limiter raises: `limiter.errors` has one class for each code.
"""

from __future__ import annotations

from limiter.errors import LimiterError, Unavailable
from limiter.models import Denied, Reason, Scope, Violation
from limiter.money import format_dollars


class CallBlocked(LimiterError):
    """The call must not be made. Nothing is held for it, and its body has not run."""

    code = "call_blocked"


class CallDenied(CallBlocked):
    """Limits bind. `denied` is the whole answer; asking again at once is of no use.

    `violations` has every limit that binds, `retry_after_ms` says when this very call fits:
    None when waiting alone never helps.
    """

    code = "call_denied"

    def __init__(self, denied: Denied) -> None:
        super().__init__(_sentence(denied))
        self.denied = denied

    @property
    def violations(self) -> list[Violation]:
        return self.denied.violations

    @property
    def reason(self) -> Reason:
        return self.denied.reason

    @property
    def scope(self) -> Scope:
        return self.denied.scope

    @property
    def retry_after_ms(self) -> int | None:
        return self.denied.retry_after_ms


class CallRefused(CallBlocked):
    """No limit was looked at: the service cannot reach its Redis, and its policy is to deny."""

    code = "call_refused"

    def __init__(self) -> None:
        super().__init__("the limiter cannot reach its Redis, and its policy for that is to deny")


class NoAnswer(Unavailable):
    """Nobody answered in time. Whether the request took effect is unknown.

    A request that carries an id can be sent again at any time. One whose caller gave it none was
    repeated under an id of the client's while there was time, and must not be sent anew.
    """

    code = "no_answer"


class UnexpectedAnswer(LimiterError):
    """Something answered that is not the service, or is another version of it.

    `status` is HTTP's; `told` the code of the problem, if the body has one.
    """

    code = "unexpected_answer"

    def __init__(self, detail: str, *, status: int, told: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.told = told


def _sentence(denied: Denied) -> str:
    """Every limit that binds, in dollars, and when the call fits."""
    words = "; ".join(_clause(violation) for violation in denied.violations)
    fits = "" if denied.resets_at is None else f"; it fits from {denied.resets_at} on"
    return f"a call of {format_dollars(denied.estimate_micros)} is denied: {words}{fits}"


def _clause(violation: Violation) -> str:
    whose = violation.period if violation.chat_id is None else f"chat {violation.chat_id}"
    limit, spent, held = (
        format_dollars(micros)
        for micros in (violation.limit_micros, violation.spent_micros, violation.held_micros)
    )
    return f"{whose} limit {limit}, spent {spent}, held {held} ({violation.reason})"
