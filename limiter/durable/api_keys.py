"""API keys at rest: made, listed, revoked, looked up. A row is never deleted, and never unrevoked.

It must not see a secret, only its hash.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import insert, select, update

from limiter.access import ApiKey
from limiter.durable.bulk import AnyRow, matching
from limiter.durable.engine import Database
from limiter.durable.schema import api_keys
from limiter.errors import KeyNotFound

_COLUMNS = tuple(column.name for column in api_keys.columns)


class ApiKeys:
    """The table of keys. Every method raises StoreUnavailable, and is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, key: ApiKey) -> None:
        """Stores a key that was just made."""
        values = {name: getattr(key, name) for name in _COLUMNS}
        await self._database.write(lambda c: c.execute(insert(api_keys).values(values)))

    async def revoke(self, key_id: str, now_ms: int) -> ApiKey:
        """Ends a key, unless it has ended, and returns it. Raises KeyNotFound."""
        own = api_keys.c.key_id == key_id
        live = api_keys.c.revoked_at_ms.is_(None)
        await self._database.write(
            lambda c: c.execute(update(api_keys).where(own, live).values(revoked_at_ms=now_ms))
        )
        row = await self._database.read(lambda c: c.execute(select(api_keys).where(own)).first())
        if row is None:
            raise KeyNotFound(key_id)
        return _key(row)

    async def page(self, after: str | None, limit: int) -> list[ApiKey]:
        """Keys in the order of their ids, from behind `after`, those that ended included."""
        statement = select(api_keys).order_by(api_keys.c.key_id).limit(limit)
        if after is not None:
            statement = statement.where(api_keys.c.key_id > after)
        rows = await self._database.read(lambda c: c.execute(statement).all())
        return [_key(row) for row in rows]

    async def live(self, key_ids: Iterable[str]) -> dict[str, ApiKey]:
        """Those of the keys that are there and have not ended, by id."""
        wanted = [(key_id,) for key_id in key_ids]
        rows = await self._database.read(lambda c: matching(c, api_keys, ("key_id",), wanted))
        return {row.key_id: _key(row) for row in rows if row.revoked_at_ms is None}

    async def all_live(self, limit: int) -> list[ApiKey]:
        """The keys that have not ended, at most `limit` of them, in no order."""
        statement = select(api_keys).where(api_keys.c.revoked_at_ms.is_(None)).limit(limit)
        rows = await self._database.read(lambda c: c.execute(statement).all())
        return [_key(row) for row in rows]

    async def has_admin(self) -> bool:
        """Whether there is an admin key that has not ended."""
        statement = select(api_keys.c.key_id).where(
            api_keys.c.role == "admin", api_keys.c.revoked_at_ms.is_(None)
        )
        row = await self._database.read(lambda c: c.execute(statement.limit(1)).first())
        return row is not None


def _key(row: AnyRow) -> ApiKey:
    return ApiKey(**{name: row._mapping[name] for name in _COLUMNS})
