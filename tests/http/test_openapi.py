"""The OpenAPI document: valid, complete, and its examples are what the service takes and gives."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from fastapi import FastAPI
from msgspec import Struct
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from prometheus_client.parser import text_string_to_metric_families
from starlette.routing import Route

from limiter import models
from limiter.errors import LimiterError
from limiter.http import problems, routes
from limiter.http.bodies import RequestError
from limiter.http.operations import OPERATIONS
from limiter.http.problems import PROBLEM_TYPE
from limiter.metrics import Metrics
from tests.http.support import BODIES, ROUTES, ToldLimiter, app_of, client_of

STRUCTS: dict[str, type[Struct]] = {
    name: struct
    for module in (models, problems, routes)
    for name, struct in vars(module).items()
    if isinstance(struct, type) and issubclass(struct, Struct) and not name.startswith("_")
}


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return app_of(ToldLimiter())


@pytest.fixture(scope="module")
def document(app: FastAPI) -> dict[str, Any]:
    return app.openapi()


def contents(document: dict[str, Any]) -> Iterator[tuple[str, int | None, str, dict[str, Any]]]:
    """Every JSON body there is: (where, status or None for a request, media type, content)."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
                yield f"{method} {path}", None, media_type, content
            for status, response in operation["responses"].items():
                for media_type, content in response.get("content", {}).items():
                    if (method, path) == ("get", "/metrics"):
                        continue
                    yield f"{method} {path} {status}", int(status), media_type, content


def values(content: dict[str, Any]) -> list[dict[str, Any]]:
    return [example["value"] for example in content["examples"].values()]


def types_of(schema: dict[str, Any]) -> list[type[Struct]]:
    refs = [each["$ref"] for each in schema.get("anyOf", [schema])]
    return [STRUCTS[ref.removeprefix("#/components/schemas/")] for ref in refs]


def test_the_document_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    assert re.fullmatch(r"3\.1\.\d+", document["openapi"])
    OpenAPIV31SpecValidator(document).validate()


def test_every_route_is_in_the_document_and_nothing_else(
    app: FastAPI, document: dict[str, Any]
) -> None:
    served = {
        (method, route.path)
        for route in app.routes
        if isinstance(route, Route) and route.path not in ("/docs", "/openapi.json")
        for method in route.methods or ()
        if method != "HEAD"
    }
    documented = {
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method in operations
    }
    assert documented == served == set(ROUTES)
    assert len(ROUTES) == len(OPERATIONS)


def test_every_route_has_an_example_for_every_body(document: dict[str, Any]) -> None:
    seen = list(contents(document))
    assert [where for where, _, _, content in seen if not content["examples"]] == []
    with_request = {where for where, status, _, _ in seen if status is None}
    assert with_request == {f"{method.lower()} {path}" for method, path in BODIES}


def test_examples_are_what_the_structs_take_and_give(document: dict[str, Any]) -> None:
    count = 0
    for where, _, _, content in contents(document):
        for name, example in content["examples"].items():
            encoded = msgspec.json.encode(example["value"])
            decoded = []
            for struct in types_of(content["schema"]):
                try:
                    decoded.append(msgspec.json.decode(encoded, type=struct))
                except msgspec.ValidationError:
                    continue
            assert decoded, f"{where}: {name}: fits no struct"
            assert any(msgspec.to_builtins(each) == example["value"] for each in decoded)
            count += 1
    assert count > 100


def test_examples_fit_their_schemas(document: dict[str, Any]) -> None:
    for _, _, _, content in contents(document):
        schema = {**content["schema"], "components": document["components"]}
        validator = OAS31Validator(schema)
        for example in content["examples"].values():
            validator.validate(example["value"])


def test_requests_with_a_slip_do_not_fit_their_schemas(document: dict[str, Any]) -> None:
    for _, status, _, content in contents(document):
        if status is None:
            schema = {**content["schema"], "components": document["components"]}
            for example in content["examples"].values():
                assert not OAS31Validator(schema).is_valid({**example["value"], "misspelt": 1})


