"""Programs under load: started on a loopback port, waited for, and killed by their own ids.

It must not measure.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

START_MS_MAX = 30_000
STOP_MS_MAX = 10_000
POLL_MS = 5


def service_command() -> list[str]:
    return [str(Path(sys.executable).with_name("limiter")), "serve"]


def uvicorn_command(factory: str, port: int) -> list[str]:
    """An app behind the server that the service uses, with the options that it uses."""
    return [
        *(sys.executable, "-m", "uvicorn", "--factory", factory, "--port", str(port)),
        *("--loop", "uvloop", "--http", "httptools", "--ws", "none", "--lifespan", "on"),
        *("--no-access-log", "--no-server-header", "--log-level", "warning"),
    ]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment_with(**variables: object) -> dict[str, str]:
    """This process's environment without settings of the limiter but those given."""
    inherited = {name: value for name, value in os.environ.items() if "LIMITER" not in name}
    return inherited | {name: str(value) for name, value in variables.items()}


def pin(pid: int, cores: set[int]) -> None:
    """Keeps all threads of a process, and what they start from now on, on these cores."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), cores)


def children(pid: int) -> list[int]:
    """The processes that a process has started itself."""
    text = "".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    return [int(child) for child in text.split()]


def processor_us(pid: int) -> float:
    """The time that a process has had a core for, by now."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") * 1e6


@contextlib.contextmanager
def started(
    command: Sequence[str], environment: Mapping[str, str], log_path: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A program and all that it starts; killed at the end whatever happens."""
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP_MS_MAX / 1000)


@contextlib.contextmanager
def listening(
    command: Sequence[str], environment: Mapping[str, str], log_path: Path, port: int
) -> Iterator[int]:
    """The same for a server, once its port takes connections: its process id."""
    with started(command, environment, log_path) as process:
        deadline = time.monotonic() + START_MS_MAX / 1000
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(POLL_MS / 1000)
        else:
            raise RuntimeError(f"{command[0]} does not listen: {log_path.read_text()[-2000:]}")
        yield process.pid
