"""The lists of durable storage for pages and commands, asynchronous. `Storage` has the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from limiter.durable import lists, sums
from limiter.durable.engine import Database
from limiter.durable.ledger import LedgerRow
from limiter.durable.lists import Standing
from limiter.durable.sums import Sums
from limiter.stored import StoredChat, StoredHold


class StorageReads:
    """Every method is one transaction that only reads. Raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def workspace_ids(self, search: str | None, after: str | None, limit: int) -> list[str]:
        """Of configured workspaces, in order, from behind `after`, with `search` in them."""
        return await self._database.read(
            lambda connection: lists.workspace_ids(connection, search, after, limit)
        )

    async def standings(self, ids: Sequence[str], now_ms: int) -> Mapping[str, Standing]:
        """Where each of some hundred workspaces stands at `now_ms`."""
        return await self._database.read(
            lambda connection: lists.standings(connection, ids, now_ms)
        )

    async def chat_page(
        self, workspace_id: str, parent: str | None, after: str | None, limit: int
    ) -> list[tuple[StoredChat, bool]]:
        """Roots, or the children of `parent`, by id; each with whether it has children itself."""
        return await self._database.read(
            lambda connection: lists.chat_page(connection, workspace_id, parent, after, limit)
        )

    async def chat_ids(self, workspace_id: str, after: str | None, limit: int) -> list[str]:
        """A workspace's chats in order, from behind `after`."""
        return await self._database.read(
            lambda connection: lists.chat_ids(connection, workspace_id, after, limit)
        )

    async def sums(self, workspace_id: str, chat_ids: Sequence[str]) -> Sums | None:
        """What its counters and those of some hundred chats have to be; None: not configured."""
        return await self._database.read(
            lambda connection: sums.sums(connection, workspace_id, chat_ids)
        )

    async def holds(self, workspace_id: str, now_ms: int, limit: int) -> list[StoredHold]:
        """Live reservations, the next to expire first."""
        return await self._database.read(
            lambda connection: lists.holds(connection, workspace_id, now_ms, limit)
        )

    async def placed_ms(self, workspace_id: str, ids: Sequence[str]) -> Mapping[str, int]:
        """When those of the reservations were placed that are held here."""
        return await self._database.read(
            lambda connection: lists.placed_ms(connection, workspace_id, ids)
        )

    async def latest_records(self, workspace_id: str, limit: int) -> list[LedgerRow]:
        """The latest charges, latest first."""
        return await self._database.read(
            lambda connection: lists.latest_records(connection, workspace_id, limit)
        )

    async def spenders(
        self, workspace_id: str, since_ms: int, rows_max: int, limit: int
    ) -> tuple[list[tuple[str | None, int]], bool]:
        """The chats charged most since then, and whether that is of all charges since then."""
        return await self._database.read(
            lambda connection: lists.spenders(connection, workspace_id, since_ms, rows_max, limit)
        )

    async def roots(self, workspace_id: str, chat_ids: Sequence[str]) -> Mapping[str, str]:
        """The roots of those of the chats that are here."""
        return await self._database.read(
            lambda connection: lists.roots(connection, workspace_id, chat_ids)
        )

    async def window(self, workspace_id: str, period: str, now_ms: int) -> list[tuple[int, int]]:
        """The buckets that still count at `now_ms`, oldest first: start ms, micros."""
        return await self._database.read(
            lambda connection: lists.window(connection, workspace_id, period, now_ms)
        )