def test_the_one_text_has_an_example_of_its_format(document: dict[str, Any]) -> None:
    (media_type, content), *others = document["paths"]["/metrics"]["get"]["responses"]["200"][
        "content"
    ].items()
    assert (media_type, others) == ("text/plain; version=0.0.4; charset=utf-8", [])
    assert content["schema"] == {"type": "string"}
    (example,) = content["examples"].values()
    (family,) = text_string_to_metric_families(example["value"])
    assert family.name in {told.name for told in Metrics().collect()}


def test_problems_are_problems_and_name_their_status(document: dict[str, Any]) -> None:
    for where, status, media_type, content in contents(document):
        assert media_type in ("application/json", PROBLEM_TYPE)
        for example in content["examples"].values():
            if media_type == PROBLEM_TYPE:
                assert example["value"]["status"] == status, where
            elif status is not None and status != 200:
                assert "type" not in example["value"], where


def test_every_denial_has_an_example(document: dict[str, Any]) -> None:
    responses = document["paths"]["/check"]["post"]["responses"]
    examples = {
        status: [
            each["value"]
            for each in responses[status]["content"][PROBLEM_TYPE]["examples"].values()
        ]
        for status in ("402", "409", "503")
    }
    reasons = {each["reason"] for each in examples["402"]}
    assert reasons == {"limit_exceeded", "blocked", "estimate_exceeds_limit"}
    assert any(len(each["exceeded_periods"]) > 1 for each in examples["402"])
    assert all(each["scope"] == "account_period" for each in examples["402"])
    assert all(each["scope"] == "chat_lifetime" for each in examples["409"])
    assert all(each["resets_at"] is None for each in examples["409"])
    refused = [each for each in examples["503"] if each.get("degraded")]
    assert [each["code"] for each in refused] == ["redis_unavailable"]
    decisions = values(responses["200"]["content"]["application/json"])
    for example in (*examples["402"], *examples["409"], *refused):
        assert example in decisions


def test_every_error_that_a_route_documents_is_in_its_responses(document: dict[str, Any]) -> None:
    for operation in OPERATIONS:
        responses = document["paths"][operation.path][operation.method.lower()]["responses"]
        codes = {
            example["value"]["code"]
            for response in responses.values()
            for media_type, content in response.get("content", {}).items()
            if media_type == PROBLEM_TYPE
            for example in content["examples"].values()
        }
        for error in operation.errors:
            if isinstance(error, (LimiterError, RequestError)):
                assert error.code in codes
        assert set(operation.answers) <= {int(status) for status in responses}


def test_parameters_are_named(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for operation in operations.values():
            found = {(each["in"], each["name"]) for each in operation.get("parameters", ())}
            assert {name for where, name in found if where == "path"} == set(
                re.findall(r"\{(\w+)\}", path)
            )
    check = document["paths"]["/check"]["post"]["parameters"]
    record = document["paths"]["/record"]["post"]["parameters"]
    assert [each["name"] for each in check] == ["decision"]
    assert [each["name"] for each in record] == ["Idempotency-Key"]


def test_answers_promise_all_that_they_carry(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert set(schemas["Admitted"]["required"]) == set(schemas["Admitted"]["properties"])
    assert set(schemas["DeniedProblem"]["required"]) == set(schemas["DeniedProblem"]["properties"])
    optional = set(schemas["PeriodUsage"]["properties"]) - set(schemas["PeriodUsage"]["required"])
    assert optional == {"resets_at"}
    assert schemas["CheckRequest"]["required"] == ["workspace_id"]


async def test_it_is_served() -> None:
    async with client_of(ToldLimiter()) as client:
        document = await client.get("/openapi.json")
    assert document.json()["info"]["title"] == "llm-spend-limiter"
    assert document.json() == msgspec.to_builtins(app_of(ToldLimiter()).openapi())
