"""What every route takes and gives, status by status: the table that OpenAPI is made of.

It documents. What happens is in the handlers, and the tests hold every answer against this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from msgspec import Struct

from limiter.access import Demand
from limiter.errors import (
    ChatCycle,
    ChatNotFound,
    ChatParentImmutable,
    ChatParentUnknown,
    ChatTooDeep,
    CounterOverflow,
    Forbidden,
    IdReused,
    InvalidRequest,
    ModelUnpriced,
    NotInForceYet,
    RedisUnavailable,
    ReservationChatMismatch,
    ReservationNotFound,
    ReservationSettled,
    ScriptError,
    StoreUnavailable,
    Unauthenticated,
    WorkspaceNotFound,
)
from limiter.http import examples, paths
from limiter.http.bodies import BodyTooLarge, BodyTooSlow, UnsupportedMediaType
from limiter.http.routes import Liveness
from limiter.models import DEPTH_MAX

Examples = Mapping[str, Struct]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path. The types of the examples are the types of the bodies."""

    method: Literal["GET", "PUT", "PATCH", "POST", "DELETE"]
    path: str
    operation_id: str
    tag: Literal["calls", "configuration", "usage", "health"]
    summary: str
    # What its handler declares, which a test compares.
    demand: Demand
    requests: Examples = field(default_factory=dict)
    # By status. An answer without examples has no body, unless `text` is one.
    answers: Mapping[int, Examples]
    # An example of the text that is answered with status 200.
    text: str | None = None
    # One of each class, as an example of its problem.
    errors: tuple[Exception, ...] = ()
    # Names of `openapi.PARAMETERS`; those of the path are added by themselves.
    parameters: tuple[str, ...] = ()


_BAD_PATH: Final = (
    InvalidRequest(
        "workspace_id: 1 to 128 characters of A-Z a-z 0-9 . _ @ - are allowed",
        field="workspace_id",
    ),
)
_BAD_BODY: Final = (
    InvalidRequest("estimate_micros: expected `int` >= 0", field="estimate_micros"),
    BodyTooSlow(5_000),
    BodyTooLarge(65_536),
    UnsupportedMediaType("the content-type must be application/json"),
)
_NO_ACCESS: Final = (
    Unauthenticated("the key is not valid"),
    Forbidden("the key is bound to another workspace"),
)
_BAD_CONFIG: Final = (
    InvalidRequest("budget_limits: no such period: 'yearly'", field="budget_limits"),
    *_BAD_BODY[1:],
)
_BAD_CHAT_CONFIG: Final = (
    InvalidRequest("spend_limit_micros: expected `int` >= 1", field="spend_limit_micros"),
    *_BAD_BODY[1:],
)
_OUR_FAULT: Final = (
    ScriptError("check.lua, line 41: wrong number of arguments"),
    Exception(),
)
_NO_REDIS: Final = RedisUnavailable("Redis did not answer in time")
_STORED_ONLY: Final = NotInForceYet()
_NO_STORE: Final = StoreUnavailable("the durable store did not answer in time")
_NO_WORKSPACE: Final = WorkspaceNotFound("acme")
_NO_CHAT: Final = ChatNotFound("c2")
_BAD_CHAT: Final = (
    ChatParentUnknown("c1"),
    ChatParentImmutable("c2"),
    ChatCycle("c2"),
    ChatTooDeep("c2", DEPTH_MAX),
)
_READING: Final = (*_BAD_PATH, *_NO_ACCESS, _NO_WORKSPACE, *_OUR_FAULT, _NO_REDIS, _NO_STORE)

