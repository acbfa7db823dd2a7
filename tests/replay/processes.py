"""A real service in a process of its own, which a test may kill and start again."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2

_START_S_MAX = 60.0
_STOP_S_MAX = 30.0
_POLL_S = 0.05


class ServiceProcess:
    """`limiter serve` with its embedded server, on a free port, with its data in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once it is ready. Fails with its last words when it ends, or takes too long."""
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("LIMITER_")
        }
        with (self._folder / "service.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    Path(sys.executable).with_name("limiter"),
                    *("serve", "--port", str(self._port)),
                    *("--data-dir", self._folder / "data"),
                ],
                cwd=self._folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_S_MAX
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                words = (self._folder / "service.log").read_text(errors="replace")[-2_000:]
                raise AssertionError(f"the service is not ready; it last said: {words}")
            time.sleep(_POLL_S)

    def kill(self) -> None:
        """As a machine would: the process gets no chance to do anything."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """As an operator would."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(_STOP_S_MAX)
        finally:
            # Does nothing to a process that has ended.
            self._process.kill()
            self._process = None

    def _is_ready(self) -> bool:
        try:
            answer = httpx2.get(f"{self.url}/readyz", timeout=1.0, trust_env=False)
        except httpx2.RequestError:
            return False
        return answer.status_code == httpx2.codes.OK


@contextlib.contextmanager
def service_process(folder: Path) -> Iterator[ServiceProcess]:
    """A service that runs, and ends with the block."""
    service = ServiceProcess(folder)
    try:
        service.start()
        yield service
    finally:
        service.stop()
