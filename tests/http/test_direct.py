"""The calls without ASGI: the same answers as by ASGI, byte for byte, however the request comes."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from limiter.http import examples
from limiter.http.app import App
from limiter.http.direct import STATE_KEY
from limiter.http.protocol import BoundedProtocol
from limiter.models import Refused
from tests.http.support import CHECK, RECORD, RELEASE, ToldLimiter, app_of

TURNS_MAX = 200
ID = "x-request-id: r1"  # so that two answers with an error can be equal

ANSWERS: dict[str, Any] = {
    "check": examples.ADMITTED["held"],
    "record": next(iter(examples.RECORDED.values())),
    "release": next(iter(examples.RELEASED.values())),
}


def request(
    path: str = "/check",
    body: bytes = b"",
    *lines: str,
    method: str = "POST",
    version: str = "1.1",
) -> bytes:
    head = [f"{method} {path} HTTP/{version}", "Host: limiter", ID, *lines]
    return "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body


CHECK_REQUEST = request("/check", json.dumps(CHECK).encode(), "Content-Type: application/json")

REQUESTS = {
    "check": CHECK_REQUEST,
    "record": request("/record", json.dumps(RECORD).encode(), "Content-Type: application/json"),
    "release": request("/release", json.dumps(RELEASE).encode(), "Content-Type: application/json"),
    "a field that is not known": request("/check", b'{"workspace": "acme"}'),
    "no JSON": request("/check", b"["),
    "no body": request("/check"),
    "a body above the cap": request("/check", b" " * 3_000),
    "another type": request("/check", b"{}", "Content-Type: text/plain"),
    "a compressed body": request("/check", b"{}", "Content-Encoding: gzip"),
    "a page of another site": request("/check", b"{}", "Sec-Fetch-Site: cross-site"),
    "an Idempotency-Key": request(
        "/record", json.dumps({**RECORD, "event_id": None}).encode(), "Idempotency-Key: e1"
    ),
    "connection: close": request("/check", json.dumps(CHECK).encode(), "Connection: close"),
    "HTTP/1.0": request("/check", json.dumps(CHECK).encode(), version="1.0"),
    "a query": request("/check?decision=true", json.dumps(CHECK).encode()),
    "a wrong query": request("/check?x=1", json.dumps(CHECK).encode()),
    "a wrong method": request("/check", b"", method="GET"),
    "a wrong path": request("/checks", b"{}"),
    "chunks": (
        f"POST /check HTTP/1.1\r\nHost: limiter\r\n{ID}\r\nTransfer-Encoding: chunked\r\n\r\n"
        f"{len(json.dumps(CHECK)):x}\r\n{json.dumps(CHECK)}\r\n0\r\n\r\n"
    ).encode(),
    "asks first": request("/check", json.dumps(CHECK).encode(), "Expect: 100-continue"),
    "chunks that are none": (
        f"POST /check HTTP/1.1\r\nHost: limiter\r\n{ID}\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n"
    ).encode(),
    "no HTTP": b"\x00\x01\r\n\r\n",
}


class Wire(asyncio.Transport):
    """A connection in memory, to an app that is served as the service is."""

    def __init__(self, app: App, *, is_direct: bool = True) -> None:
        super().__init__()
        self.sent = b""
        self.writes = 0
        self.is_closed = False
        self.by_asgi = 0

        async def counted(scope: Any, receive: Any, send: Any) -> None:
            self.by_asgi += 1
            await app(scope, receive, send)

        config = Config(counted, ws="none", lifespan="off", access_log=False, log_config=None)
        self.server_state = ServerState()
        self.protocol = BoundedProtocol(
            config=config,
            server_state=self.server_state,
            app_state={STATE_KEY: app.direct} if is_direct else {},
        )
        self.protocol.connection_made(self)

    def get_extra_info(self, _name: str, default: Any = None) -> Any:
        return default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_closed
        self.sent += bytes(data)
        self.writes += 1

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    async def told(self, *pieces: bytes) -> Wire:
        """Sends these, and waits after each for what it causes."""
        for piece in pieces:
            if self.is_closed:
                break
            self.protocol.data_received(piece)
            await self.rest()
        return self

    async def rest(self) -> None:
        """Until no request is under way."""
        await asyncio.sleep(0)
        for _ in range(TURNS_MAX):
            if not self.server_state.tasks:
                return
            await asyncio.sleep(0)
        # It waits for the rest of a body.

    def gone(self) -> None:
        self.protocol.connection_lost(None)


def app_answering(**answers: Any) -> tuple[App, ToldLimiter]:
    limiter = ToldLimiter(**{**ANSWERS, **answers})
    return cast("App", app_of(limiter, body_bytes_max=2_048)), limiter


@pytest.mark.parametrize("name", REQUESTS)
async def test_the_answer_is_that_of_asgi(name: str) -> None:
    app, limiter = app_answering()
    direct = await Wire(app).told(REQUESTS[name])
    calls = list(limiter.calls)
    usual = await Wire(app, is_direct=False).told(REQUESTS[name])
    assert direct.sent == usual.sent
    assert direct.is_closed == usual.is_closed
    assert limiter.calls == calls * 2
    for wire in (direct, usual):
        wire.gone()


@pytest.mark.parametrize("name", ["check", "record", "release", "no JSON", "no body"])
async def test_what_is_ordinary_goes_without_asgi_in_one_write(name: str) -> None:
    app, _ = app_answering()
    wire = await Wire(app).told(REQUESTS[name], REQUESTS[name])
    assert (wire.by_asgi, wire.writes) == (0, 2)
    assert wire.server_state.total_requests == 2
    wire.gone()


async def test_the_answer_does_not_depend_on_where_the_request_is_cut() -> None:
    app, limiter = app_answering()
    whole = await Wire(app).told(CHECK_REQUEST)
    for at in range(1, len(CHECK_REQUEST)):
        wire = await Wire(app).told(CHECK_REQUEST[:at], CHECK_REQUEST[at:])
        assert wire.sent == whole.sent, at
        wire.gone()
    assert limiter.calls == limiter.calls[:1] * len(CHECK_REQUEST)
    whole.gone()


async def test_a_body_that_comes_after_its_head_is_read_by_asgi_and_the_next_is_direct() -> None:
    app, _ = app_answering()
    wire = await Wire(app).told(CHECK_REQUEST[:-1], CHECK_REQUEST[-1:], CHECK_REQUEST)
    assert wire.by_asgi == 1
    assert wire.sent.count(b"HTTP/1.1 200 OK") == 2
    wire.gone()


@pytest.mark.parametrize(
    "names",
    [
        ["check", "record"],
        ["check", "no JSON", "record"],
        ["a query", "check", "a wrong path", "release"],
    ],
)
async def test_requests_behind_each_other_are_answered_in_their_order(names: list[str]) -> None:
    app, _ = app_answering()
    alone = []
    for name in names:
        wire = await Wire(app).told(REQUESTS[name])
        alone.append(wire.sent)
        wire.gone()
    together = await Wire(app).told(b"".join(REQUESTS[name] for name in names))
    for _ in names:
        await together.rest()
    assert together.sent == b"".join(alone)
    together.gone()


class SlowLimiter(ToldLimiter):
    """Answers a check once it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = asyncio.Event()
        self.answered = 0

    async def check(self, _: object) -> object:
        await self.let.wait()
        self.answered += 1
        return ANSWERS["check"]


async def test_a_server_that_stops_answers_first_and_closes_then() -> None:
    limiter = SlowLimiter()
    wire = await Wire(cast("App", app_of(limiter))).told(CHECK_REQUEST)
    wire.protocol.shutdown()
    assert wire.sent == b""
    limiter.let.set()
    await wire.rest()
    assert wire.is_closed
    assert wire.sent.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nconnection: close\r\n" in wire.sent
    wire.gone()


async def test_a_client_that_left_is_written_nothing_and_its_call_is_made() -> None:
    limiter = SlowLimiter()
    wire = await Wire(cast("App", app_of(limiter))).told(CHECK_REQUEST)
    wire.close()
    wire.gone()
    limiter.let.set()
    await wire.rest()
    assert (wire.sent, limiter.answered) == (b"", 1)
    assert not wire.server_state.tasks


async def test_who_does_not_read_is_waited_for() -> None:
    app, _ = app_answering(check=Refused())
    wire = Wire(app)
    wire.protocol.pause_writing()
    await wire.told(CHECK_REQUEST)
    assert wire.sent == b""
    wire.protocol.resume_writing()
    await wire.rest()
    assert wire.sent.startswith(b"HTTP/1.1 503 ")
    wire.gone()
