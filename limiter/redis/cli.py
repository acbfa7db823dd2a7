"""A way to type Redis commands at the limiter's server: the real `redis-cli`, or a small stand-in.

`redis_cli_argv` and `redis_cli_env` say how to run the real one, which is better at everything.
Where there is none, `run_command` sends one command and answers in the same text format, so that
what the documentation shows is what one sees. Neither is used by the service itself.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import BinaryIO, cast

from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection

from limiter.redis.connect import parse_redis_url
from limiter.urls import is_cluster_url, split_cluster_url

CONNECT_MS_MAX = 5_000
REPLY_MS_MAX = 60_000

# Replies that are lines of text already, which redis-cli prints as they are.
_TEXT_REPLIES = frozenset(
    {
        ("info",),
        ("lolwut",),
        ("client", "info"),
        ("client", "list"),
        ("cluster", "info"),
        ("cluster", "nodes"),
        ("debug", "htstats"),
        ("latency", "doctor"),
        ("latency", "graph"),
        ("memory", "doctor"),
        ("memory", "malloc-stats"),
    }
)
_SSL_FILE_FLAGS = {
    "ssl_ca_certs": "--cacert",
    "ssl_ca_path": "--cacertdir",
    "ssl_certfile": "--cert",
    "ssl_keyfile": "--key",
}
_CUT_SHORT = "the server closed the connection before its reply was complete"
_ESCAPES = {
    ord("\\"): "\\\\",
    ord('"'): '\\"',
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
    ord("\a"): "\\a",
    ord("\b"): "\\b",
}


class StatusReply(bytes):
    """`+OK` and its like, which redis-cli prints without quotes."""


class ErrorReply(bytes):
    """An error, whole and with its prefix."""


Reply = int | bytes | StatusReply | ErrorReply | list["Reply"] | None


def redis_cli_argv(url: str, args: Sequence[str]) -> list[str] | None:
    """The command line that runs redis-cli or valkey-cli on the server at `url`; None without one.

    The password is not in it, as every user of the machine can read a command line: run it with
    `redis_cli_env` added to the environment. Raises StartupError if the URL is not usable.
    """
    program = shutil.which("redis-cli") or shutil.which("valkey-cli")
    if program is None:
        return None
    argv = [program, "-c"] if is_cluster_url(url) else [program]
    url = _server_url(url)
    options = parse_redis_url(url)
    if "path" in options:
        argv += ["-s", str(options["path"])]
    else:
        argv += ["-h", str(options.get("host", "localhost")), "-p", str(options.get("port", 6379))]
    if url.startswith("rediss:"):
        argv.append("--tls")
        argv += ["--insecure"] if options.get("ssl_cert_reqs") == "none" else []
        for name, flag in _SSL_FILE_FLAGS.items():
            argv += [flag, str(options[name])] if name in options else []
    argv += ["--user", str(options["username"])] if "username" in options else []
    argv += ["-n", str(options["db"])] if options.get("db") else []
    return [*argv, *args]


def redis_cli_env(url: str) -> dict[str, str]:
    """What must be in the environment of the program that `redis_cli_argv` names."""
    password = parse_redis_url(_server_url(url)).get("password")
    # valkey-cli has a name of its own for the same thing.
    return {"REDISCLI_AUTH": password, "VALKEYCLI_AUTH": password} if password else {}


def run_command(url: str, args: Sequence[str], *, raw: bool) -> str:
    """Sends one command and returns what redis-cli would print for its first reply.

    `raw` is how redis-cli prints into a pipe; otherwise as on a terminal. Bytes that are no UTF-8
    are shown as escapes. Raises ValueError if `args` is no command, StartupError if the URL is not
    usable, redis-py's ConnectionError or TimeoutError if the server cannot be reached, and OSError
    if it stops answering.
    """
    if not args or args[0].startswith("-"):
        raise ValueError("give one command, such as: GET key. Options need redis-cli itself.")
    url = _server_url(url)
    options = parse_redis_url(url)
    connection_class = {"unix": UnixDomainSocketConnection, "rediss": SSLConnection}.get(
        url.partition(":")[0], Connection
    )
    options.pop("connection_class", None)
    connection = connection_class(
        **options,
        socket_timeout=REPLY_MS_MAX / 1000,
        socket_connect_timeout=CONNECT_MS_MAX / 1000,
        protocol=2,
        client_name="limiter-cli",
        driver_info=None,
    )
    try:
        connection.connect()
        connection.send_command(*args)
        # redis-py's parsers drop what this is about: the kind of a reply and an error's prefix.
        with connection._sock.makefile("rb") as stream:
            reply = _read_reply(cast("BinaryIO", stream))
    finally:
        connection.disconnect()
    words = tuple(word.lower() for word in args[:2])
    if words in _TEXT_REPLIES or words[:1] in _TEXT_REPLIES:
        return format_raw(reply)
    return format_raw(reply) + "\n" if raw else format_for_terminal(reply)


def format_raw(reply: Reply) -> str:
    match reply:
        case None:
            return ""
        case ErrorReply():
            return _text(reply) + "\n"
        case list():
            return "\n".join(map(format_raw, reply))
        case int():
            return str(reply)
        case _:
            return _text(reply)


def format_for_terminal(reply: Reply, indent: str = "") -> str:
    """Every line ends with a newline; `indent` is what stands before the lines after the first."""
    match reply:
        case None:
            return "(nil)\n"
        case ErrorReply():
            return f"(error) {_text(reply)}\n"
        case StatusReply():
            return f"{_text(reply)}\n"
        case int():
            return f"(integer) {reply}\n"
        case []:
            return "(empty array)\n"
        case list():
            width = len(str(len(reply)))
            deeper = indent + " " * (width + 2)
            numbered = (
                f"{number:>{width}}) {format_for_terminal(element, deeper)}"
                for number, element in enumerate(reply, start=1)
            )
            return indent.join(numbered)
        case _:
            return f'"{"".join(map(_quoted, reply))}"\n'


def _server_url(url: str) -> str:
    """Of a cluster its first node, which redis-cli knows to follow to the others."""
    if not is_cluster_url(url):
        return url
    cluster = split_cluster_url(url)
    return cluster.of(cluster.seeds[0])


def _quoted(byte: int) -> str:
    if byte in _ESCAPES:
        return _ESCAPES[byte]
    return chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}"


def _text(reply: bytes) -> str:
    return reply.decode(errors="backslashreplace")


def _read_reply(stream: BinaryIO) -> Reply:
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionResetError(_CUT_SHORT)
    kind, rest = line[:1], line[1:-2]
    match kind:
        case b"+":
            return StatusReply(rest)
        case b"-":
            return ErrorReply(rest)
        case b":":
            return int(rest)
        case b"$":
            length = int(rest)
            return None if length < 0 else _read_bytes(stream, length)
        case b"*":
            length = int(rest)
            return None if length < 0 else [_read_reply(stream) for _ in range(length)]
        case _:
            raise ValueError(f"unexpected reply: {line!r}")


def _read_bytes(stream: BinaryIO, length: int) -> bytes:
    text = stream.read(length + 2)
    if len(text) < length + 2:
        raise ConnectionResetError(_CUT_SHORT)
    return text[:-2]
