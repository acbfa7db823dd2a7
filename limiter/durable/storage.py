"""The face of durable storage: every operation of it, asynchronous. SQL is behind it, not in it.

Each call is one transaction, on threads of the storage's own. It must not speak to Redis.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import TracebackType
from typing import Self

from msgspec import UNSET, UnsetType
from sqlalchemy import Connection
from sqlalchemy.exc import DataError, IntegrityError

from limiter.durable import config, ledger, load, queue, retention, verify
from limiter.durable.api_keys import ApiKeys
from limiter.durable.books import UnknownWorkspaces
from limiter.durable.config import AuditRow
from limiter.durable.engine import LOCK_WAIT_MS, Database
from limiter.durable.entries import Entry, position
from limiter.durable.fold import Applied
from limiter.durable.ledger import DeadLetter, LedgerRow
from limiter.durable.migrate import migrate
from limiter.durable.queue import Queued, UnappliedRecord
from limiter.durable.reads import StorageReads
from limiter.durable.revisions import Revisions
from limiter.durable.turns import Turns
from limiter.durable.verify import Drift, Recomputed
from limiter.errors import StoreUnavailable
from limiter.stored import (
    ResolvedRecord,
    StoredChat,
    StoredSource,
    StoredWorkspace,
    WorkspaceSettings,
)

PAGE_ROWS = 1_000
_ATTEMPTS_MAX = 3


def wall_ms() -> int:
    """This process's clock. It dates the audit and queued records, and nothing that counts."""
    return time.time_ns() // 1_000_000


