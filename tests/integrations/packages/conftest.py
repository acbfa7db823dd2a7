"""A real service and a model of our own. LiteLLM is kept from asking the network for its prices."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

from tests.integrations.packages.model import ModelServer, running_model
from tests.integrations.packages.scene import Scene
from tests.support.service import Service, running_service

_numbers = itertools.count()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("integrations")
    with running_service(folder, redis_deadline_ms=10_000) as service:
        yield service


@pytest.fixture(scope="session")
def model() -> Iterator[ModelServer]:
    with running_model() as model:
        yield model


# LiteLLM tells the end of streams from a task of its own, which lives as long as the first loop.
@pytest_asyncio.fixture(loop_scope="session")
async def scene(service: Service, model: ModelServer) -> AsyncIterator[Scene]:
    """A workspace of its own. What calls for it is closed at the end."""
    async with contextlib.AsyncExitStack() as stack:
        yield Scene(service, model, f"ws-{next(_numbers)}", stack)
