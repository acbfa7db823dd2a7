"""The embedded server's data folder: who owns it, who wrote it, where the socket is, the log.

Owns the files in the folder that are not the server's own; it starts and ends nothing.

    owner.lock    locked by the limiter process that runs the server; holds its pid
    server.lock   locked by the server process itself; holds its pid
    server.json   the release that last wrote the data, and the path of the socket
    server.sock   the server's unix socket, unless the folder's path is too long for one
    server.log    what the server says; the one before it is server.log.1
    appendonlydir or appendonly.aof: the data

Both locks are `flock` locks, which the kernel drops with the last process that holds them, so
neither can be left behind. The server's lock is inherited by the server: it is held while a server
lives on this data, whatever became of the process that started it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import stat
import tempfile
from pathlib import Path
from typing import IO, Any

from limiter.errors import StartupError
from limiter.redis.binaries import Release

# Linux allows 107 bytes for the path of a unix socket and macOS 103.
SOCKET_PATH_BYTES_MAX = 103
LOG_BYTES_MAX = 1 << 20
LOG_TAIL_BYTES = 4096


class DataFolder:
    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir.resolve() / "redis"
        self.log_path = self.path / "server.log"
        self._owner_lock_path = self.path / "owner.lock"
        self._server_lock_path = self.path / "server.lock"
        self._state_path = self.path / "server.json"

    def create(self) -> None:
        """Raises StartupError if the folder cannot be made."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StartupError(f"cannot create the folder {self.path}: {error.strerror}") from error

    def lock_as_owner(self) -> int:
        """Locks the folder for this process; the lock lasts until the descriptor is closed.

        Raises StartupError naming the process that has it.
        """
        fd = _open_lock(self._owner_lock_path)
        if not _try_lock(fd):
            os.close(fd)
            raise StartupError(
                f"the embedded server in {self.path} already belongs to process "
                f"{_pid_in(self._owner_lock_path)}. Stop that process, or choose another folder "
                "with LIMITER_DATA_DIR."
            )
        _write_pid(fd, os.getpid())
        return fd

    def try_lock_for_server(self) -> int | None:
        """The lock that the next server is to inherit, or None while a server lives here."""
        fd = _open_lock(self._server_lock_path)
        if _try_lock(fd):
            return fd
        os.close(fd)
        return None

    def remember_server(self, lock_fd: int, pid: int) -> None:
        _write_pid(lock_fd, pid)

    def server_pid(self) -> str:
        """The pid of the server that lives here, as text; for messages."""
        return _pid_in(self._server_lock_path)

    def written_by(self) -> Release | None:
        """The release that wrote the data, or None if there is no data or nobody wrote it down."""
        if not self._has_data():
            return None
        state = self._state()
        try:
            return Release.parse(state["engine"], state["version"])
        except (KeyError, TypeError, ValueError):
            return None

    def remember_release(self, release: Release, socket_path: Path) -> None:
        """To be called before that release first writes."""
        state = {
            "engine": release.engine,
            "version": release.version_text,
            "socket": str(socket_path),
        }
        scratch = self._state_path.with_suffix(".json.new")
        scratch.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
        scratch.replace(self._state_path)

    def last_socket_path(self) -> Path | None:
        """Where the server of this folder listens or last listened; None if there never was one.

        It is read back, and not computed again, because the process that asks may have another
        TMPDIR than the one that started the server.
        """
        path = self._state().get("socket")
        return Path(path) if isinstance(path, str) else None

    def new_socket_path(self) -> Path:
        """In the folder if that fits, else in a private folder below the system's temporary one."""
        path = self.path / "server.sock"
        if _fits(path):
            return path
        name = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16] + ".sock"
        for parent in (Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108 made private below
            path = parent / f"limiter-{os.getuid()}" / name
            if _fits(path):
                _make_private(path.parent)
                return path
        raise StartupError(f"no folder has a path short enough for the socket of {self.path}")

    def open_log(self) -> IO[bytes]:
        """For appending. A log that has grown large becomes `server.log.1`."""
        try:
            if self.log_path.stat().st_size > LOG_BYTES_MAX:
                self.log_path.replace(self.log_path.with_name("server.log.1"))
        except FileNotFoundError:
            pass
        return self.log_path.open("ab")

    def last_words(self) -> str:
        """The last line of the log."""
        with self.log_path.open("rb") as log:
            log.seek(max(0, self.log_path.stat().st_size - LOG_TAIL_BYTES))
            lines = log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "(it said nothing)"

    def _has_data(self) -> bool:
        """Redis 6 keeps one file; later ones and Valkey keep several in a folder."""
        single = self.path / "appendonly.aof"
        if single.exists() and single.stat().st_size > 0:
            return True
        several = self.path / "appendonlydir"
        return several.is_dir() and any(several.iterdir())

    def _state(self) -> dict[str, Any]:
        try:
            state = json.loads(self._state_path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}


def _open_lock(path: Path) -> int:
    # The file is never removed: a process that waits on a removed file would hold a lock that no
    # later process can see.
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StartupError(f"cannot open {path}: {error.strerror}") from error


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_pid(fd: int, pid: int) -> None:
    os.ftruncate(fd, 0)
    os.pwrite(fd, b"%d\n" % pid, 0)


def _pid_in(path: Path) -> str:
    # The holder writes its pid just after it takes the lock, so the file may still be empty.
    text = path.read_text(encoding="ascii", errors="replace").strip()
    return text if text.isdigit() else "(unknown)"


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX


def _make_private(folder: Path) -> None:
    """A shared temporary folder lets anyone make this folder first; theirs is not to be used."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    private = stat.S_ISDIR(status.st_mode) and stat.S_IMODE(status.st_mode) & 0o077 == 0
    if not private or status.st_uid != os.getuid():
        raise StartupError(
            f"{folder} is to hold the embedded server's socket, but it is not a private folder of "
            "this user. Remove it, or choose a shorter LIMITER_DATA_DIR."
        )
