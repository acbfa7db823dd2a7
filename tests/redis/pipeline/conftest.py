"""Each test of this folder runs on asyncio's own loop and on uvloop, which the service runs on."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Iterator, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def no_complaints(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A loop only logs what was left behind: a task, or an exception that nobody looked at."""
    yield
    gc.collect()
    records = [*caplog.get_records("call"), *caplog.get_records("teardown")]
    complaints = [
        record.getMessage()
        for record in records
        if record.name == "asyncio" and record.levelno >= logging.WARNING
    ]
    assert complaints == []