OPERATIONS: Final = (
    Operation(
        method="POST",
        path=paths.CHECK,
        operation_id="check",
        tag="calls",
        summary="May this call be made? Holds its estimate if it may.",
        demand=Demand.CALLER,
        requests=examples.CHECKS,
        answers={
            200: {**examples.ADMITTED, **examples.DECISIONS},
            402: examples.DENIED_BY_PERIOD,
            409: examples.DENIED_BY_CHAT,
            503: examples.REFUSED,
        },
        errors=(
            *_BAD_BODY,
            *_NO_ACCESS,
            _NO_WORKSPACE,
            IdReused("reservation_id", "call-8f14e45f"),
            ReservationSettled("call-8f14e45f", "recorded"),
            ModelUnpriced("my-model"),
            *_BAD_CHAT,
            *_OUR_FAULT,
            _NO_STORE,
        ),
        parameters=("decision",),
    ),
    Operation(
        method="POST",
        path=paths.RECORD,
        operation_id="record",
        tag="calls",
        summary="Charge what a call cost, once per id, and settle its reservation.",
        demand=Demand.CALLER,
        requests=examples.RECORDS,
        answers={200: examples.RECORDED, 202: examples.QUEUED},
        errors=(
            *_BAD_BODY,
            *_NO_ACCESS,
            CounterOverflow("the charge would take a counter past 2^53 - 1 micros"),
            _NO_WORKSPACE,
            IdReused("event_id", "call-8f14e45f"),
            ReservationChatMismatch("call-8f14e45f"),
            ModelUnpriced("my-model"),
            *_BAD_CHAT,
            *_OUR_FAULT,
            _NO_REDIS,
            _NO_STORE,
        ),
        parameters=("idempotency_key",),
    ),
    Operation(
        method="POST",
        path=paths.RELEASE,
        operation_id="release",
        tag="calls",
        summary="Give a hold back. Harmless to repeat.",
        demand=Demand.CALLER,
        requests=examples.RELEASES,
        answers={200: examples.RELEASED},
        errors=(
            *_BAD_BODY,
            *_NO_ACCESS,
            _NO_WORKSPACE,
            ReservationNotFound("call-8f14e45f"),
            *_OUR_FAULT,
            _NO_REDIS,
            _NO_STORE,
        ),
    ),
    Operation(
        method="GET",
        path=paths.WORKSPACE_CONFIG,
        operation_id="get_workspace_config",
        tag="configuration",
        summary="A workspace's limits and rules.",
        demand=Demand.ADMIN,
        answers={200: examples.WORKSPACE_CONFIGS},
        errors=_READING,
    ),
    Operation(
        method="PATCH",
        path=paths.WORKSPACE_CONFIG,
        operation_id="patch_workspace_config",
        tag="configuration",
        summary="Change what the body names, and nothing else. Creates the workspace if need be.",
        demand=Demand.ADMIN,
        requests=examples.WORKSPACE_PATCHES,
        answers={200: examples.WORKSPACE_CONFIGS},
        errors=(*_BAD_CONFIG, *_NO_ACCESS, *_OUR_FAULT, _STORED_ONLY, _NO_STORE),
    ),
    Operation(
        method="PUT",
        path=paths.WORKSPACE_CONFIG,
        operation_id="put_workspace_config",
        tag="configuration",
        summary="Set everything: what the body does not name goes back to the service's defaults.",
        demand=Demand.ADMIN,
        requests=examples.WORKSPACE_PATCHES,
        answers={200: examples.WORKSPACE_CONFIGS},
        errors=(*_BAD_CONFIG, *_NO_ACCESS, *_OUR_FAULT, _STORED_ONLY, _NO_STORE),
    ),
    Operation(
        method="GET",
        path=paths.CHAT_CONFIG,
        operation_id="get_chat_config",
        tag="configuration",
        summary="A chat's place in its tree, and its limit.",
        demand=Demand.ADMIN,
        answers={200: examples.CHAT_CONFIGS},
        errors=(*_READING, _NO_CHAT),
    ),
    Operation(
        method="PATCH",
        path=paths.CHAT_CONFIG,
        operation_id="patch_chat_config",
        tag="configuration",
        summary="Create a chat, or change what the body names. A parent never changes.",
        demand=Demand.ADMIN,
        requests=examples.CHAT_PATCHES,
        answers={200: examples.CHAT_CONFIGS},
        errors=(
            *_BAD_CHAT_CONFIG,
            *_NO_ACCESS,
            _NO_WORKSPACE,
            *_BAD_CHAT,
            *_OUR_FAULT,
            _NO_REDIS,
            _STORED_ONLY,
            _NO_STORE,
        ),
    ),
    Operation(
        method="PUT",
        path=paths.CHAT_CONFIG,
        operation_id="put_chat_config",
        tag="configuration",
        summary="Create a chat, or set its limit: none, if the body names none.",
        demand=Demand.ADMIN,
        requests=examples.CHAT_PATCHES,
        answers={200: examples.CHAT_CONFIGS},
        errors=(
            *_BAD_CHAT_CONFIG,
            *_NO_ACCESS,
            _NO_WORKSPACE,
            *_BAD_CHAT,
            *_OUR_FAULT,
            _NO_REDIS,
            _STORED_ONLY,
            _NO_STORE,
        ),
    ),
    Operation(
        method="DELETE",
        path=paths.CHAT_CONFIG,
        operation_id="delete_chat_config",
        tag="configuration",
        summary="Remove a chat's limit. Its spend and its place in the tree stay.",
        demand=Demand.ADMIN,
        answers={204: {}},
        errors=(*_READING, _NO_CHAT, _STORED_ONLY),
    ),
    Operation(
        method="GET",
        path=paths.WORKSPACE_USAGE,
        operation_id="get_workspace_usage",
        tag="usage",
        summary="Every window of a workspace now: limit, spent, held, remaining.",
        demand=Demand.CALLER,
        answers={200: examples.WORKSPACE_USAGES},
        errors=_READING,
    ),
    Operation(
        method="GET",
        path=paths.CHAT_USAGE,
        operation_id="get_chat_usage",
        tag="usage",
        summary="A chat's own spend and its subtree's, its ancestors and its children.",
        demand=Demand.CALLER,
        answers={200: examples.CHAT_USAGES},
        errors=(*_READING, _NO_CHAT),
    ),
    Operation(
        method="GET",
        path=paths.HEALTH,
        operation_id="healthz",
        tag="health",
        summary="Does the process live? Looks at nothing else.",
        demand=Demand.NOTHING,
        answers={200: {"alive": Liveness()}},
    ),
    Operation(
        method="GET",
        path=paths.READINESS,
        operation_id="readyz",
        tag="health",
        summary="Can the service do its work now? Asks Redis and the durable store.",
        demand=Demand.NOTHING,
        answers={200: examples.READY, 503: examples.NOT_READY},
        errors=_OUR_FAULT,
    ),
    Operation(
        method="GET",
        path=paths.METRICS,
        operation_id="metrics",
        tag="health",
        summary="What all workers have counted, in Prometheus' text format.",
        demand=Demand.MONITOR,
        answers={200: {}},
        text=examples.METRICS,
        errors=(*_NO_ACCESS, *_OUR_FAULT, _NO_STORE),
    ),
)
