"""A PostgreSQL cluster of the tests' own: in a temporary folder, on a unix socket, for one run.

It ends with the test run, also when that is killed. `initdb` refuses to run as root; then the
cluster belongs to an unprivileged user. It must not know what is tested.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TypedDict

import psycopg
import pytest

from tests.support.parts import need

PART = "postgres"
SUPERUSER = "limiter"
START_MS_MAX = 60_000
STOP_MS_MAX = 30_000
POLL_MS = 10

# Says the server's pid and tells the server to end when standard input does, which it does with
# this test run however that ends.
_GUARD = '"$@" </dev/null & pid=$!; echo $pid; exec >&-; cat >/dev/null; kill -INT $pid; wait $pid'


class _Identity(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


@dataclass(slots=True)
class PostgresCluster:
    """A cluster. `start` and `stop` may alternate; it runs when a test gets it."""

    binaries: Path
    folder: Path
    # None: the user that runs the tests.
    owner: pwd.struct_passwd | None
    options: tuple[str, ...]
    pid: int | None = None
    _guard: subprocess.Popen[bytes] | None = None
    _numbers: Iterator[int] | None = None

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{SUPERUSER}@/{database}?host={self.folder}"

    def create_database(self) -> str:
        """A new database's URL."""
        self._numbers = self._numbers or count(1)
        name = f"limiter_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        name = url.partition("?")[0].rpartition("/")[2]
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement.encode())

    def create(self) -> None:
        subprocess.run(
            [
                *[str(self.binaries / "initdb"), "--pgdata", str(self.folder / "data")],
                *["--username", SUPERUSER, "--auth", "trust", "--encoding", "UTF8", "--no-locale"],
                "--no-sync",
            ],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd=self.folder,
            **self._as_owner(),
        )

    def start(self) -> None:
        with (self.folder / "server.log").open("ab") as log:
            self._guard = subprocess.Popen(
                [
                    *["/bin/sh", "-c", _GUARD, "sh", str(self.binaries / "postgres")],
                    *["-D", str(self.folder / "data"), "-k", str(self.folder)],
                    *["-c", "listen_addresses=", *self.options],
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self.folder,
                # A Ctrl-C in the terminal is for the test run, which then ends its servers.
                start_new_session=True,
                **self._as_owner(),
            )
        assert self._guard.stdout is not None
        with self._guard.stdout:
            self.pid = int(self._guard.stdout.readline())
        deadline = time.monotonic() + START_MS_MAX / 1000
        while True:
            try:
                psycopg.connect(self.url()).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._guard.poll() is not None:
                    words = (self.folder / "server.log").read_text(errors="replace")[-1000:]
                    raise TimeoutError(f"no PostgreSQL; it last said: {words}") from None
            time.sleep(POLL_MS / 1000)

    def stop(self) -> None:
        """Ends the server as a shutdown would: connections are cut."""
        if self._guard is not None:
            assert self._guard.stdin is not None
            self._guard.stdin.close()
            self._guard.wait(STOP_MS_MAX / 1000)
        self._guard = self.pid = None

    def _as_owner(self) -> _Identity:
        if self.owner is None:
            return {}
        return {"user": self.owner.pw_uid, "group": self.owner.pw_gid, "extra_groups": []}


@contextlib.contextmanager
def postgres_cluster(*options: str) -> Iterator[PostgresCluster]:
    """A cluster that runs. `options` are further arguments of the server.

    It does not wait for the disk: the machine does not lose power in a test.
    """
    binaries = need(PART, _binaries(), "PostgreSQL's initdb")
    owner = _unprivileged_user()
    with tempfile.TemporaryDirectory(prefix="limiter-pg-") as name:
        folder = Path(name)
        if owner is not None:
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        cluster = PostgresCluster(binaries, folder, owner, ("-c", "fsync=off", *options))
        cluster.create()
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresCluster]:
    """The cluster that all tests of a run share; each makes databases of its own."""
    with postgres_cluster() as cluster:
        yield cluster


def _binaries() -> Path | None:
    """The folder of initdb and postgres, which a wrapper on PATH may not be in."""
    # Debian keeps one folder per major version, off PATH.
    folders = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"),
        key=lambda path: int(path.parent.name) if path.parent.name.isdigit() else 0,
    )
    found = shutil.which("initdb")
    if found is not None:
        folders.append(Path(found).resolve().parent)
    return next((path for path in reversed(folders) if (path / "postgres").exists()), None)


def _unprivileged_user() -> pwd.struct_passwd | None:
    """Whom the cluster is to belong to, if not to the user that runs the tests."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise LookupError("there is no unprivileged user to run PostgreSQL as")
