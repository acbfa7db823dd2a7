"""Connections: what may come before there is a request, and how slowly."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time

import pytest

from limiter.http import protocol
from limiter.http.protocol import HEAD_BYTES_MAX, HEADERS_MAX
from tests.http.support import ToldLimiter
from tests.http.test_socket import ADMITTED, CHECK_BODY, answer, connected, head, refused, served

SLOW_MS = 200
WAIT_S_MAX = 10


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side ends the connection, without a word, in a bounded time."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def padded(length: int) -> bytes:
    """A head of that many bytes as they are counted: without the first line's own words."""
    bare = head(path="/healthz", method="GET")
    filler = "a" * (length - len(bare))
    return head(path="/healthz", method="GET", x=filler)


def test_a_head_may_be_so_large_and_no_larger() -> None:
    with served(ToldLimiter()) as address:
        with connected(address) as connection:
            connection.sendall(padded(HEAD_BYTES_MAX - 100))
            assert answer(connection, "GET").status == 200
        with connected(address) as connection:
            connection.sendall(padded(HEAD_BYTES_MAX + 100))
            assert refused(connection) == (431, "head_too_large")


def test_a_path_counts_as_well() -> None:
    with served(ToldLimiter()) as address, connected(address) as connection:
        connection.sendall(head(path="/healthz?a=" + "a" * HEAD_BYTES_MAX, method="GET"))
        assert refused(connection) == (431, "head_too_large")


@pytest.mark.parametrize("more", [0, 1])
def test_headers_may_be_so_many_and_no_more(more: int) -> None:
    # One is `host`.
    headers = {f"x-{number}": "1" for number in range(HEADERS_MAX - 1 + more)}
    with served(ToldLimiter()) as address, connected(address) as connection:
        connection.sendall(head(path="/healthz", method="GET", **headers))
        if more:
            assert refused(connection) == (431, "head_too_large")
        else:
            assert answer(connection, "GET").status == 200


@pytest.mark.parametrize("piece", [b"x: y\r\n", b"a" * 1_000])
def test_a_head_without_end_is_431_while_it_still_comes(piece: bytes) -> None:
    with served(ToldLimiter()) as address, connected(address) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: limiter\r\nx: ")
        sent_bytes = 0
        # The server may close before all is sent; what it said first is read then.
        with contextlib.suppress(ConnectionError):
            while sent_bytes < 4 * HEAD_BYTES_MAX:
                connection.sendall(piece)
                sent_bytes += len(piece)
                time.sleep(0)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(12) == b"HTTP/1.1 431"
        assert sent_bytes < 2**20


def test_a_large_body_before_the_next_head_is_not_counted_to_it() -> None:
    body = json.dumps({"workspace_id": "acme", "x": "a" * 40_000}).encode()
    first = head(content_length=str(len(body))) + body
    with served(ToldLimiter()) as address, connected(address) as connection:
        second = head(path="/healthz", method="GET")
        connection.sendall(first + second[:20])
        assert answer(connection).status == 400
        connection.sendall(second[20:])
        # The first answer's body comes before the second's head.
        text = b""
        while b"alive" not in text:
            received = connection.recv(65_536)
            assert received
            text += received
    assert b"HTTP/1.1 200 OK" in text


@pytest.mark.parametrize("begun", [b"", b"\r\n", b"GET", head()[:-2]])
def test_a_head_that_does_not_come_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(protocol, "HEAD_MS_MAX", SLOW_MS)
    with served(ToldLimiter()) as address, connected(address) as connection:
        connection.sendall(begun)
        assert is_closed(connection)


@pytest.mark.parametrize("drop", [b"\r\n", b"x: y\r\n"])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_head_that_trickles_ends_the_connection_however_regularly(
    monkeypatch: pytest.MonkeyPatch, drop: bytes, is_first: bool
) -> None:
    monkeypatch.setattr(protocol, "HEAD_MS_MAX", SLOW_MS)
    stop = threading.Event()

    def trickle(connection: socket.socket) -> None:
        connection.sendall(b"" if drop == b"\r\n" else b"GET /healthz HTTP/1.1\r\n")
        with contextlib.suppress(OSError):
            while not stop.wait(SLOW_MS / 10_000):
                connection.sendall(drop)

    with served(ToldLimiter()) as address, connected(address) as connection:
        if not is_first:
            connection.sendall(head(path="/healthz", method="GET"))
            assert answer(connection, "GET").read()
        sender = threading.Thread(target=trickle, args=[connection])
        sender.start()
        try:
            assert is_closed(connection)
        finally:
            stop.set()
            sender.join(WAIT_S_MAX)


def test_the_rest_of_a_body_that_nobody_wants_is_taken_for_so_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "HEAD_MS_MAX", SLOW_MS)
    stop = threading.Event()

    def trickle(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not stop.wait(SLOW_MS / 10_000):
                connection.sendall(b" ")

    with served(ToldLimiter()) as address, connected(address) as connection:
        connection.sendall(head(path="/check?no=1", content_length="60000"))
        response = answer(connection)
        assert (response.status, json.loads(response.read())["field"]) == (400, "no")
        sender = threading.Thread(target=trickle, args=[connection])
        sender.start()
        try:
            assert is_closed(connection)
        finally:
            stop.set()
            sender.join(WAIT_S_MAX)


def test_a_call_may_take_longer_than_its_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_MS_MAX", SLOW_MS)
    limiter = ToldLimiter(check=ADMITTED)
    with served(limiter) as address, connected(address) as connection:
        connection.sendall(head(content_length=str(len(CHECK_BODY))))
        time.sleep(3 * SLOW_MS / 1_000)  # That much time has to pass.
        connection.sendall(CHECK_BODY)
        assert answer(connection).status == 200


def test_what_is_no_http_is_answered_once() -> None:
    with served(ToldLimiter()) as address, connected(address) as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        response = answer(connection)
        assert response.status == 400
        response.read()
        assert is_closed(connection)
