"""A real `limiter serve` in processes of its own, for tests from outside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_MS_MAX = 30_000
STOP_MS_MAX = 20_000
POLL_MS = 20


@dataclass(frozen=True, slots=True)
class Response:
    """An answer: status, headers in lower case, and the body, decoded if it is JSON."""

    status: int
    headers: Mapping[str, str]
    body: Any


class Service:
    """One service on a loopback port. Killed at the end whatever happens."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        # Presented with every request, unless that brings its own.
        self.key: str | None = None
        self._settings = {"data_dir": folder / "data", "port": self.port, **settings}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return (self.folder / "service.log").read_text(encoding="utf-8", errors="replace")

    def start(self, path: str = "/readyz") -> None:
        """Starts it and waits until it answers 200 there."""
        environment = {name: value for name, value in os.environ.items() if "LIMITER" not in name}
        for name, value in self._settings.items():
            environment[f"LIMITER_{name.upper()}"] = str(value)
        with (self.folder / "service.log").open("ab") as log:
            self._process = subprocess.Popen(
                [Path(sys.executable).with_name("limiter"), "serve"],
                env=environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_MS_MAX / 1000
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise AssertionError(f"the service ended: {self.log}")
            with contextlib.suppress(OSError):
                if self.get(path).status == 200:
                    return
            time.sleep(POLL_MS / 1000)
        raise AssertionError(f"the service does not answer: {self.log}")

    def stop(self, signal_number: int = signal.SIGINT) -> int:
        """Asks it to end, as Ctrl-C in its terminal would, and returns its exit status."""
        assert self._process is not None
        os.killpg(self._process.pid, signal_number)
        return self._process.wait(STOP_MS_MAX / 1000)

    def kill(self) -> None:
        """Ends everything that was started, at once. Harmless if it has ended."""
        if self._process is not None:
            # The keeper has a group of its own, in the same session.
            for pid in session_pids(self._process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait(STOP_MS_MAX / 1000)

    # ------------------------------------------------------------------ requests

    def get(self, path: str, **headers: str) -> Response:
        return self.request("GET", path, None, **headers)

    def post(self, path: str, body: object, **headers: str) -> Response:
        return self.request("POST", path, body, **headers)

    def patch(self, path: str, body: object) -> Response:
        return self.request("PATCH", path, body)

    def put(self, path: str, body: object) -> Response:
        return self.request("PUT", path, body)

    def delete(self, path: str) -> Response:
        return self.request("DELETE", path, None)

    def request(self, method: str, path: str, body: object, **headers: str) -> Response:
        """Any request; `body` None is none."""
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            headers["content-type"] = "application/json"
        if self.key is not None:
            headers.setdefault("authorization", f"Bearer {self.key}")
        request = urllib.request.Request(  # noqa: S310  # loopback only
            self.url + path, data=data, method=method, headers=headers
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:  # noqa: S310
                return _response(reply.status, reply.headers, reply.read())
        except urllib.error.HTTPError as error:
            with error:
                return _response(error.code, error.headers, error.read())


def _response(status: int, headers: Any, body: bytes) -> Response:
    lower = {name.lower(): value for name, value in headers.items()}
    is_json = "json" in lower.get("content-type", "")
    return Response(status, lower, json.loads(body) if is_json else body.decode() or None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def session_pids(session_id: int) -> set[int]:
    """The processes whose session, or parent chain, goes back to a service."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session_id:
                found.add(int(stat.parent.name))
    return found


@contextlib.contextmanager
def running_service(folder: Path, **settings: object) -> Iterator[Service]:
    service = Service(folder, **settings)
    try:
        service.start()
        yield service
    finally:
        service.kill()
