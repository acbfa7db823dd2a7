"""Connections to the database, the threads that use them, and the one place that maps its errors.

One thread writes and a few read, each call in one transaction. On SQLite a write takes the lock at
its begin, so that it never fails half-way for want of it; a read sees one state throughout.
It must not know any table.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    InterfaceError,
    InternalError,
    OperationalError,
)

from limiter.errors import StartupError, StoreUnavailable

T = TypeVar("T")

READERS = 4
# Calls that wait for the thread that writes. Beyond that durable storage counts as away.
WAITING_MAX = 10_000
LOCK_WAIT_MS = 5_000
STATEMENT_MS_MAX = 60_000
CONNECT_MS_MAX = 5_000
POLL_MS = 10
WAL_BYTES_KEPT = 67_108_864

SQLITE = "sqlite"
POSTGRESQL = "postgresql"


def parse_url(url: str) -> URL:
    """The URL with the driver that is used. Raises StartupError, and never quotes the URL."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StartupError("the URL of durable storage is not one") from None
    if parsed.drivername == POSTGRESQL:
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername == "postgresql+psycopg":
        return parsed
    if parsed.drivername != SQLITE:
        raise StartupError("durable storage is sqlite:///… or postgresql://…")
    if parsed.database in (None, "", ":memory:"):
        raise StartupError("the URL of durable storage names no file: sqlite:///limiter.db")
    return parsed


