"""Whatever the OpenAPI document lets a caller send, and what it does not, on every route.

Nothing is a 5xx, every answer is one that the document has, what does not fit it is refused, and
with keys nothing passes without one. The examples are the same in every run; with the profile
`deep` they are new ones, and many more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from limiter.durable import Storage
from tests.http.support import ToldLimiter, app_of
from tests.support.api_keys import MadeKey, added_key
from tests.support.service import Service, running_service

SCHEMA = schemathesis.openapi.from_dict(app_of(ToldLimiter()).openapi())
# Above what a loaded machine takes for any call: it is not the deadlines that are tested here.
PATIENT = {"redis_deadline_ms": 30_000, "redis_connect_ms": 30_000}
# Of each operation, twice: in all some 30 seconds.
EXAMPLES = settings().max_examples // 3

bounded = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("schema")


@pytest.fixture(scope="module")
def admin(folder: Path) -> MadeKey:
    async def added() -> MadeKey:
        async with Storage(f"sqlite:///{folder / 'data' / 'limiter.db'}") as storage:
            return await added_key(storage, "admin")

    return asyncio.run(added())


@pytest.fixture(scope="module")
def asking(folder: Path, admin: MadeKey) -> Iterator[Service]:
    with running_service(folder, auth="keys", **PATIENT) as service:
        yield service


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("trusting"), **PATIENT) as service:
        yield service


@SCHEMA.parametrize()
@bounded
def test_with_keys(case: schemathesis.Case[Any], asking: Service, admin: MadeKey) -> None:
    case.call_and_validate(
        base_url=asking.url,
        headers={"Authorization": f"Bearer {admin.text}"},
        excluded_checks=[positive_data_acceptance],
    )


@SCHEMA.parametrize()
@bounded
def test_without_keys(case: schemathesis.Case[Any], trusting: Service) -> None:
    case.call_and_validate(
        base_url=trusting.url, excluded_checks=[positive_data_acceptance, ignored_auth]
    )
