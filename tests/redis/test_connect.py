"""The client factory's promises, against servers that lose replies, freeze or refuse."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, ConnectionError, TimeoutError

from limiter.errors import StartupError
from limiter.redis.connect import make_client, parse_redis_url
from limiter.redis.embedded import EmbeddedServer
from tests.redis.fake import DEADLINE_MS, client_of, fake_server
from tests.redis.support import server_binary, unix_url
from tests.support.parts import need
from tests.support.servers import ServerProcess, server_process

# How much later than its deadline a call may end on a busy machine.
SLACK_MS = 1_000


def loses_the_reply_to(*names: bytes) -> Callable[[list[bytes]], bytes | None]:
    return lambda command: None if command[0] in names else b"+OK\r\n"


async def transaction(client: Redis) -> object:
    async with client.pipeline(transaction=True) as commands:
        commands.incr("spent")
        return await commands.execute()


async def pipeline(client: Redis) -> object:
    async with client.pipeline(transaction=False) as commands:
        commands.incr("spent")
        commands.incr("held")
        return await commands.execute()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize(
    ("send", "counted"),
    [
        (lambda client: client.incr("spent"), b"INCRBY"),
        (lambda client: client.evalsha("0" * 40, 1, "key"), b"EVALSHA"),
        (transaction, b"EXEC"),
        (pipeline, b"INCRBY"),
    ],
    ids=["command", "script", "transaction", "pipeline"],
)
async def test_a_command_whose_reply_was_lost_is_not_sent_again(
    kind: str,
    send: Callable[[Redis], Awaitable[object]],
    counted: bytes,
    tmp_path: Path,
) -> None:
    async with fake_server(kind, tmp_path, loses_the_reply_to(counted)) as (fake, url):
        async with client_of(url) as client:
            with pytest.raises(ConnectionError):
                await send(client)
        assert fake.sent(counted) == 1
        assert fake.connections == 1


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_command_without_a_reply_is_not_sent_again(kind: str, tmp_path: Path) -> None:
    async with fake_server(
        kind, tmp_path, lambda command: b"" if command[0] == b"INCRBY" else b"+OK\r\n"
    ) as (fake, url):
        async with client_of(url) as client:
            with pytest.raises(TimeoutError):
                await client.incr("spent")
        assert fake.sent(b"INCRBY") == 1


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_connection_that_fails_is_not_opened_again(kind: str, tmp_path: Path) -> None:
    async with fake_server(kind, tmp_path, lambda _command: None) as (fake, url):
        async with client_of(url) as client:
            with pytest.raises(ConnectionError):
                await client.incr("spent")
        assert fake.connections == 1


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_the_handshake_is_one_command(kind: str, tmp_path: Path) -> None:
    async with fake_server(kind, tmp_path, lambda _command: b"+OK\r\n") as (fake, url):
        async with client_of(url) as client:
            await client.execute_command("PING")
        assert fake.commands == [[b"CLIENT", b"SETNAME", b"limiter"], [b"PING"]]


async def connections(client: Redis) -> int:
    """How many connections of the limiter's the server has."""
    return sum(entry["name"] == "limiter" for entry in await client.client_list())


async def test_the_client_is_named_and_answers_in_bytes(own_server: ServerProcess) -> None:
    async with client_of(unix_url(own_server)) as client:
        assert await connections(client) == 1
        await client.set("key", "value")
        assert await client.get("key") == b"value"


async def elapsed_ms(call: Awaitable[object], error: type[Exception]) -> float:
    began = time.monotonic()
    with pytest.raises(error):
        await call
    return (time.monotonic() - began) * 1000


@pytest.mark.parametrize("connected_before", [True, False])
async def test_a_frozen_server_costs_one_deadline(
    own_server: ServerProcess, connected_before: bool
) -> None:
    async with client_of(unix_url(own_server)) as client:
        if connected_before:
            await client.set("key", "old")
        os.kill(own_server.pid, signal.SIGSTOP)
        taken_ms = await elapsed_ms(client.get("key"), TimeoutError)
        assert DEADLINE_MS * 0.9 <= taken_ms <= DEADLINE_MS + SLACK_MS
        os.kill(own_server.pid, signal.SIGCONT)
        # The late reply must not be taken for the reply to the next command.
        await client.set("other", "new")
        assert await client.get("other") == b"new"


async def test_a_frozen_server_over_tcp_costs_one_deadline(tmp_path: Path) -> None:
    async with fake_server("tcp", tmp_path, lambda _command: b"") as (fake, url):
        async with client_of(url) as client:
            taken_ms = await elapsed_ms(client.get("key"), TimeoutError)
        assert DEADLINE_MS * 0.9 <= taken_ms <= DEADLINE_MS + SLACK_MS
        assert fake.connections == 1


