"""Request ids: taken or made, on errors and in the log, and on nothing else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest

from limiter import request_id
from limiter.errors import ScriptError
from limiter.http import examples
from limiter.models import CheckRequest, Refused
from tests.http.support import CHECK, ToldLimiter, client_of


class Ids(logging.Handler):
    """Remembers the request id that each line would have."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str | None] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(request_id.current())


@pytest.fixture
def ids() -> Iterator[Ids]:
    handler = Ids()
    logger = logging.getLogger("limiter")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.mark.parametrize("word", ["a", "0", "4bf92f35-77b3.4da6_A", "x" * 64])
async def test_a_plain_word_is_taken(word: str, ids: Ids) -> None:
    async with client_of(ToldLimiter(usage=ScriptError("no"))) as client:
        answer = await client.get("/usage/workspaces/acme", headers={"X-Request-ID": word})
    assert answer.headers["x-request-id"] == word
    assert ids.seen == [word]


@pytest.mark.parametrize(
    "words",
    [
        [""],
        ["x" * 65],
        ["-a"],
        [".."],
        ["a b"],
        ["a,b"],
        ["a;b=c"],
        ['"a"'],
        ["<script>"],
        ["a\tb"],
        ["a\x7f"],
        ["%0d%0a"],
        ["caf\xe9"],
        ["a\n"],
        ["a\r\nx-evil: 1"],
        ["a", "b"],
        ["a", "a"],
    ],
)
async def test_anything_else_is_not_and_shows_nowhere(words: list[str], ids: Ids) -> None:
    headers = [(b"X-Request-ID", word.encode("latin-1")) for word in words]
    async with client_of(ToldLimiter(usage=ScriptError("no"))) as client:
        answer = await client.get("/usage/workspaces/acme", headers=headers)
    made = answer.headers["x-request-id"]
    assert len(made) == 31
    assert int(made, 16)
    assert ids.seen == [made]
    assert "x-evil" not in answer.headers


async def test_each_request_has_its_own() -> None:
    async with client_of(ToldLimiter()) as client:
        answers = await asyncio.gather(*(client.get("/nowhere") for _ in range(20)))
    assert len({answer.headers["x-request-id"] for answer in answers}) == 20


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/check", 405),
        ("POST", "/check", 400),
        ("GET", "/usage/workspaces/a%20b", 400),
    ],
)
async def test_every_error_has_one(method: str, path: str, status: int) -> None:
    async with client_of(ToldLimiter()) as client:
        answer = await client.request(method, path, headers={"X-Request-ID": "r-7"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (status, "r-7")


async def test_a_denial_has_one_and_what_is_granted_none() -> None:
    headers = {"X-Request-ID": "r-7"}
    async with client_of(ToldLimiter(check=Refused())) as client:
        refused = await client.post("/check", json=CHECK, headers=headers)
        as_a_decision = await client.post("/check?decision=true", json=CHECK, headers=headers)
    async with client_of(ToldLimiter(check=examples.ADMITTED["held"])) as client:
        granted = await client.post("/check", json=CHECK, headers=headers)
    assert refused.headers["x-request-id"] == "r-7"
    assert "x-request-id" not in as_a_decision.headers
    assert "x-request-id" not in granted.headers


async def test_what_goes_on_after_the_answer_has_none(ids: Ids) -> None:
    """A request may be the first to start what serves all: that must not speak in its name."""
    may_go_on = asyncio.Event()
    logger = logging.getLogger("limiter.tests")

    async def outlive() -> None:
        logger.error("during")
        await may_go_on.wait()
        logger.error("after")

    class Starts(ToldLimiter):
        task: asyncio.Task[None] | None = None

        async def check(self, _: CheckRequest) -> object:
            self.task = asyncio.create_task(outlive())
            await asyncio.sleep(0)
            return examples.ADMITTED["held"]

    limiter = Starts()
    async with client_of(limiter) as client:
        await client.post("/check", json=CHECK, headers={"X-Request-ID": "r-7"})
    may_go_on.set()
    assert limiter.task is not None
    await limiter.task
    assert ids.seen == ["r-7", None]
