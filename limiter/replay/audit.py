"""Asks the service for every counter of a finished run, and compares each with the tally.

Exact equality, nothing held, no limit exceeded. It must not change anything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import TypeVar

import msgspec

from limiter.models import ChatTreeUsage, WorkspaceUsage
from limiter.periods import PERIODS, SECOND_MS, Period
from limiter.replay.api import Api, GaveUp, each
from limiter.replay.plan import Plan
from limiter.replay.run import Run
from limiter.replay.watch import LimitKey

Usage = TypeVar("Usage", bound=msgspec.Struct)

_POLL_S = 0.5


class _UnexpectedStatus(Exception):
    """The service answered a question with something else than an answer."""


class Difference(msgspec.Struct, frozen=True):
    """A counter that is not what the tally says."""

    counter: str
    expected: int
    found: int


class Audit:
    """The counters of one run, as read, and what is wrong with them.

    `workspaces[w]` and `chats[w][c]` are None where the service knows of none. `skipped`: what
    could not be compared, and why. `complete`: everything was read.
    """

    def __init__(self, plan: Plan, run: Run) -> None:
        self._plan = plan
        self._run = run
        self.workspaces: list[WorkspaceUsage | None] = [None] * len(plan.workspaces)
        self.chats: list[list[ChatTreeUsage | None]] = []
        self.differences: list[Difference] = []
        self.skipped: list[str] = []
        self.complete = False

    async def read(self, api: Api, concurrency: int, progress: Callable[[], None]) -> None:
        """Reads every workspace and every chat. Stays incomplete when the service is gone."""
        self.complete = False
        self.chats = [[None] * len(workspace.chats) for workspace in self._plan.workspaces]

        async def one(place: tuple[int, int | None]) -> None:
            workspace, chat = place
            path = f"/usage/workspaces/{self._run.workspace_id(workspace)}"
            if chat is None:
                self.workspaces[workspace] = await _get(api, path, WorkspaceUsage)
            else:
                chat_id = self._plan.workspaces[workspace].chats[chat].chat_id
                usage = await _get(api, f"{path}/chats/{chat_id}", ChatTreeUsage)
                self.chats[workspace][chat] = usage
            progress()

        try:
            await each(places(self._plan), one, concurrency=concurrency)
            self.complete = True
        except (GaveUp, msgspec.DecodeError, UnicodeDecodeError, _UnexpectedStatus) as error:
            self.skipped = [f"the counters could not be read: {error}"]

    def compare(self, elapsed_ms: int) -> None:
        """Finds every difference. `elapsed_ms`: from the first request until all was read.

        A window that is not longer than that may have lost spend already, rightly.
        """
        covering = [period for period in PERIODS if elapsed_ms < period.window_ms]
        self.skipped = [
            f"{period.name} spend is not compared: its window is {period.window_ms // SECOND_MS} s,"
            f" and the replay took {elapsed_ms // SECOND_MS} s"
            for period in PERIODS
            if period not in covering
        ]
        self.differences = [
            difference
            for workspace, chat in places(self._plan)
            for difference in (
                self._of_workspace(workspace, covering)
                if chat is None
                else self._of_chat(workspace, chat)
            )
        ]

    def _of_workspace(self, workspace: int, covering: list[Period]) -> Iterator[Difference]:
        usage = self.workspaces[workspace]
        name = f"w{workspace}"
        spent_micros = self._run.tally.workspaces[workspace].spent_micros
        if usage is None:
            yield Difference(f"{name}: workspaces of this id", 1, 0)
            return
        self._run.watch.periods(workspace, usage.periods)
        for period in covering:
            # One that is missing is a finding of the watch.
            if shown := usage.periods.get(period.name):
                yield from _unless_equal(
                    f"{name} {period.name} spent_micros", spent_micros, shown.spent_micros
                )
        for period_name, shown in usage.periods.items():
            yield from _unless_equal(f"{name} {period_name} held_micros", 0, shown.held_micros)
        yield from _unless_equal(f"{name} held_micros", 0, usage.held_micros)
        yield from _unless_equal(f"{name} live_holds", 0, usage.live_holds)
        yield from _unless_equal(f"{name} unpriced_records", 0, usage.unpriced_records)

    def _of_chat(self, workspace: int, chat: int) -> Iterator[Difference]:
        usage = self.chats[workspace][chat]
        name = f"w{workspace}/{self._plan.workspaces[workspace].chats[chat].chat_id}"
        spent_micros = self._run.tally.chats[workspace][chat].spent_micros
        own_micros = self._run.tally.own_spent_micros[workspace][chat]
        if usage is None:
            # A chat whose every check was denied does not exist.
            yield from _unless_equal(f"{name} spent_micros", spent_micros, 0)
            return
        self._run.watch.chat(workspace, chat, usage)
        yield from _unless_equal(f"{name} spent_micros", spent_micros, usage.spent_micros)
        yield from _unless_equal(f"{name} own_spent_micros", own_micros, usage.own_spent_micros)
        yield from _unless_equal(f"{name} held_micros", 0, usage.held_micros)

    # ------------------------------------------------------------------ overshoot

    @property
    def overshoot_micros(self) -> int:
        """The most by which spent + held was ever seen above a limit; 0 when it never was."""
        return max([0, *self._run.watch.excess_micros.values()])

    @property
    def unexplained_overshoot_micros(self) -> int:
        """Likewise, less what was charged to the scope without a hold. Must be 0."""
        excesses = self._run.watch.excess_micros.items()
        return max([0, *(excess - self._unheld_micros(key) for key, excess in excesses)])

    def _unheld_micros(self, key: LimitKey) -> int:
        workspace, chat, _ = key
        tally = self._run.tally
        scope = tally.workspaces[workspace] if chat is None else tally.chats[workspace][chat]
        return scope.unheld_micros


async def audit_run(
    api: Api,
    plan: Plan,
    run: Run,
    *,
    started_s: float,
    patience_s: float,
    concurrency: int,
    progress: Callable[[], None],
) -> Audit:
    """Reads and compares. `started_s`: when the run began, on the monotonic clock.

    Records that the service queued are applied when it can: then it waits for `patience_s`.
    """
    gives_up_at = time.monotonic() + patience_s
    audit = Audit(plan, run)
    await audit.read(api, concurrency, progress)
    while audit.complete:
        audit.compare(int((time.monotonic() - started_s) * SECOND_MS))
        if not audit.differences or not run.queued or time.monotonic() > gives_up_at:
            break
        await asyncio.sleep(_POLL_S)
        await audit.read(api, concurrency, lambda: None)
    return audit


def places(plan: Plan) -> Iterator[tuple[int, int | None]]:
    """Every workspace (chat None) and every chat, by position."""
    for number, workspace in enumerate(plan.workspaces):
        yield number, None
        for chat in range(len(workspace.chats)):
            yield number, chat


async def _get(api: Api, path: str, body_type: type[Usage]) -> Usage | None:
    reply = await api.call("GET", path)
    if reply.status == HTTPStatus.NOT_FOUND:
        return None
    if reply.status != HTTPStatus.OK:
        raise _UnexpectedStatus(f"{path}: status {reply.status}")
    return msgspec.json.decode(reply.body, type=body_type)


def _unless_equal(counter: str, expected: int, found: int) -> Iterator[Difference]:
    if found != expected:
        yield Difference(counter, expected, found)
