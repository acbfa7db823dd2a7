"""The embedded server: a real Valkey or Redis, run by the limiter for itself, on one data folder.

Owns the decision who runs it: one process at a time; started again when it dies; reachable through
a unix socket only; and gone with the process that started it, however that ends. Linux and macOS.
Knows nothing of what is stored in it.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import weakref
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from limiter.errors import StartupError
from limiter.redis.folder import DataFolder
from limiter.redis.serverprocess import REPLY_MS_MAX, ServerProcess

# A server that dies this often without a long life in between has a cause that a restart does not
# mend, such as a damaged file.
RESTARTS_MAX = 10
LONG_LIFE_MS = 1_000
PAUSE_MS_FIRST = 100
PAUSE_MS_MAX = 5_000

logger = logging.getLogger(__name__)


def embedded_url(data_dir: Path) -> str | None:
    """The URL of the server that runs, or last ran, in this data folder; None if none ever did."""
    path = DataFolder(data_dir).last_socket_path()
    return None if path is None else _url(path)


def running_url(data_dir: Path) -> str | None:
    """The URL of the server that runs in this data folder now; None if none does."""
    path = DataFolder(data_dir).last_socket_path()
    if path is None:
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(REPLY_MS_MAX / 1_000)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
    return _url(path)


class EmbeddedServer:
    """The server in `<data_dir>/redis`, run with `binary` or with the first one that is found.

    May be used from any thread. While it is started, a thread watches the server and starts it
    again when it dies: at once, then with growing pauses, at most RESTARTS_MAX times in a row.
    """

    def __init__(self, data_dir: Path, binary: Path | None = None) -> None:
        self._folder = DataFolder(data_dir)
        self._binary = binary
        self._owner_lock_fd: int | None = None
        self._process: ServerProcess | None = None
        self._watcher: threading.Thread | None = None
        self._stopping = threading.Event()
        self._mutex = threading.Lock()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def socket_path(self) -> Path:
        """Raises StartupError unless the server is started."""
        return self._started().socket_path

    @property
    def pid(self) -> int | None:
        """The process id of the server that was started last; None while it is stopped."""
        return None if self._process is None else self._process.pid

    @property
    def log_path(self) -> Path:
        return self._folder.log_path

    def start(self) -> str:
        """Starts the server, waits until it has loaded its data, and returns its `unix://` URL.

        Raises StartupError if there is no fitting binary, if another process owns the folder, or
        if the server does not come up.
        """
        with self._mutex:
            if self._process is not None:
                raise StartupError(f"the embedded server in {self._folder.path} is started already")
            self._stopping.clear()
            self._folder.create()
            self._owner_lock_fd = self._folder.lock_as_owner()
            _owned.add(self)
            try:
                self._process = ServerProcess(self._folder, self._binary, self._stopping)
                self._process.start()
            except BaseException:
                self._disown()
                raise
            self._watch()
            return _url(self._process.socket_path)

    def ensure_running(self) -> str:
        """Starts the server again if it has died, waits until it answers, and returns its URL.

        Raises StartupError if it is not started or does not come up again.
        """
        with self._mutex:
            process = self._started()
            if not process.answers():
                if process.status(REPLY_MS_MAX) is None:
                    process.await_answer()
                else:
                    process.start()
            self._watch()
            return _url(process.socket_path)

    def stop(self) -> None:
        """Lets the server write what it has and end; kills it if it does not. Idempotent."""
        # Set before the mutex is taken, so that a restart that has it gives up waiting.
        self._stopping.set()
        with self._mutex:
            if self._process is not None:
                try:
                    self._process.end()
                finally:
                    self._disown()
            watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.join()

    def _started(self) -> ServerProcess:
        if self._process is None:
            raise StartupError("the embedded server has not been started")
        return self._process

    def _disown(self) -> None:
        _owned.discard(self)
        self._process = None
        if self._owner_lock_fd is not None:
            os.close(self._owner_lock_fd)
            self._owner_lock_fd = None

    def _watch(self) -> None:
        if self._watcher is None or not self._watcher.is_alive():
            self._watcher = threading.Thread(
                target=self._restart_whenever_it_dies,
                args=[self._started()],
                name="embedded-server",
                daemon=True,
            )
            self._watcher.start()

    def _restart_whenever_it_dies(self, process: ServerProcess) -> None:
        restarts = 0
        while restarts < RESTARTS_MAX:
            began = time.monotonic()
            status = process.status(wait_ms=None)
            if (time.monotonic() - began) * 1000 >= LONG_LIFE_MS:
                restarts = 0
            pause_ms = min(PAUSE_MS_FIRST * 2**restarts, PAUSE_MS_MAX) if restarts else 0
            if self._stopping.wait(pause_ms / 1000):
                return
            restarts += 1
            with self._mutex:
                # Another thread may have stopped or restarted it since.
                if self._stopping.is_set():
                    return
                if process.status(wait_ms=0) is not None:
                    logger.error(
                        "embedded server: ended with status %s; restart %d of at most %d in a row",
                        status,
                        restarts,
                        RESTARTS_MAX,
                    )
                    self._restart(process)
        logger.critical("embedded server: given up until the next start; see %s", self.log_path)

    def _restart(self, process: ServerProcess) -> None:
        try:
            process.start()
        except StartupError as error:
            if not self._stopping.is_set():
                logger.error("embedded server: %s", error)

    def _forget_in_forked_child(self) -> None:
        """The parent is the owner: what a child inherits would keep server and locks alive."""
        self._mutex = threading.Lock()
        self._watcher = None
        if self._process is not None:
            self._process.forget()
        self._disown()


_owned: weakref.WeakSet[EmbeddedServer] = weakref.WeakSet()


def _forget_all_in_forked_child() -> None:
    for server in list(_owned):
        server._forget_in_forked_child()


os.register_at_fork(after_in_child=_forget_all_in_forked_child)


def _url(socket_path: Path) -> str:
    return f"unix://{quote(str(socket_path))}"
