"""How long it takes from the start of the process to the first answered check.

With the embedded server and every setting at its default, on a data folder that was used before.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.processes import (
    POLL_MS,
    START_MS_MAX,
    STOP_MS_MAX,
    environment_with,
    free_port,
    service_command,
    started,
)
from bench.report import AtMost, Results, median_row
from bench.scene import check_body
from limiter.redis.binaries import find_binary

NAME = "start"

CHECKS = 100


def measure(rounds: int) -> Results:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        # The first start makes the folder and brings the programs into the system's cache.
        with _service(folder) as (process, port):
            _first_answer(process, port, folder)
            for _ in range(CHECKS):
                assert _status(port) == 200
        seconds = []
        for _ in range(rounds):
            begin = time.perf_counter()
            with _service(folder) as (process, port):
                _first_answer(process, port, folder)
                seconds.append(time.perf_counter() - begin)
    return Results(
        name=NAME,
        title="Start to first answer",
        rows=[median_row("limiter serve, embedded, to its first 200", seconds, "s", bar=AtMost(2))],
        rounds=rounds,
        conditions=[
            "From the start of the process to the first POST /check that is answered with 200.",
            f"Tried every {POLL_MS} ms. One worker, SQLite, the embedded server: all by default.",
            f"A data folder that an earlier run left in order, after {CHECKS} checks.",
        ],
        software=[str(find_binary(None, None).release)],
    )


@contextlib.contextmanager
def _service(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The service, told to end at the end of the block, as a deployment does."""
    port = free_port()
    environment = environment_with(LIMITER_PORT=port, LIMITER_DATA_DIR=folder / "data")
    with started(service_command(), environment, folder / "service.log") as process:
        yield process, port
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_MS_MAX / 1000)


def _first_answer(process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    deadline = time.monotonic() + START_MS_MAX / 1000
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if _status(port) == 200:
                return
        time.sleep(POLL_MS / 1000)
    raise RuntimeError((folder / "service.log").read_text(encoding="utf-8")[-2000:])


def _status(port: int) -> int:
    """The status of one check."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_MS_MAX / 1000)
    with contextlib.closing(connection):
        body = {**check_body("bench"), "chat_id": "chat"}
        headers = {"content-type": "application/json"}
        connection.request("POST", "/check", json.dumps(body), headers)
        return connection.getresponse().status
