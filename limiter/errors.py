"""Everything the limiter raises, and nothing else: no HTTP, no Redis, no SQL.

A denial is not here: it is an expected outcome and comes back as a value (`models.Denied`).

    LimiterError
    ├── InvalidRequest            bad input; names the field
    │   └── CounterOverflow       the charge would pass 2^53 - 1 micros
    ├── NotFound
    │   ├── WorkspaceNotFound
    │   ├── ChatNotFound
    │   ├── ReservationNotFound
    │   └── KeyNotFound
    ├── AccessDenied
    │   ├── Unauthenticated       no key, or one that is not valid
    │   └── Forbidden             a valid key that may not do this
    ├── Conflict                  well-formed, but contradicts what is already there
    │   ├── IdReused              same id, other payload
    │   ├── ReservationSettled    a check names a reservation that is no longer held
    │   ├── ReservationChatMismatch
    │   ├── ChatParentUnknown
    │   ├── ChatParentImmutable
    │   ├── ChatCycle
    │   ├── ChatTooDeep
    │   └── ModelUnpriced         no price for the model, and policy says deny
    ├── Unavailable               cannot be answered now; retry later
    │   ├── RedisUnavailable
    │   ├── StoreUnavailable
    │   └── NotInForceYet         a change of limits is stored, and Redis has not heard of it
    ├── ScriptError               a script failed: a bug or a foreign write; names file and line
    └── StartupError              the service must not start; says why and what mends it

Every class carries a stable `code`; HTTP statuses are mapped in one place, `http/problems.py`.
"""

from __future__ import annotations

from typing import ClassVar


class LimiterError(Exception):
    """Base of all errors of this package. `str(error)` is safe to show to a caller."""

    code: ClassVar[str] = "limiter_error"


class InvalidRequest(LimiterError):
    """A field is missing, malformed or out of range. Nothing was read or written."""

    code = "invalid_request"

    def __init__(self, detail: str, *, field: str | None = None) -> None:
        super().__init__(detail)
        self.field = field


class CounterOverflow(InvalidRequest):
    """A counter would leave the range in which every part of the system is exact."""

    code = "counter_overflow"


class NotFound(LimiterError):
    """What the request names does not exist."""

    code = "not_found"


class WorkspaceNotFound(NotFound):
    code = "workspace_not_found"

    def __init__(self, workspace_id: str) -> None:
        super().__init__(f"workspace {workspace_id!r} does not exist")
        self.workspace_id = workspace_id


class ChatNotFound(NotFound):
    code = "chat_not_found"

    def __init__(self, chat_id: str) -> None:
        super().__init__(f"chat {chat_id!r} does not exist")
        self.chat_id = chat_id


class ReservationNotFound(NotFound):
    """Never held in this workspace, or settled longer ago than ids are remembered."""

    code = "reservation_not_found"

    def __init__(self, reservation_id: str) -> None:
        super().__init__(f"reservation {reservation_id!r} is not known")
        self.reservation_id = reservation_id


class KeyNotFound(NotFound):
    code = "key_not_found"

    def __init__(self, key_id: str) -> None:
        super().__init__(f"there is no key {key_id!r}")
        self.key_id = key_id


class AccessDenied(LimiterError):
    """The caller may not do this. Nothing was looked up for it."""

    code = "access_denied"


class Unauthenticated(AccessDenied):
    """There is no key, or more than one, or it is not valid: malformed, wrong, unknown, revoked."""

    code = "unauthenticated"


class Forbidden(AccessDenied):
    """The key is valid, and its role or its workspace is another one than this takes."""

    code = "forbidden"


class Conflict(LimiterError):
    """The request contradicts what is already there. Nothing was changed."""

    code = "conflict"


class IdReused(Conflict):
    """The same id came with another payload."""

    code = "id_reused"

    def __init__(self, field: str, value: str) -> None:
        super().__init__(f"{field} {value!r} was already used with another payload")
        self.field = field


class ReservationSettled(Conflict):
    """A check names a reservation that was recorded, released or has expired."""

    code = "reservation_settled"

    def __init__(self, reservation_id: str, state: str) -> None:
        super().__init__(f"reservation {reservation_id!r} is already {state}")
        self.state = state


class ReservationChatMismatch(Conflict):
    """A record names another chat than the one that its reservation was made for."""

    code = "reservation_chat_mismatch"

    def __init__(self, reservation_id: str) -> None:
        super().__init__(f"reservation {reservation_id!r} was made for another chat")


class ChatParentUnknown(Conflict):
    code = "chat_parent_unknown"

    def __init__(self, parent_chat_id: str) -> None:
        super().__init__(f"parent chat {parent_chat_id!r} does not exist")


class ChatParentImmutable(Conflict):
    code = "chat_parent_immutable"

    def __init__(self, chat_id: str) -> None:
        super().__init__(f"chat {chat_id!r} already exists with another parent")


class ChatCycle(Conflict):
    code = "chat_cycle"

    def __init__(self, chat_id: str) -> None:
        super().__init__(f"chat {chat_id!r} cannot be its own ancestor")


class ChatTooDeep(Conflict):
    code = "chat_too_deep"

    def __init__(self, chat_id: str, depth_max: int) -> None:
        super().__init__(f"chat {chat_id!r} would be more than {depth_max} levels deep")


class ModelUnpriced(Conflict):
    """The model has no price. Send `cost_micros`, or configure a ceiling or `free`."""

    code = "model_unpriced"

    def __init__(self, model: str) -> None:
        super().__init__(f"model {model!r} has no known price")
        self.model = model


class Unavailable(LimiterError):
    """Cannot be answered now. Whether the request took effect may be unknown."""

    code = "unavailable"


class RedisUnavailable(Unavailable):
    code = "redis_unavailable"


class StoreUnavailable(Unavailable):
    code = "store_unavailable"


class NotInForceYet(Unavailable):
    """A change of limits is stored, and calls still meet the old ones: Redis is away.

    A running service brings it into force as soon as Redis is back. Repeating it is harmless.
    """

    code = "not_in_force_yet"

    def __init__(self) -> None:
        super().__init__("the change is stored, and comes into force by itself once Redis is back")


class ScriptError(LimiterError):
    """A script failed. The message names the source file and line of the failing piece."""

    code = "script_error"


class StartupError(LimiterError):
    """The service must not start like this."""

    code = "startup"
