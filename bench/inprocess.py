"""Checks a second in one process, beside what users would pick instead, on the same Redis.

Each contender is a process of its own with one event loop and 64 callers; they take turns. The
peers run in an environment of their own, because their dependencies are not ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import redis

from bench.peers import PEERS_PYTHON, ROOT
from bench.processes import pin
from bench.report import AtLeast, Missing, Results, Row, median_row, ratios
from bench.servers import catch_up, redis_name
from limiter.redis.embedded import EmbeddedServer

NAME = "inprocess"

CALLERS = 64
SECONDS = 3
STOP_S_MAX = 30

PEER_MODULES = ("bench.peers.litellm_limiter", "bench.peers.limits_limiter")

OURS = "Limiter.check holding"
# LiteLLM's limiter counts requests and holds nothing: what it does is a check without a hold.
COMPARED = (OURS, "Limiter.check without a hold")
BAR = AtLeast(10)


@dataclass(frozen=True, slots=True)
class Contender:
    """A call by name, in a process that waits to be told to make it."""

    name: str
    requests: IO[str]
    replies: IO[str]

    def calls_per_s(self) -> float:
        """One round. Raises RuntimeError if the process has ended."""
        self.requests.write(f"{self.name}\n")
        self.requests.flush()
        return float(_reply(self.replies, self.name))


def measure(rounds: int) -> Results:
    """Raises Missing without the peers' environment."""
    if not PEERS_PYTHON.exists():
        raise Missing("the peers' environment (`make bench` makes it)")
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        server = stack.enter_context(EmbeddedServer(Path(folder)))
        client = redis.Redis(unix_socket_path=str(server.socket_path), protocol=2)
        stack.callback(client.close)
        url = f"unix://{server.socket_path}"
        cores = os.sched_getaffinity(0)
        pin(client.info("server")["process_id"], cores - {min(cores)} or cores)
        python = Path(sys.executable)
        ours = stack.enter_context(_started(python, "bench.inprocess_limiter", url, folder))
        peers = [
            peer
            for module in PEER_MODULES
            for peer in stack.enter_context(_started(PEERS_PYTHON, module, url, folder))
        ]
        rates: dict[str, list[float]] = {contender.name: [] for contender in (*ours, *peers)}
        for _ in range(rounds):
            for contender in (*ours, *peers):
                rates[contender.name].append(contender.calls_per_s())
                catch_up(client)
        software = [redis_name(client.info("server")), *_peer_versions()]
    rows = [median_row(name, values, "calls/s") for name, values in rates.items()]
    rows += [_ratio(rates, name, peer.name, bar=BAR) for name in COMPARED for peer in peers]
    rows += [_ratio(rates, OURS, name) for name in (c.name for c in ours) if name != OURS]
    return Results(
        name=NAME,
        title="Checks in one process",
        rows=rows,
        rounds=rounds,
        conditions=_CONDITIONS,
        software=software,
    )


_CONDITIONS = (
    f"{CALLERS} callers on one event loop (uvloop) of a process of its own, {SECONDS} s a round.",
    "They take turns on one core, and one Redis on another, which they reach by a unix socket.",
    "The limiter checks four windows and a chat tree two deep, and holds.",
    "The snapshot pass of every second runs along; before the next one's turn it has caught up.",
    "LiteLLM counts one request against four descriptors, in both ways that it has.",
    "`limits` hits four moving windows, one after another. Nothing is ever denied.",
)


def _ratio(
    rates: dict[str, list[float]], name: str, base: str, *, bar: AtLeast | None = None
) -> Row:
    return median_row(f"{name} / {base}", ratios(rates[name], rates[base]), "×", bar=bar)


@contextlib.contextmanager
def _started(
    python: Path, module: str, redis_url: str, folder: str
) -> Iterator[Sequence[Contender]]:
    """The contenders of a module, ready. The process is killed at the end of the block.

    What it leaves lies in `folder`.
    """
    process = subprocess.Popen(
        [
            *("taskset", "-c", str(min(os.sched_getaffinity(0)))),
            *(str(python), "-m", module, redis_url),
            *("--callers", str(CALLERS), "--seconds", str(SECONDS)),
        ],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": folder},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        names: list[str] = json.loads(_reply(process.stdout, module))
        yield [Contender(name, process.stdin, process.stdout) for name in names]
    finally:
        process.kill()
        process.wait(STOP_S_MAX)
        process.stdin.close()
        process.stdout.close()


def _reply(replies: IO[str], what: str) -> str:
    """The next line. An import may print lines of its own first; ours are JSON."""
    for line in replies:
        if line.startswith(("[", *"0123456789")):
            return line
    raise RuntimeError(f"{what} ended")


def _peer_versions() -> list[str]:
    script = (
        "from importlib.metadata import version\n"
        "for name in ('litellm', 'limits', 'coredis', 'redis'): print(name, version(name))"
    )
    finished = subprocess.run(
        [str(PEERS_PYTHON), "-c", script], capture_output=True, check=True, text=True, timeout=60
    )
    return finished.stdout.splitlines()