async def test_a_connection_that_is_never_accepted_costs_its_own_deadline() -> None:
    """A full backlog is how an overloaded host looks: packets to it are dropped."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(8)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            async with client_of(f"redis://127.0.0.1:{port}/0", deadline_ms=60_000) as client:
                taken_ms = await elapsed_ms(client.get("key"), TimeoutError)
            assert taken_ms <= DEADLINE_MS + SLACK_MS
        finally:
            for filler in fillers:
                filler.close()


async def test_more_callers_than_connections_are_all_served(own_server: ServerProcess) -> None:
    async with client_of(unix_url(own_server), deadline_ms=10_000, max_connections=2) as client:
        totals = await asyncio.gather(*(client.incr("calls") for _ in range(50)))
        assert sorted(totals) == list(range(1, 51))
        assert await connections(client) == 2


async def test_waiting_in_line_is_bounded_too(own_server: ServerProcess) -> None:
    async with client_of(unix_url(own_server), max_connections=1) as client:
        held = await client.connection_pool.get_connection()
        taken_ms = await elapsed_ms(client.get("key"), ConnectionError)
        assert DEADLINE_MS * 0.9 <= taken_ms <= DEADLINE_MS + SLACK_MS
        await client.connection_pool.release(held)
        assert await client.get("key") is None


async def test_a_cancelled_call_does_not_leave_its_reply_to_the_next(
    own_server: ServerProcess,
) -> None:
    async with client_of(unix_url(own_server), deadline_ms=10_000, max_connections=1) as client:
        await client.set("key", "value")
        os.kill(own_server.pid, signal.SIGSTOP)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(client.incr("number"), DEADLINE_MS / 1000)
        os.kill(own_server.pid, signal.SIGCONT)
        assert await client.get("key") == b"value"


async def test_a_server_that_was_restarted_is_used_again(binary: Path, tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path, binary)
    async with client_of(server.start(), deadline_ms=2_000) as client:
        await client.set("key", "value")
        server.stop()
        with pytest.raises(ConnectionError):
            await client.get("key")
        server.start()
        assert await client.get("key") == b"value"
        server.stop()


async def test_a_refused_password_is_told_from_a_lost_connection(
    own_server: ServerProcess,
) -> None:
    own_server.client.config_set("requirepass", "right")
    url = unix_url(own_server)
    async with client_of(f"{url}?password=wrong") as client:
        with pytest.raises(AuthenticationError):
            await client.get("key")
    async with client_of(f"{url}?password=right&db=3") as client:
        await client.set("key", "in three")
    async with client_of(f"unix://:right@{own_server.socket_path}") as client:
        assert await client.get("key") is None


async def test_tls_is_verified_and_spoken(tmp_path: Path) -> None:
    need("openssl", shutil.which("openssl"), "openssl")
    make_certificate(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = (
        *("--tls-port", str(port), "--tls-auth-clients", "no"),
        *("--tls-cert-file", f"{tmp_path}/cert.pem", "--tls-key-file", f"{tmp_path}/key.pem"),
    )
    with server_process(server_binary("system"), *options):
        url = f"rediss://localhost:{port}/0"
        trusting = f"{url}?ssl_ca_certs={tmp_path}/cert.pem"
        async with client_of(trusting, deadline_ms=5_000) as client:
            assert await client.ping() is True
        async with client_of(url, deadline_ms=5_000) as client:
            with pytest.raises(ConnectionError, match="certificate"):
                await client.ping()


def make_certificate(folder: Path) -> None:
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")),
        ],
        check=True,
        capture_output=True,
    )


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://:secret@localhost:6379",
        "redis://user:secret",
        "redis://:secret@localhost:99999999",
        "redis://:secret@localhost/?db=secret",
    ],
)
def test_a_url_that_is_none_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(StartupError) as refusal:
        make_client(url, deadline_ms=1, connect_ms=1, max_connections=1)
    assert "the Redis URL is not valid" in str(refusal.value)
    assert "secret" not in str(refusal.value)
    assert refusal.value.__suppress_context__


@pytest.mark.parametrize(
    ("url", "option"),
    [
        ("redis://h/0?socket_timeout=60", "socket_timeout"),
        ("redis://h/0?retry_on_timeout=yes", "retry_on_timeout"),
        ("redis://h/0?protocol=3", "protocol"),
        ("redis://h/0?decode_responses=yes", "decode_responses"),
        ("redis://h/0?max_connections=1", "max_connections"),
        ("redis://h/0?datbase=1", "datbase"),
        ("redis://h/0?ssl_cert_reqs=none", "ssl_cert_reqs"),
        ("unix:///s?timeout=1", "timeout"),
    ],
)
def test_a_url_cannot_change_how_we_talk(url: str, option: str) -> None:
    with pytest.raises(StartupError, match=f"an option that is not accepted: '{option}'"):
        make_client(url, deadline_ms=1, connect_ms=1, max_connections=1)


def test_a_url_says_where_and_who() -> None:
    assert parse_redis_url("redis://me:p%40ss@example.org:7000/5") == {
        "host": "example.org",
        "port": 7000,
        "db": 5,
        "username": "me",
        "password": "p@ss",
    }
    assert parse_redis_url("unix:///a%20b/c.sock?db=2")["path"] == "/a b/c.sock"
    assert parse_redis_url("rediss://h?ssl_cert_reqs=none")["ssl_cert_reqs"] == "none"
