"""Compares workspaces in Redis with the aggregates of durable storage, one after the other.

A `tick` looks at one of them, at a bounded part of its chats, and makes no pass unless that one is
being called. Drift is believed when it is there again after a whole pass: what is on its way, or is
being repaired, is not drift. It must neither repair anything nor keep a pass waiting.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

from msgspec import Struct

from limiter.comparing import Comparison, CounterDrift, Differences
from limiter.durable import Storage
from limiter.errors import ScriptError, Unavailable
from limiter.metrics import Compared, Metrics

logger = logging.getLogger(__name__)

# Most of a page may be cold, and each of these is one small call.
IDS_PER_TICK = 100
# In the library this is done beside calls, which wait for some milliseconds of it.
CHATS_PER_TICK = 100
LOOKS_MAX = 5
# Who has passes made more rarely than this wants none in between.
PASS_INTERVAL_MS_MAX = 60_000
# What is remembered of the drift that was found, over all workspaces.
COUNTERS_MAX = 10_000
# A pass may have begun before a look ended: the one after it cannot have.
_PASSES_BETWEEN = 2

# Counters that are no amounts.
_COUNTS = ("seq", "live holds", "unpriced")


class _Target(Struct, frozen=True):
    workspace_id: str
    chat_ids: Sequence[str]


class _Suspect(Struct, frozen=True):
    """What was seen once, and after how many passes."""

    target: _Target
    differences: Differences
    passes: int


class DriftWatch:
    """`interval_ms`: between two looks, of which each comes after a pass; 0: none is made.

    `pass_interval_ms`: between the passes. `monotonic_s` paces the looks.
    """

    def __init__(
        self,
        comparison: Comparison,
        storage: Storage,
        metrics: Metrics,
        *,
        interval_ms: int,
        pass_interval_ms: int,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._comparison = comparison
        self._storage = storage
        self._metrics = metrics
        self._interval_s = interval_ms / 1_000
        self._may_pass = pass_interval_ms <= PASS_INTERVAL_MS_MAX
        self._monotonic_s = monotonic_s
        self._due_at_s = monotonic_s()
        self._woken = asyncio.Event()
        self._passes = 0
        # The round: ids of a page, the last one that was taken, and one whose chats go on.
        self._ahead: deque[str] = deque()
        self._after: str | None = None
        self._goes_on: tuple[str, str] | None = None
        self._suspect: _Suspect | None = None
        # By workspace, the one first that was not looked at for longest.
        self._found: dict[str, list[CounterDrift]] = {}
        self._is_turn_of_found = False

    def pass_made(self) -> None:
        """A pass over all partitions has ended, and the repairs that belong to it."""
        self._passes += 1
        self._woken.set()

    def wake(self) -> None:
        """Lets `run` see that it has to stop."""
        self._woken.set()

    async def run(self, stopping: asyncio.Event) -> None:
        """A tick after a pass, where one is due, until `stopping`. An outage is waited out."""
        if self._interval_s == 0:
            return
        while not stopping.is_set():
            await self._woken.wait()
            self._woken.clear()
            if stopping.is_set() or not self._is_due():
                continue
            self._due_at_s = self._monotonic_s() + self._interval_s
            try:
                await self.tick()
            except Unavailable as error:
                # Whoever makes the passes says it, too.
                logger.debug("no workspace is compared: %s", error)
            except Exception:
                logger.exception("a workspace could not be compared, and is passed by")

    def _is_due(self) -> bool:
        suspect = self._suspect
        if suspect is not None and self._passes < suspect.passes + _PASSES_BETWEEN:
            return False
        return self._monotonic_s() >= self._due_at_s

    async def tick(self) -> None:
        """Looks at the suspect, at what was found to differ, or at the next one of the round.

        Nothing while the suspect waits for a pass. Raises RedisUnavailable, StoreUnavailable; the
        round then goes on behind the one that could not be compared.
        """
        suspect = self._suspect
        if suspect is not None and self._passes < suspect.passes + _PASSES_BETWEEN:
            return
        self._suspect = None
        target = await self._next() if suspect is None else suspect.target
        if target is None:
            return
        try:
            await self._compare(target, suspect)
        except ScriptError as error:
            _say_it_cannot_be(target.workspace_id, error)

    # ------------------------------------------------------------------ whose turn it is

    async def _next(self) -> _Target | None:
        """What was found to differ and the round take turns, so that a repair shows soon."""
        self._is_turn_of_found = bool(self._found) and not self._is_turn_of_found
        if self._is_turn_of_found:
            workspace_id = next(iter(self._found))
            drift = self._found[workspace_id] = self._found.pop(workspace_id)
            names = dict.fromkeys(chat for chat in map(_chat_of, drift) if chat is not None)
            return _Target(workspace_id, list(names)[:CHATS_PER_TICK])
        after = None
        if self._goes_on is not None:
            (workspace_id, after), self._goes_on = self._goes_on, None
        elif (hot := await self._next_hot()) is not None:
            workspace_id = hot
        else:
            return None
        chat_ids = await self._storage.reads.chat_ids(workspace_id, after, CHATS_PER_TICK)
        if len(chat_ids) == CHATS_PER_TICK:
            self._goes_on = workspace_id, chat_ids[-1]
        return _Target(workspace_id, chat_ids)

    async def _next_hot(self) -> str | None:
        """The next workspace of the round that is in Redis; None if none of a page is."""
        if not self._ahead:
            page = await self._storage.workspaces(self._after, IDS_PER_TICK)
            self._ahead.extend(page or await self._storage.workspaces(None, IDS_PER_TICK))
        while self._ahead:
            self._after = workspace_id = self._ahead.popleft()
            try:
                if await self._comparison.is_hot(workspace_id):
                    return workspace_id
            except ScriptError as error:
                _say_it_cannot_be(workspace_id, error)
        return None

    # ------------------------------------------------------------------ what it is found to be

    async def _compare(self, target: _Target, suspect: _Suspect | None) -> None:
        look = await self._comparison.with_aggregates(
            target.workspace_id, target.chat_ids, looks_max=LOOKS_MAX, may_pass=self._may_pass
        )
        if look.is_hot is None:
            self._metrics.drift_checked("unsettled")
            return
        known = self._found.get(target.workspace_id, [])
        seen = suspect.differences if suspect is not None else _differences(known)
        again = [one for one in look.drift if seen.get((one.where, one.counter)) == _by(one)]
        if suspect is None and len(again) < len(look.drift):
            self._suspect = _Suspect(target, look.differences(), self._passes)
            return
        if look.is_hot:
            # What is another difference each time has to come by again as well.
            outcome: Compared = "drifted" if again else "unsettled" if look.drift else "equal"
            self._metrics.drift_checked(outcome)
        elif self._goes_on is not None and self._goes_on[0] == target.workspace_id:
            self._goes_on = None
        # Of a workspace that is cold by now, nothing is wrong any more.
        looked_at = {None, *target.chat_ids}
        kept = [one for one in known if look.is_hot and _chat_of(one) not in looked_at]
        self._remember(target.workspace_id, again + kept)

    def _remember(self, workspace_id: str, drift: list[CounterDrift]) -> None:
        known = self._found.pop(workspace_id, [])
        room = COUNTERS_MAX - sum(map(len, self._found.values()))
        if drift and room > 0:
            self._found[workspace_id] = drift[:room]
        if drift and _differences(drift) != _differences(known):
            _warn(drift)
        elif known and not drift:
            logger.info("workspace %s: Redis and durable storage agree again", workspace_id)
        micros = sum(abs(_by(one)) for found in self._found.values() for one in _amounts(found))
        self._metrics.drift_found(micros)


def _amounts(drift: Sequence[CounterDrift]) -> list[CounterDrift]:
    """Those that are micros, and not numbers of something."""
    return [one for one in drift if one.counter not in _COUNTS]


def _by(drift: CounterDrift) -> int:
    return drift.found - drift.ledger


def _differences(drift: Sequence[CounterDrift]) -> Differences:
    return {(one.where, one.counter): _by(one) for one in drift}


def _chat_of(drift: CounterDrift) -> str | None:
    """The chat that a counter belongs to; None: it is the workspace's own."""
    kind, _, rest = drift.counter.partition(" ")
    return rest.partition(" ")[0] if kind == "chat" else None


def _say_it_cannot_be(workspace_id: str, error: ScriptError) -> None:
    """Somebody else's key is under one of our names; that must not end the round."""
    logger.error("workspace %s cannot be compared: %s", workspace_id, error)


def _warn(drift: Sequence[CounterDrift]) -> None:
    """One line, of the largest amount; `limiter verify` has them all."""
    worst = max(_amounts(drift) or drift, key=lambda one: abs(_by(one)))
    logger.warning(
        "workspace %s: %s is %d in Redis and %d in durable storage; other counters that differ: %d",
        worst.workspace_id,
        worst.counter,
        worst.found,
        worst.ledger,
        len(drift) - 1,
    )