class Storage:
    """Durable storage at one URL: `sqlite:///…` or `postgresql://…`.

    Every method raises StoreUnavailable while the database is away, locked, full or broken; what
    else it raises is said with it. Moments are milliseconds, amounts micros. Calls may be made
    concurrently, and any number of processes may use the same database.
    """

    def __init__(self, url: str, *, lock_wait_ms: int = LOCK_WAIT_MS) -> None:
        """`lock_wait_ms`: how long a call waits for others that hold what it needs."""
        self._database = Database(url, lock_wait_ms=lock_wait_ms)
        self._turns = Turns(self._database)
        self.reads = StorageReads(self._database)
        self.api_keys = ApiKeys(self._database)
        self.revisions = Revisions(self._database)

    async def start(self) -> None:
        """Brings the database to this version of the program. Raises StartupError as well.

        Processes that start at the same moment wait for each other.
        """
        await self._database.prepare(migrate)

    async def close(self) -> None:
        """Waits for what has begun. Harmless to repeat."""
        await self._turns.close()
        await self._database.close()

    def turn(self) -> AbstractAsyncContextManager[None]:
        """One at a time over all processes: see `limiter.durable.turns`. It raises nothing."""
        return self._turns.turn()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    # ------------------------------------------------------------------ workspaces

    async def workspace(self, workspace_id: str) -> StoredWorkspace | None:
        """All that a cold workspace is loaded from; None if it was never configured."""
        return await self._database.read(lambda c: load.workspace(c, workspace_id))

    async def settings(self, workspace_id: str) -> WorkspaceSettings | None:
        """A workspace's configuration alone; None if it was never configured."""
        found = await self._database.read(
            lambda connection: load.settings(connection, workspace_id)
        )
        return None if found is None else found[0]

    async def workspace_head(self, workspace_id: str) -> tuple[int, int] | None:
        """The number of its last entry that is here, and its revision; None if never configured."""
        return await self._database.read(
            lambda connection: load.workspace_head(connection, workspace_id)
        )

    async def workspaces(self, after: str | None = None, limit: int = PAGE_ROWS) -> list[str]:
        """Ids in order, from behind `after`."""
        return await self._database.read(
            lambda connection: load.workspace_ids(connection, after, limit)
        )

    async def workspace_seqs(
        self, after: str | None = None, limit: int = PAGE_ROWS
    ) -> list[tuple[str, int]]:
        """Ids in order, from behind `after`, with the number of the last entry that is here."""
        return await self._database.read(
            lambda connection: load.workspace_seqs(connection, after, limit)
        )

    async def has_workspace(self, workspace_id: str) -> bool:
        """Also of a workspace that was never configured, and only has spend so far."""
        return await self._database.read(lambda c: load.has_workspace(c, workspace_id))

    async def create_workspace(
        self, workspace_id: str, initial: WorkspaceSettings, *, actor: str
    ) -> None:
        """Configures a workspace for the first time; nothing if it is configured."""
        await self._database.write(
            lambda connection: config.create_workspace(
                connection, workspace_id, initial, actor, wall_ms()
            )
        )

    async def configure_workspace(
        self,
        workspace_id: str,
        change: Callable[[WorkspaceSettings], WorkspaceSettings],
        *,
        initial: WorkspaceSettings,
        actor: str,
    ) -> tuple[WorkspaceSettings, int]:
        """Changes the configuration (or `initial`) and returns it with its revision.

        `change` runs on another thread, inside the transaction; what it raises undoes that.
        """
        return await self._database.write(
            lambda connection: config.configure_workspace(
                connection, workspace_id, change, initial, actor, wall_ms()
            )
        )

    async def audit(self, workspace_id: str, limit: int = PAGE_ROWS) -> Sequence[AuditRow]:
        """The latest changes of configuration, latest first, chats included."""
        return await self._database.read(
            lambda connection: config.audit(connection, workspace_id, limit)
        )

    # ------------------------------------------------------------------ chats, sources

    async def chat(self, workspace_id: str, chat_id: str) -> StoredChat | None:
        return await self._database.read(
            lambda connection: load.chat(connection, workspace_id, chat_id)
        )

    async def chats(
        self, workspace_id: str, after: str | None = None, limit: int = PAGE_ROWS
    ) -> list[StoredChat]:
        """A workspace's chats in the order of their ids, from behind `after`."""
        return await self._database.read(
            lambda connection: load.chat_page(connection, workspace_id, after, limit)
        )

    async def chat_children(self, workspace_id: str, chat_id: str, limit: int = 100) -> list[str]:
        """The ids of the first direct children, in order."""
        return await self._database.read(
            lambda connection: load.chat_children(connection, workspace_id, chat_id, limit)
        )

    async def configure_chat(
        self,
        workspace_id: str,
        chat_id: str,
        *,
        parent_chat_id: str | UnsetType | None = UNSET,
        limit_micros: int | UnsetType | None = UNSET,
        actor: str,
    ) -> StoredChat:
        """Creates a chat or changes its limit; its revision goes up by one.

        Raises WorkspaceNotFound, ChatParentUnknown, ChatParentImmutable, ChatCycle, ChatTooDeep.
        """
        return await self._database.write(
            lambda connection: config.configure_chat(
                connection, workspace_id, chat_id, parent_chat_id, limit_micros, actor, wall_ms()
            )
        )

    async def source(self, workspace_id: str, source: str) -> StoredSource | None:
        """The last running total of a cumulative reporter."""
        return await self._database.read(
            lambda connection: load.source(connection, workspace_id, source)
        )

    # ------------------------------------------------------------------ the stream's entries

    async def apply(self, entries: Sequence[Entry]) -> Applied:
        """Brings stream entries into ledger and aggregates, each once, in one transaction.

        Only when this has returned may they be acknowledged. Entries that the database refuses are
        put aside as dead letters, and the rest is applied without them.
        """
        if not entries:
            return Applied()
        for _ in range(_ATTEMPTS_MAX):
            try:
                return await self._database.write(partial(ledger.apply_batch, entries=entries))
            except UnknownWorkspaces as error:
                # In a transaction of its own, so that rows are only ever locked in one order.
                ids = error.workspace_ids
                await self._database.write(partial(config.create_rows, workspace_ids=ids))
            except (IntegrityError, DataError, OverflowError) as error:
                return await self._apply_halves(entries, type(error).__name__)
        raise StoreUnavailable("workspaces vanish from durable storage")

    async def _apply_halves(self, entries: Sequence[Entry], reason: str) -> Applied:
        """Finds what the database refuses, in as many steps as the batch has binary digits."""
        if len(entries) == 1:
            await self._database.write(
                lambda connection: ledger.put_entry_aside(connection, entries[0], reason, wall_ms())
            )
            return Applied(poisoned=1)
        entries = sorted(entries, key=lambda entry: position(entry.stream_id))
        middle = len(entries) // 2
        first, second = await self.apply(entries[:middle]), await self.apply(entries[middle:])
        return Applied(
            inserted=first.inserted + second.inserted,
            duplicates=first.duplicates + second.duplicates,
            rewound=first.rewound | second.rewound,
            poisoned=first.poisoned + second.poisoned,
        )

    async def dead_letter(
        self,
        partition: int,
        stream_id: str | bytes,
        fields: Mapping[bytes, bytes] | Mapping[str, str],
        reason: str,
    ) -> None:
        """Puts an entry aside that cannot be understood. Harmless to repeat."""
        await self._database.write(
            lambda connection: ledger.put_aside(
                connection, partition, stream_id, fields, reason, wall_ms()
            )
        )

    async def dead_letters(self, limit: int = PAGE_ROWS) -> list[DeadLetter]:
        """The latest dead letters, latest first."""
        return await self._database.read(
            lambda connection: ledger.dead_letter_list(connection, limit)
        )

    # ------------------------------------------------------------------ while Redis is away

    async def queue_record(self, record: ResolvedRecord, *, now_ms: int | None = None) -> Queued:
        """Charges a record in the ledger alone, at the later of `now_ms` and the workspace's clock.

        Raises WorkspaceNotFound, IdReused, ReservationChatMismatch, CounterOverflow, and the errors
        of configure_chat, because the record may create its chat.
        """
        at_ms = wall_ms() if now_ms is None else now_ms
        return await self._database.write(
            lambda connection: queue.queue_record(connection, record, at_ms)
        )

    async def unapplied(
        self, limit: int = PAGE_ROWS, *, after: str | None = None
    ) -> list[UnappliedRecord]:
        """Rows that Redis is to be told of, by workspace, in the order in which they came.

        `after`: of the workspaces that come after this one.
        """
        return await self._database.read(
            lambda connection: queue.unapplied(connection, limit, after)
        )

    async def mark_applied(
        self,
        ids: Sequence[int],
        *,
        charged_micros: Mapping[int, int] | None = None,
        now_ms: int | None = None,
    ) -> None:
        """Redis has these rows now. `charged_micros`: what it says it charged, by row id.

        `now_ms` is best read from Redis: an entry of these events that is more than a minute later
        counts as a second charge, not as theirs.
        """
        at_ms = wall_ms() if now_ms is None else now_ms
        await self._database.write(
            lambda connection: queue.mark_applied(connection, ids, charged_micros or {}, at_ms)
        )

    async def give_up(self, reasons: Mapping[int, str]) -> set[str]:
        """Ends the waiting of rows whose entry will not come; `reasons` by row id.

        Their charges stand, with a dead letter each. Redis has to be loaded with the workspaces
        that are returned; rows that do not wait any more are left alone.
        """
        return await self._database.write(
            lambda connection: queue.give_up(connection, reasons, wall_ms())
        )

    # ------------------------------------------------------------------ the ledger

    async def adopt(self, workspace_id: str) -> int:
        """Lets the queued records of a cold workspace stand as they are; returns how many.

        It is loaded with them then. Only once its stream was emptied.
        """
        return await self._database.write(lambda connection: queue.adopt(connection, workspace_id))

    async def fingerprints(self, events: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """Those of the events that the ledger has, by workspace and event id."""
        return await self._database.read(lambda connection: ledger.fingerprints(connection, events))

    async def ledger_rows(
        self,
        workspace_id: str,
        since_ms: int = 0,
        until_ms: int | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[LedgerRow]:
        """Charges from `since_ms` to before `until_ms`, oldest first, at most `limit`."""
        after: LedgerRow | None = None
        left = limit
        while left is None or left > 0:
            size = PAGE_ROWS if left is None else min(left, PAGE_ROWS)
            page = await self._database.read(
                partial(
                    ledger.ledger_page,
                    workspace_id=workspace_id,
                    since_ms=since_ms,
                    until_ms=until_ms,
                    after=after,
                    limit=size,
                )
            )
            for row in page:
                yield row
            if len(page) < size:
                return
            after = page[-1]
            left = None if left is None else left - size

    async def recompute(self, workspace_id: str) -> Recomputed | None:
        """A workspace's sums once more, from the ledger alone; None if there is none."""
        return await self._database.read(
            lambda connection: verify.recompute(connection, workspace_id)
        )

    async def drift(self, workspace_id: str) -> list[Drift]:
        """Where the aggregates differ from the ledger; empty if they do not."""
        return await self._database.read(lambda connection: verify.drift(connection, workspace_id))

    async def prune(self, retention_ms: int, batch: int, *, now_ms: int | None = None) -> int:
        """Deletes a batch of rows that nothing asks for any more; 0 when there are none left.

        Ledger rows go after `retention_ms`, and never from a live window; ended holds and window
        buckets once they cannot matter. No sum changes. Returns how many rows went.
        """
        at_ms = wall_ms() if now_ms is None else now_ms

        def candidates(connection: Connection) -> tuple[int, list[str]]:
            before_ms = retention.cutoff_ms(connection, retention_ms, at_ms)
            return before_ms, retention.prunable(connection, before_ms)

        before_ms, workspace_ids = await self._database.read(candidates)
        deleted = 0
        for workspace_id in workspace_ids:
            if deleted >= batch:
                break
            deleted += await self._database.write(
                partial(
                    retention.prune_workspace,
                    workspace_id=workspace_id,
                    before_ms=before_ms,
                    batch=batch - deleted,
                )
            )
        return deleted
