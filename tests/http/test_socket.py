"""The app behind uvicorn on a loopback socket: bodies that are slow, endless, or too large."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Any

import pytest
import uvicorn

from limiter.http import examples
from limiter.http.protocol import BoundedProtocol
from limiter.models import Refused
from tests.http.support import CHECK, ToldLimiter, app_of

WAIT_MS_MAX = 10_000
ADMITTED = examples.ADMITTED["held"]
CHECK_BODY = json.dumps(CHECK).encode()


@contextlib.contextmanager
def served(limiter: object, **settings: Any) -> Iterator[tuple[str, int]]:
    """The address of the app, served as the service is: by uvicorn with httptools and uvloop."""
    config = uvicorn.Config(
        app_of(limiter, **settings),
        host="127.0.0.1",
        port=0,
        loop="uvloop",
        http=BoundedProtocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + WAIT_MS_MAX / 1_000
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        yield server.servers[0].sockets[0].getsockname()
    finally:
        server.should_exit = True
        thread.join(WAIT_MS_MAX / 1_000)
        assert not thread.is_alive()


def connected(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, timeout=WAIT_MS_MAX / 1_000)


def head(method: str = "POST", path: str = "/check", **headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: limiter"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def answer(connection: socket.socket, method: str = "POST") -> HTTPResponse:
    """The next answer on the connection, with its head read."""
    response = HTTPResponse(connection, method=method)
    response.begin()
    return response


def refused(connection: socket.socket) -> tuple[int, str]:
    """Status and code of an answer after which the server closes."""
    response = answer(connection)
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["connection"] == "close"
    code: str = json.loads(response.read())["code"]
    assert connection.recv(1) == b""
    return response.status, code


def test_a_body_that_stops_is_408() -> None:
    limiter = ToldLimiter()
    with served(limiter, body_timeout_ms=100) as address, connected(address) as connection:
        connection.sendall(head(content_length="100") + b'{"workspace_id"')
        assert refused(connection) == (408, "body_too_slow")
    assert limiter.calls == []


def test_a_body_that_trickles_is_408_however_regularly() -> None:
    limiter = ToldLimiter()
    stop = threading.Event()

    def trickle(connection: socket.socket) -> None:
        for _ in range(1_000):
            if stop.wait(0.01):
                return
            try:
                connection.sendall(b" ")
            except OSError:
                return

    with served(limiter, body_timeout_ms=200) as address, connected(address) as connection:
        connection.sendall(head(content_length="60000"))
        sender = threading.Thread(target=trickle, args=[connection])
        sender.start()
        response = answer(connection)
        body = json.loads(response.read())
        stop.set()
        sender.join()
    assert (response.status, body["code"]) == (408, "body_too_slow")
    assert limiter.calls == []


def test_a_chunked_body_above_the_cap_is_413_while_it_still_comes() -> None:
    limiter = ToldLimiter()
    with served(limiter, body_bytes_max=2_048) as address, connected(address) as connection:
        connection.sendall(head(transfer_encoding="chunked"))
        for _ in range(3):
            connection.sendall(b"400\r\n" + b"[" * 1_024 + b"\r\n")
        # The last chunk is never sent.
        assert refused(connection) == (413, "body_too_large")
    assert limiter.calls == []


def test_a_content_length_above_the_cap_is_413_before_any_of_the_body() -> None:
    limiter = ToldLimiter()
    with served(limiter, body_bytes_max=2_048) as address, connected(address) as connection:
        connection.sendall(head(content_length="2049"))
        assert refused(connection) == (413, "body_too_large")
    assert limiter.calls == []


def test_a_client_that_reads_only_after_it_has_sent_all_still_gets_the_413() -> None:
    limiter = ToldLimiter()
    body = b"[" * 900_000
    with served(limiter) as address, connected(address) as connection:
        connection.sendall(head(content_length=str(len(body))) + body)
        assert refused(connection) == (413, "body_too_large")
    assert limiter.calls == []


def test_a_client_that_asks_first_is_told_before_it_sends() -> None:
    limiter = ToldLimiter(check=ADMITTED)
    with served(limiter, body_bytes_max=2_048) as address:
        with connected(address) as connection:
            connection.sendall(head(content_length="2049", expect="100-continue"))
            assert refused(connection) == (413, "body_too_large")
        with connected(address) as connection:
            connection.sendall(head(content_length=str(len(CHECK_BODY)), expect="100-continue"))
            assert connection.recv(1_024) == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.sendall(CHECK_BODY)
            assert answer(connection).status == 200
    assert len(limiter.calls) == 1


def test_a_body_may_come_in_pieces() -> None:
    limiter = ToldLimiter(check=ADMITTED)
    with served(limiter) as address, connected(address) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(head(content_length=str(len(CHECK_BODY))))
        for byte in CHECK_BODY:
            connection.sendall(bytes([byte]))
        response = answer(connection)
        assert response.status == 200
        response.read()
        connection.sendall(head(transfer_encoding="chunked"))
        for byte in CHECK_BODY:
            connection.sendall(b"1\r\n%c\r\n" % byte)
        connection.sendall(b"0\r\n\r\n")
        assert answer(connection).status == 200
    assert len(limiter.calls) == 2
    assert limiter.calls[0] == limiter.calls[1]


def test_a_client_that_leaves_in_the_middle_harms_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limiter = ToldLimiter(check=ADMITTED)
    with served(limiter) as address:
        for sent in (b"", b"{", CHECK_BODY[:-1]):
            with connected(address) as connection:
                connection.sendall(head(content_length=str(len(CHECK_BODY))) + sent)
        with connected(address) as connection:
            connection.sendall(head(content_length=str(len(CHECK_BODY))) + CHECK_BODY)
            assert answer(connection).status == 200
    assert len(limiter.calls) == 1
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []


def test_a_connection_outlives_a_bad_body_and_a_denial() -> None:
    denied = ToldLimiter(check=Refused())
    with served(denied) as address, connected(address) as connection:
        for body, status in ((b"[" * 10_000, 400), (b"{}", 400), (CHECK_BODY, 503)) * 3:
            connection.sendall(head(content_length=str(len(body))) + body)
            response = answer(connection)
            assert response.status == status
            response.read()
    assert len(denied.calls) == 3


def test_line_breaks_in_a_path_reach_no_header() -> None:
    limiter = ToldLimiter()
    path = "/usage/workspaces/a%0d%0aX-Evil:%201"
    with served(limiter) as address, connected(address) as connection:
        connection.sendall(head("GET", path))
        response = answer(connection, "GET")
        assert response.status == 400
        assert response.headers["x-evil"] is None
        assert set(response.headers) <= {
            *["date", "server", "content-type", "content-length", "cache-control"],
            *["x-request-id", "x-should-retry"],
        }
    assert limiter.calls == []


def test_a_head_has_no_body() -> None:
    with served(ToldLimiter()) as address, connected(address) as connection:
        for _ in range(2):
            connection.sendall(head("HEAD", "/healthz"))
            response = answer(connection, "HEAD")
            assert response.status == 200
            assert response.read() == b""
