"""The OpenAPI document: FastAPI's own, and the operations of the Limiter from their structs.

It must not describe a body by hand: schemas come from the structs, examples are structs.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections import defaultdict
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final, TypeGuard

import msgspec
from msgspec import Struct

from limiter.access import Demand
from limiter.http.answers import JSON_TYPE
from limiter.http.operations import OPERATIONS, Examples, Operation
from limiter.http.problems import (
    CHAT_DENIED_STATUS,
    PERIOD_DENIED_STATUS,
    PROBLEM_TYPE,
    DeniedProblem,
    Problem,
    RefusedProblem,
    problem_of,
)
from limiter.metrics import CONTENT_TYPE as TEXT_TYPE
from limiter.models import Admitted, ChatTreeUsage, Id, Recorded, WorkspaceUsage

DESCRIPTION: Final = (
    "Spend limits for LLM calls. Ask `POST /check` before a call, and tell `POST /record` what it "
    "cost. Amounts are integer micros: millionths of a US dollar. Denials and errors are problems "
    "(RFC 9457) with a stable `code`. Callers present a key, unless the service asks for none."
)

TAGS: Final = [
    {"name": "calls", "description": "What stands before and after every model call."},
    {"name": "configuration", "description": "Limits and rules of workspaces and chats."},
    {"name": "usage", "description": "What is spent and held now."},
    {"name": "health", "description": "For probes and monitoring."},
]

PARAMETERS: Final[dict[str, dict[str, Any]]] = {
    "decision": {
        "name": "decision",
        "in": "query",
        "description": "With `true` a denial has status 200 and the same body, for policy engines.",
        "schema": {"type": "boolean", "default": False},
    },
    "idempotency_key": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "Taken as the `event_id`; may stand in double quotes.",
        "schema": msgspec.json.schema(Id),
    },
}

SECURITY_SCHEMES: Final[dict[str, dict[str, Any]]] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, unless `LIMITER_AUTH` or a loopback address switches keys off.",
    },
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}

_SHOULD_RETRY: Final = {
    "description": "Whether the same request can succeed later.",
    "schema": {"enum": ["true", "false"]},
}
_RETRY_AFTER: Final = {
    "description": "Seconds after which this very call fits, if waiting alone helps.",
    "schema": {"type": "integer", "minimum": 0},
}
_RATE_LIMIT: Final = {
    "RateLimit-Policy": {
        "description": 'The limits in micros, as in the IETF\'s draft: `"hourly";q=…;w=3600`.',
        "schema": {"type": "string"},
    },
    "RateLimit": {
        "description": 'What is left of them: `"hourly";r=…;t=…`.',
        "schema": {"type": "string"},
    },
}
_TELL_WHAT_IS_LEFT: Final = (Admitted, Recorded, WorkspaceUsage, ChatTreeUsage)
_CHALLENGE: Final = {"description": "`Bearer`.", "schema": {"type": "string"}}
_REQUEST_ID: Final = {
    "description": "What the service's log calls the request by: its `X-Request-ID`, if that is 1 "
    "to 64 characters of `A-Z a-z 0-9 . _ -`, or one that was made.",
    "schema": {"type": "string"},
}
_REF: Final = "#/components/schemas/{name}"


def extended(document: dict[str, Any]) -> dict[str, Any]:
    """FastAPI's document with our operations and schemas in it."""
    components = document.get("components", {})
    return {
        **document,
        "paths": {**_paths(), **document["paths"]},
        "components": {
            **components,
            "schemas": {**_schemas(), **components.get("schemas", {})},
            "securitySchemes": SECURITY_SCHEMES,
        },
    }


@functools.cache
def _paths() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for operation in OPERATIONS:
        found[operation.path][operation.method.lower()] = _operation(operation)
    return dict(found)


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "tags": [operation.tag],
        "summary": operation.summary,
        "operationId": operation.operation_id,
        # Any of them. Whether the service asks at all is a setting.
        "security": [
            {name: []} for name in SECURITY_SCHEMES if operation.demand is not Demand.NOTHING
        ],
        "responses": _responses(operation),
    }
    names = re.findall(r"\{(\w+)\}", operation.path)
    schema = msgspec.json.schema(Id)
    parameters = [
        *({"name": name, "in": "path", "required": True, "schema": schema} for name in names),
        *(PARAMETERS[name] for name in operation.parameters),
    ]
    if parameters:
        described["parameters"] = parameters
    if operation.requests:
        described["requestBody"] = {"required": True, "content": _content(operation.requests)}
    return described


