"""One embedded server process at a time: its configuration, its start, its end.

Owns the process tree limiter → guardian → server (see `guardian.py`). The two children are in a
session of their own, so that a Ctrl-C or a hang-up in the terminal reaches the limiter alone, which
ends the server after everything else. Who may run a server, and whether one that died is started
again, is decided in `embedded.py`.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from limiter.errors import StartupError
from limiter.redis import guardian
from limiter.redis.binaries import find_binary
from limiter.redis.folder import DataFolder

POLL_MS = 5
REPLY_MS_MAX = 1_000
START_MS_MAX = 10_000
LOADING_MS_MAX = 600_000
STOP_MS_MAX = 10_000

# Everything here exists since Redis 6.2.
OPTIONS = {
    "port": "0",
    "unixsocketperm": "700",
    "daemonize": "no",
    "loglevel": "notice",
    # To standard output, and so into the same file as what goes wrong before there is a log.
    "logfile": "",
    "save": "",
    "appendonly": "yes",
    # Every write reaches the system before it is answered, so that a kill of the server loses
    # nothing; `everysec` keeps writes back while a sync is under way. A power failure may lose
    # half a minute here, which is repaired from durable storage.
    "appendfsync": "no",
    # A kill in the middle of a write leaves half a command at the end.
    "aof-load-truncated": "yes",
    "maxmemory-policy": "noeviction",
    "lazyfree-lazy-expire": "yes",
}

logger = logging.getLogger(__name__)


class ServerProcess:
    """A server on a data folder that this process owns. Only `status` may be called concurrently.

    `pid` is that of the server that was started last, and None once it was ended from here.
    `cancelled` makes a start that waits for the server give up.
    """

    def __init__(self, folder: DataFolder, binary: Path | None, cancelled: threading.Event) -> None:
        self.pid: int | None = None
        self.socket_path = folder.new_socket_path()
        self._folder = folder
        self._binary = binary
        self._cancelled = cancelled
        self._guardian: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def start(self) -> None:
        """Returns once the server answers. Raises StartupError, and leaves none behind."""
        self._end_guardian()
        try:
            self._start()
        except OSError as error:
            raise StartupError(f"the embedded server cannot be started: {error}") from error

    def answers(self) -> bool:
        return self._ping().startswith(b"+PONG")

    def await_answer(self) -> None:
        """Waits until the server answers PING, which it does not do before it has loaded its data.

        Raises StartupError if it ends, if it says nothing for START_MS_MAX, if loading takes
        longer than LOADING_MS_MAX, or if the wait is cancelled.
        """
        begin = time.monotonic()
        loading = False
        while not self._cancelled.is_set():
            answer = self._ping()
            if answer.startswith(b"+PONG"):
                return
            loading = loading or answer.startswith(b"-LOADING")
            waited_ms = (time.monotonic() - begin) * 1000
            if self.status(wait_ms=0) is not None:
                raise self._startup_error("ended")
            if waited_ms > (LOADING_MS_MAX if loading else START_MS_MAX):
                raise self._startup_error(f"did not answer within {waited_ms:.0f} ms")
            self._cancelled.wait(POLL_MS / 1000)
        raise StartupError("the embedded server was stopped while it started")

    def status(self, wait_ms: int | None) -> int | None:
        """The exit status of the server that was started last; None if it runs on after the wait.

        The guardian's status stands for it: when the guardian dies, the server has to go too.
        """
        started = self._guardian
        if started is None:
            return 0
        try:
            return started.wait(None if wait_ms is None else wait_ms / 1000)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> None:
        """Lets the server write what it has and end; kills it after STOP_MS_MAX."""
        self._end_guardian()
        try:
            # Finds a server whose guardian was killed, so that none is left behind.
            os.close(self._lock())
        except StartupError as error:
            logger.error("%s", error)
            pid = self._folder.server_pid()
            if pid.isdigit():
                os.kill(int(pid), signal.SIGKILL)

    def forget(self) -> None:
        """For a forked child: lets go of the server without ending it, as it is the parent's."""
        self.pid = None
        if self._control is not None:
            self._control.close()
        if self._guardian is not None:
            # It is no child of this process, which therefore must not wait for it.
            self._guardian.returncode = 0
            self._guardian = None

    def _start(self) -> None:
        binary = find_binary(self._binary, self._folder.written_by())
        lock_fd = self._lock()
        try:
            self._folder.remember_release(binary.release, self.socket_path)
            self._control, theirs = socket.socketpair()
            options = OPTIONS | {"dir": str(self._folder.path), "unixsocket": str(self.socket_path)}
            with theirs, self._folder.open_log() as log:
                self._guardian = subprocess.Popen(
                    [
                        *[sys.executable, "-I", "-S", guardian.__file__],
                        *[str(STOP_MS_MAX), str(lock_fd), str(binary.path)],
                        *[part for name, value in options.items() for part in (f"--{name}", value)],
                    ],
                    stdin=theirs.fileno(),
                    stdout=log,
                    stderr=log,
                    pass_fds=[lock_fd],
                    start_new_session=True,
                    cwd=self._folder.path,
                )
            self._control.settimeout(START_MS_MAX / 1000)
            pid_line = self._control.recv(32)
            if not pid_line:
                self._guardian.wait()
                raise self._startup_error("ended")
            self.pid = int(pid_line)
            self._folder.remember_server(lock_fd, self.pid)
            self.await_answer()
        except BaseException:
            self._end_guardian()
            raise
        finally:
            # From here on the lock is the server's alone, and tells whether one lives.
            os.close(lock_fd)
        logger.info("embedded server: %s, pid %d, %s", binary, self.pid, self.socket_path)

    def _lock(self) -> int:
        """The lock for the next server, once no earlier one is left on the data.

        This process owns the folder, so an earlier server has lost its owner: its guardian is about
        to end it, or was itself killed. Either way it may be told to end.
        """
        lock_fd = self._folder.try_lock_for_server()
        if lock_fd is not None:
            return lock_fd
        leftover = self._folder.last_socket_path()
        if leftover is not None:
            _ask(leftover, b"SHUTDOWN NOSAVE\r\n")
        deadline = time.monotonic() + (STOP_MS_MAX + REPLY_MS_MAX) / 1000
        while time.monotonic() < deadline:
            lock_fd = self._folder.try_lock_for_server()
            if lock_fd is not None:
                return lock_fd
            time.sleep(POLL_MS / 1000)
        raise StartupError(
            f"an earlier server, process {self._folder.server_pid()}, still runs on the data in "
            f"{self._folder.path} and does not end when told to. Kill it and start again."
        )

    def _end_guardian(self) -> None:
        self.pid = None
        if self._control is not None:
            self._control.close()
        if self.status(STOP_MS_MAX + REPLY_MS_MAX) is None and self._guardian is not None:
            self._guardian.kill()
            self._guardian.wait()

    def _ping(self) -> bytes:
        return _ask(self.socket_path, b"PING\r\n")

    def _startup_error(self, what: str) -> StartupError:
        return StartupError(
            f"the embedded server {what} at start. It last said: {self._folder.last_words()} "
            f"(more in {self._folder.log_path})"
        )


def _ask(socket_path: Path, command: bytes) -> bytes:
    """The first bytes of the answer; empty if nobody answers in time."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(REPLY_MS_MAX / 1000)
        try:
            connection.connect(str(socket_path))
            connection.sendall(command)
            return connection.recv(64)
        except OSError:
            return b""
