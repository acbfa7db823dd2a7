"""`limiter verify`: every counter once more from the ledger, beside the aggregates and Redis.

A running service goes on meanwhile. `limiter.comparing` looks at each workspace.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from limiter.commands.data import for_each, open_data, workspace_ids
from limiter.comparing import CounterDrift
from limiter.settings import Settings

CONCURRENCY = 4
# Each brings a page of them; what is left after so many is reported as not compared.
BRING_BACK_MAX = 1_000

# Called with the workspaces done by now, and how many there are.
Progress = Callable[[int, int], None]


class Verified(Struct, kw_only=True):
    """`counters`: how many were compared in Redis. `unsettled`: workspaces that changed all the
    while, so that Redis was not compared.
    """

    workspaces: int = 0
    hot: int = 0
    chats: int = 0
    counters: int = 0
    drift: list[CounterDrift] = []
    unsettled: list[str] = []


async def verify(settings: Settings, progress: Progress) -> Verified:
    """Compares everything. Raises StartupError, Unavailable."""
    async with open_data(settings) as parts:
        # Records that the ledger took while Redis was away count there only once it is told.
        for _ in range(BRING_BACK_MAX):
            if await parts.limiter.bring_back() == 0:
                break
        ids = await workspace_ids(parts.storage)
        verified = Verified()

        async def one(workspace_id: str) -> None:
            look = await parts.comparison.with_ledger(workspace_id)
            verified.workspaces += 1
            verified.hot += bool(look.is_hot)
            verified.chats += look.chats
            verified.counters += look.counters
            verified.drift += look.drift
            if look.is_hot is None:
                verified.unsettled.append(workspace_id)
            progress(verified.workspaces, len(ids))

        await for_each(ids, one, concurrency=CONCURRENCY)
    verified.drift.sort(key=lambda drift: (drift.workspace_id, drift.where, drift.counter))
    verified.unsettled.sort()
    return verified
