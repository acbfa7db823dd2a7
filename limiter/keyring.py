"""What a process knows of API keys: who presents one, at the cost of a look into a dict.

The keys that there are at its start, and those that are presented later, are remembered, and asked
for again at every interval, so that a revoked one stops working within `REVOKED_MS_MAX` while
durable storage answers. While that is away, keys that are known go on working, and others are
StoreUnavailable, never a pass.

Guessing is bounded work. What has not the form of a key is refused without a look-up, an id that
does not exist is remembered as well, and of the others one query is under way at any time, for all
that wait. It must not know HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping
from typing import Protocol, Self

from limiter.access import ApiKey, Principal, split_key
from limiter.errors import StoreUnavailable

logger = logging.getLogger(__name__)

REFRESH_MS = 1_000
# An interval, and the time of the query that ends it.
REVOKED_MS_MAX = 2_000
# A key takes about half a kilobyte.
KEYS_MAX = 10_000
LOOK_UP_MS_MAX = 1_000
WAITING_MAX = 1_000
_BATCH = 1_000


class Source(Protocol):
    """Where keys are: `Storage.api_keys`."""

    async def live(self, key_ids: Iterable[str]) -> Mapping[str, ApiKey]:
        """Those of the keys that are there and have not ended. Raises StoreUnavailable."""

    async def all_live(self, limit: int) -> list[ApiKey]:
        """The keys that have not ended, at most `limit` of them. Raises StoreUnavailable."""


class Keyring:
    """The keys of one process, for one event loop. Enter it to have all of them known from the
    start, as far as there is room, and asked for again; that raises StoreUnavailable.
    """

    def __init__(self, source: Source, *, refresh_ms: int = REFRESH_MS) -> None:
        self._source = source
        self._refresh_s = refresh_ms / 1000
        self._known: dict[str, ApiKey] = {}
        # Ids that are nobody's, since the last interval began.
        self._unknown: set[str] = set()
        self._waiting: dict[str, asyncio.Future[ApiKey | None]] = {}
        self._asking: asyncio.Task[None] | None = None
        self._refreshing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        for key in await self._source.all_live(KEYS_MAX):
            self._remember(key.key_id, key)
        self._refreshing = asyncio.create_task(self._keep_fresh())
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in (self._refreshing, self._asking):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    def known(self, presented: str) -> Principal | None:
        """Whose key this is, if that is known already and the key is valid. It waits for nothing,
        which spares a call that comes often the making of coroutines.
        """
        parts = split_key(presented)
        if parts is None:
            return None
        key = self._known.get(parts[0])
        return key if key is not None and key.fits(parts[1]) else None

    async def principal(self, presented: str) -> Principal | None:
        """Whose key this is; None if it is not valid. Raises StoreUnavailable."""
        parts = split_key(presented)
        if parts is None:
            return None
        key = await self.key(parts[0])
        return key if key is not None and key.fits(parts[1]) else None

    async def key(self, key_id: str) -> ApiKey | None:
        """The key of this id; None if there is none or it was revoked. Raises StoreUnavailable."""
        key = self._known.get(key_id)
        if key is not None or key_id in self._unknown:
            return key
        return await self._look_up(key_id)

    async def refresh(self) -> None:
        """Asks for every known key, and forgets those that ended. Raises StoreUnavailable."""
        self._unknown.clear()
        known = list(self._known)
        for first in range(0, len(known), _BATCH):
            batch = known[first : first + _BATCH]
            live = await self._source.live(batch)
            for key_id in batch:
                if key_id not in live:
                    self._known.pop(key_id, None)
                elif key_id in self._known:
                    self._known[key_id] = live[key_id]

    async def _keep_fresh(self) -> None:
        is_away = False
        while True:
            await asyncio.sleep(self._refresh_s)
            try:
                await self.refresh()
            except StoreUnavailable as error:
                if not is_away:
                    logger.warning("revoked keys work until durable storage is back: %s", error)
                is_away = True
            except Exception:
                # Without this task no key would ever end.
                logger.exception("keys were not refreshed, which will be repeated")
            else:
                is_away = False

    async def _look_up(self, key_id: str) -> ApiKey | None:
        found = self._waiting.get(key_id)
        if found is None:
            if len(self._waiting) >= WAITING_MAX:
                raise StoreUnavailable("too many keys are being looked up")
            found = self._waiting[key_id] = asyncio.get_running_loop().create_future()
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        try:
            async with asyncio.timeout(LOOK_UP_MS_MAX / 1000):
                # Others may wait for the same key.
                return await asyncio.shield(found)
        except TimeoutError:
            raise StoreUnavailable("durable storage did not answer in time") from None

    async def _ask(self) -> None:
        """Looks up all that wait, in one query, until nobody does."""
        while self._waiting:
            asked, self._waiting = self._waiting, {}
            try:
                live = await self._source.live(asked)
            except Exception as error:  # noqa: BLE001  # It is passed on to those who wait.
                for future in asked.values():
                    future.set_exception(error)
                    # Whoever waited may have gone, and asyncio would complain.
                    future.exception()
                continue
            for key_id, future in asked.items():
                self._remember(key_id, live.get(key_id))
                future.set_result(live.get(key_id))

    def _remember(self, key_id: str, key: ApiKey | None) -> None:
        if key is None:
            if len(self._unknown) >= KEYS_MAX:
                self._unknown.clear()
            self._unknown.add(key_id)
            return
        if len(self._known) >= KEYS_MAX:
            del self._known[next(iter(self._known))]
        self._known[key_id] = key