class Database:
    """Two engines on one database, and the threads that use them. Not for use after `close`."""

    def __init__(self, url: str, *, lock_wait_ms: int = LOCK_WAIT_MS) -> None:
        self.url = parse_url(url)
        self.dialect = self.url.get_backend_name()
        self._lock_wait_ms = lock_wait_ms
        self._writer = self._engine(reads_only=False)
        self._reader = self._engine(reads_only=True)
        self._write_thread = ThreadPoolExecutor(1, "limiter-store-write")
        self._read_threads = ThreadPoolExecutor(READERS, "limiter-store-read")
        self._waiting = 0
        self._closed = False

    async def write(self, work: Callable[[Connection], T]) -> T:
        """`work` in one transaction on the thread that writes. Raises StoreUnavailable.

        If that comes from the commit itself, whether it took effect is unknown.
        """
        return await self._run(self._write_thread, lambda: self._in_transaction(self._writer, work))

    async def read(self, work: Callable[[Connection], T]) -> T:
        """`work` on one consistent state. Raises StoreUnavailable."""
        return await self._run(self._read_threads, lambda: self._in_transaction(self._reader, work))

    async def prepare(self, work: Callable[[Engine], T]) -> T:
        """Makes what has to be there before the first transaction, then runs `work`."""

        def prepare() -> T:
            with unavailable():
                if self.dialect == SQLITE:
                    self._create_file()
                return work(self._writer)

        return await self._run(self._write_thread, prepare)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """One consistent state, on the caller's own thread. Raises StoreUnavailable."""
        with unavailable(), self._reader.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction on the caller's own thread. Raises StoreUnavailable."""
        with unavailable(), self._writer.begin() as connection:
            yield connection

    def engine_for_locks(self, connections: int, *, wait_ms: int) -> Engine:
        """Connections of their own to PostgreSQL, on which a lock is waited for so long."""
        return create_engine(
            self.url,
            pool_size=connections,
            max_overflow=0,
            pool_pre_ping=True,
            isolation_level="AUTOCOMMIT",
            connect_args=self._postgresql_arguments(wait_ms),
        )

    async def close(self) -> None:
        """Waits for what has begun, and lets go of the connections. Harmless to repeat."""
        self._closed = True

        def close() -> None:
            self._write_thread.shutdown()
            self._read_threads.shutdown()
            self._writer.dispose()
            self._reader.dispose()

        await asyncio.to_thread(close)

    async def _run(self, executor: Executor, call: Callable[[], T]) -> T:
        if self._closed:
            raise StoreUnavailable("durable storage is closed")
        if self._waiting >= WAITING_MAX:
            raise StoreUnavailable("too many calls wait for durable storage")
        self._waiting += 1
        future = asyncio.get_running_loop().run_in_executor(executor, call)
        # Also a call whose caller went away is under way until its thread has ended it.
        future.add_done_callback(self._ended)
        return await asyncio.shield(future)

    def _ended(self, future: asyncio.Future[Any]) -> None:
        self._waiting -= 1
        if not future.cancelled():
            # Its caller may be gone; then nobody else asks, and asyncio would complain.
            future.exception()

    @staticmethod
    def _in_transaction(engine: Engine, work: Callable[[Connection], T]) -> T:
        with unavailable(), engine.begin() as connection:
            return work(connection)

    def _engine(self, *, reads_only: bool) -> Engine:
        pool_size = READERS if reads_only else 1
        if self.dialect == SQLITE:
            engine = create_engine(
                self.url,
                poolclass=sqlalchemy.QueuePool,
                pool_size=pool_size,
                max_overflow=0,
                connect_args={"timeout": self._lock_wait_ms / 1000, "check_same_thread": False},
            )
            event.listen(engine, "connect", _sqlite_reader if reads_only else _sqlite_writer)
            event.listen(engine, "begin", _begin if reads_only else _begin_immediate)
            return engine
        engine = create_engine(
            self.url,
            pool_size=pool_size,
            max_overflow=0,
            # A server that was restarted meanwhile costs no call.
            pool_pre_ping=True,
            isolation_level="REPEATABLE READ" if reads_only else "READ COMMITTED",
            connect_args=self._postgresql_arguments(self._lock_wait_ms),
        )
        return engine.execution_options(postgresql_readonly=True) if reads_only else engine

    def _postgresql_arguments(self, lock_wait_ms: int) -> dict[str, object]:
        options = self.url.query.get("options", "")
        given = options if isinstance(options, str) else " ".join(options)
        return {
            "application_name": "limiter",
            "connect_timeout": CONNECT_MS_MAX // 1000,
            # A server that vanished without a word is noticed within half a minute.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
            "options": f"{given} -c lock_timeout={lock_wait_ms}"
            f" -c statement_timeout={STATEMENT_MS_MAX}"
            # A process that was frozen in the middle does not keep its locks.
            f" -c idle_in_transaction_session_timeout={STATEMENT_MS_MAX}".strip(),
        }

    def _create_file(self) -> None:
        """The file, in write-ahead mode, which stays with it.

        Changing the mode does not wait for others that do so at the same moment, so this does.
        """
        path = Path(self.url.database or "")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StartupError(f"cannot make the folder of {path}: {error}") from error
        deadline = time.monotonic() + self._lock_wait_ms / 1000
        while True:
            try:
                with contextlib.closing(sqlite3.connect(path)) as connection:
                    connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.DatabaseError as error:
                waits = isinstance(error, sqlite3.OperationalError)
                if not waits or time.monotonic() > deadline:
                    raise StoreUnavailable(_reason(error)) from error
                time.sleep(POLL_MS / 1000)


@contextlib.contextmanager
def unavailable() -> Iterator[None]:
    """Turns the errors of a database that is away, locked, full or broken into StoreUnavailable.

    What is left are errors of the program: a wrong statement, a violated constraint.
    """
    try:
        yield
    except DBAPIError as error:
        if is_unavailable(error):
            raise StoreUnavailable(_reason(error.orig)) from error
        raise
    except (sqlalchemy.exc.TimeoutError, OSError) as error:
        raise StoreUnavailable(_reason(error)) from error


def is_unavailable(error: DBAPIError) -> bool:
    """A damaged file is a plain DatabaseError; integrity and programming errors are not."""
    away = isinstance(error, OperationalError | InterfaceError | InternalError)
    return away or error.connection_invalidated or type(error) is DatabaseError


def _reason(error: BaseException | None) -> str:
    """Names the kind of error only: its message may name hosts and users."""
    name = getattr(error, "sqlite_errorname", None) or type(error).__name__
    return f"durable storage cannot answer: {name}"


def _sqlite_writer(connection: Any, _: object) -> None:
    # The driver's own transactions would begin only at the first write, and then without waiting.
    connection.isolation_level = None
    # Only FULL survives a loss of power after the commit.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT}")


def _sqlite_reader(connection: Any, _: object) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA query_only = ON")


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
