"""One at a time, over all processes that use a database: who makes a snapshot pass has the turn.

A pass has entries in its memory which, when Redis is emptied meanwhile, are nowhere else until it
commits them. Who loads a workspace waits for it by taking a turn. A process that is frozen would
keep its turn for ever, so whoever has waited for long goes on without.
It must not know what is done in a turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import URL, Engine, text

from limiter.durable.engine import POSTGRESQL, Database, unavailable
from limiter.errors import StoreUnavailable

logger = logging.getLogger(__name__)

WAIT_MS_MAX = 2_000
POLL_MS = 2
# Any number that nothing else in the database uses.
ADVISORY_KEY = 4_811_923_751_300_166


class Turns:
    """Turns at a database. At most `THREADS` of a process wait at once."""

    THREADS = 2

    def __init__(self, database: Database) -> None:
        self._threads = ThreadPoolExecutor(self.THREADS, "limiter-store-turn")
        self._url = database.url
        self._engine: Engine | None = None
        if database.dialect == POSTGRESQL:
            self._engine = database.engine_for_locks(self.THREADS, wait_ms=WAIT_MS_MAX)

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for its turn, and has it until the block ends; without, after `WAIT_MS_MAX`."""
        loop = asyncio.get_running_loop()
        taken = _taken_on_server(self._engine) if self._engine else _taken_beside(self._url)
        entering = loop.run_in_executor(self._threads, _entered, taken)
        try:
            # A caller that goes away must not leave the turn taken.
            await asyncio.shield(entering)
            yield
        finally:
            if not entering.done():
                await asyncio.wait([entering])
            await loop.run_in_executor(self._threads, taken.__exit__, None, None, None)

    async def close(self) -> None:
        """Waits for the turns that are taken. Harmless to repeat."""
        await asyncio.to_thread(self._threads.shutdown)
        if self._engine is not None:
            self._engine.dispose()


def _entered(taken: contextlib.AbstractContextManager[bool]) -> None:
    if not taken.__enter__():
        logger.warning("another process keeps its turn at durable storage; going on without")


@contextlib.contextmanager
def _taken_beside(url: URL) -> Iterator[bool]:
    """A lock on a file beside the database, which goes with the process."""
    with contextlib.ExitStack() as stack:
        try:
            descriptor = os.open(f"{url.database}.turn", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            yield False
            return
        stack.callback(os.close, descriptor)
        yield _locked(descriptor)


def _locked(descriptor: int) -> bool:
    deadline = time.monotonic() + WAIT_MS_MAX / 1000
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_MS / 1000)
        else:
            return True


@contextlib.contextmanager
def _taken_on_server(engine: Engine) -> Iterator[bool]:
    """A lock on the server, which goes with the connection."""
    arguments = {"key": ADVISORY_KEY}
    with contextlib.ExitStack() as stack:
        try:
            with unavailable():
                connection = stack.enter_context(engine.connect())
                connection.execute(text("SELECT pg_advisory_lock(:key)"), arguments)
        except StoreUnavailable:
            yield False
            return
        yield True
        try:
            with unavailable():
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), arguments)
        except StoreUnavailable:
            # The connection is gone, and the lock with it.
            connection.invalidate()