def _responses(operation: Operation) -> dict[str, Any]:
    by_status: dict[int, dict[str, Struct]] = {
        status: dict(answers) for status, answers in operation.answers.items()
    }
    for error in operation.errors:
        problem = problem_of(error)
        by_status.setdefault(problem.status, {})[problem.code] = problem
    responses = {str(status): _response(status, by_status[status]) for status in sorted(by_status)}
    if operation.text is not None:
        examples = {"text": {"summary": "text", "value": operation.text}}
        content = {TEXT_TYPE: {"schema": {"type": "string"}, "examples": examples}}
        responses[str(int(HTTPStatus.OK))]["content"] = content
    return responses


def _response(status: int, answers: Examples) -> dict[str, Any]:
    titles = {answer.title for answer in answers.values() if _is_problem(answer, status)}
    described: dict[str, Any] = {
        "description": "; ".join(sorted(titles)) or HTTPStatus(status).phrase
    }
    if titles:
        described["headers"] = {"x-should-retry": _SHOULD_RETRY}
        if status == HTTPStatus.UNAUTHORIZED:
            described["headers"]["WWW-Authenticate"] = _CHALLENGE
        if status in (PERIOD_DENIED_STATUS, CHAT_DENIED_STATUS):
            described["headers"] |= {"Retry-After": _RETRY_AFTER, **_RATE_LIMIT}
    elif any(isinstance(answer, _TELL_WHAT_IS_LEFT) for answer in answers.values()):
        described["headers"] = dict(_RATE_LIMIT)
    if status >= HTTPStatus.BAD_REQUEST:
        described.setdefault("headers", {})["x-request-id"] = _REQUEST_ID
    if answers:
        described["content"] = _content(answers, status)
    return described


def _is_problem(
    body: Struct, status: int | None
) -> TypeGuard[Problem | DeniedProblem | RefusedProblem]:
    # A denial that was asked for as a decision has status 200 and is a plain answer.
    is_failure = status is not None and status >= HTTPStatus.BAD_REQUEST
    return is_failure and isinstance(body, (Problem, DeniedProblem, RefusedProblem))


def _content(bodies: Examples, status: int | None = None) -> dict[str, Any]:
    """The media types of some bodies, each with its schema and its examples."""
    by_media_type: dict[str, dict[str, Struct]] = defaultdict(dict)
    for name, body in bodies.items():
        media_type = PROBLEM_TYPE if _is_problem(body, status) else JSON_TYPE
        by_media_type[media_type][name] = body
    return {
        media_type: {
            "schema": _any_of({type(body) for body in group.values()}),
            "examples": {
                name: {"summary": name, "value": msgspec.to_builtins(body)}
                for name, body in group.items()
            },
        }
        for media_type, group in by_media_type.items()
    }


def _any_of(types: Iterable[type[Struct]]) -> dict[str, Any]:
    refs = [{"$ref": _REF.format(name=name)} for name in sorted(t.__name__ for t in types)]
    return refs[0] if len(refs) == 1 else {"anyOf": refs}


@functools.cache
def _schemas() -> dict[str, Any]:
    requests = {type(body) for op in OPERATIONS for body in op.requests.values()}
    answers = {
        type(body) for op in OPERATIONS for group in op.answers.values() for body in group.values()
    }
    _, taken = msgspec.json.schema_components(requests, ref_template=_REF)
    _, given = msgspec.json.schema_components([*answers, Problem], ref_template=_REF)
    for schema in given.values():
        # An answer leaves out nothing but what is unset, which has no default in the schema.
        schema["required"] = [
            name
            for name, property_ in schema["properties"].items()
            if name in schema.get("required", ()) or "default" in property_
        ]
    schemas = {**taken, **given}
    for schema in schemas.values():
        schema["description"] = inspect.cleandoc(schema.get("description", schema["title"]))
    return dict(sorted(schemas.items()))
