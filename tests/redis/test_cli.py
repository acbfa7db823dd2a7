"""The stand-in for redis-cli, compared word for word with the real one."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.exceptions import AuthenticationError, ConnectionError

from limiter.errors import StartupError
from limiter.redis import cli
from limiter.redis.cli import redis_cli_argv, redis_cli_env, run_command
from tests.redis.support import EVERY_BINARY, server_binary, unix_url
from tests.support.parts import need
from tests.support.servers import ServerProcess, server_process

NESTED = "return {1, {2, {3, 'x'}, {}}, 'tail', false, redis.status_reply('FINE')}"
ERRORS_INSIDE = "return {redis.error_reply('ODD one'), {redis.error_reply('ERR two')}}"

COMMANDS = [
    ["PING"],
    ["GET", "missing"],
    ["GET", "plain"],
    ["GET", "binary"],
    ["GET", "lines"],
    ["GET", "empty"],
    ["INCR", "number"],
    ["LRANGE", "many", "0", "-1"],
    ["LRANGE", "missing", "0", "-1"],
    ["HGETALL", "scope"],
    ["ZRANGE", "window", "0", "-1", "WITHSCORES"],
    ["XRANGE", "stream", "-", "+"],
    ["EVAL", NESTED, "0"],
    ["EVAL", "return {{{}}}", "0"],
    ["EVAL", "local t = {} for i = 1, 101 do t[i] = {i, {i}} end return t", "0"],
    ["EVAL", ERRORS_INSIDE, "0"],
    ["EVAL", "return -5", "0"],
    ["NOSUCH", "thing"],
    ["INCR", "plain"],
    ["GET"],
    ["OBJECT", "ENCODING", "window"],
    ["CLUSTER", "INFO"],
    ["INFO", "cluster"],
    ["info", "keyspace"],
    ["MEMORY", "DOCTOR"],
    ["LATENCY", "DOCTOR"],
    ["CONFIG", "GET", "maxmemory-policy"],
]


@pytest.fixture(scope="module", params=EVERY_BINARY)
def filled(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    with server_process(server_binary(request.param)) as process:
        client = process.client
        client.set("plain", "value")
        client.set("binary", bytes(range(256)))
        client.set("lines", 'a\n"b"\t\\c\r\n\a\b')
        client.set("empty", "")
        client.rpush("many", *range(12))
        client.hset("scope", mapping={"limit.daily": "5000000", "held": "0"})
        client.zadd("window", {"a": 1.5, "b": 2})
        client.xadd("stream", {"k": "v", "l": "w"}, id="1-1")
        client.xadd("stream", {"m": "x"}, id="2-1")
        yield process


def real_redis_cli() -> str:
    return need("redis", shutil.which("redis-cli"), "redis-cli")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command)[:40])
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "terminal"])
def test_it_prints_what_redis_cli_prints(
    filled: ServerProcess, command: list[str], raw: bool
) -> None:
    style = "--raw" if raw else "--no-raw"
    filled.client.set("number", 41)
    expected = subprocess.run(
        [real_redis_cli(), "-s", str(filled.socket_path), style, *command],
        capture_output=True,
        check=True,
    ).stdout.decode(errors="backslashreplace")
    filled.client.set("number", 41)
    assert run_command(unix_url(filled), command, raw=raw) == expected
    assert expected


def test_raw_is_what_the_real_one_writes_into_a_pipe(filled: ServerProcess) -> None:
    piped = subprocess.run(
        [real_redis_cli(), "-s", str(filled.socket_path), "HGETALL", "scope"],
        capture_output=True,
        check=True,
        text=True,
    )
    assert piped.stdout == run_command(unix_url(filled), ["HGETALL", "scope"], raw=True)


@pytest.mark.parametrize("args", [[], ["-n", "1", "GET", "x"], ["--scan"]])
def test_what_only_the_real_one_can_do_is_refused(args: list[str]) -> None:
    with pytest.raises(ValueError, match="Options need redis-cli itself"):
        run_command("unix:///nowhere", args, raw=True)


def test_a_server_that_is_away_and_a_bad_url_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError):
        run_command(f"unix://{tmp_path}/nobody.sock", ["PING"], raw=True)
    with pytest.raises(StartupError, match="the Redis URL is not valid"):
        run_command("http://h", ["PING"], raw=True)


@pytest.fixture
def guarded(filled: ServerProcess) -> Iterator[ServerProcess]:
    filled.client.config_set("requirepass", "p w")
    yield filled
    filled.client.config_set("requirepass", "")


def test_the_real_one_is_run_with_database_and_password(guarded: ServerProcess) -> None:
    real_redis_cli()
    url = f"unix://:p%20w@{guarded.socket_path}?db=4"
    assert run_command(url, ["SET", "key", "in four"], raw=True) == "OK\n"
    argv = redis_cli_argv(url, ["GET", "key"])
    assert argv is not None
    assert not any("p w" in argument or "p%20w" in argument for argument in argv)
    answer = subprocess.run(
        argv, env={**os.environ, **redis_cli_env(url)}, capture_output=True, check=True, text=True
    )
    assert answer.stdout == "in four\n"
    assert answer.stderr == ""


def test_a_wrong_password_is_told(guarded: ServerProcess) -> None:
    with pytest.raises(AuthenticationError):
        run_command(f"unix://:no@{guarded.socket_path}", ["PING"], raw=True)


def test_the_command_line_for_tcp_and_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "valkey-cli"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert redis_cli_argv("redis://localhost", ["PING"]) == [
        *(str(program), "-h", "localhost", "-p", "6379", "PING"),
    ]
    url = "rediss://me:secret@h:7000/2?ssl_ca_certs=/ca.pem&ssl_cert_reqs=none"
    assert redis_cli_argv(url, []) == [
        *(str(program), "-h", "h", "-p", "7000", "--tls", "--insecure"),
        *("--cacert", "/ca.pem", "--user", "me", "-n", "2"),
    ]
    assert redis_cli_env(url) == {"REDISCLI_AUTH": "secret", "VALKEYCLI_AUTH": "secret"}
    assert redis_cli_env("redis://localhost") == {}


def test_there_may_be_no_real_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert redis_cli_argv("redis://localhost", ["PING"]) is None


@pytest.mark.parametrize("reply", [b"", b"$10\r\nshort", b"*2\r\n:1\r\n", b"+OK"])
def test_a_reply_that_is_cut_short_is_an_error(reply: bytes) -> None:
    with pytest.raises(ConnectionResetError, match="before its reply was complete"):
        cli._read_reply(io.BytesIO(reply))
