"""Never over: while estimates are upper bounds, spent + held exceeds no limit at any moment.

No model is needed to say so. The histories here have only honest callers: a record costs at most
what its hold holds and comes before that expires, and limits are raised at most.
"""

from __future__ import annotations

from typing import ClassVar

import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from limiter.periods import DAY_MS, HOUR_MS, PERIOD_NAMES
from limiter.redis.scripts import ScriptSet
from tests.support.answers import Admitted, Denied, Recorded
from tests.support.clock import DrivenClock
from tests.support.driver import Driver
from tests.support.servers import Server

HISTORIES = {"ci": 60, "deep": 5_000}
PARENTS = {"c1": "", "c2": "c1", "c3": "c2", "c4": "c1"}
DEPTHS = {"c1": 1, "c2": 2, "c3": 3, "c4": 2}

limits = st.integers(20, 120)
jumps_ms = st.one_of(
    st.integers(0, 60_000),
    st.integers(0, 2 * HOUR_MS),
    st.integers(0, 40 * DAY_MS),
    st.integers(-HOUR_MS, 0),
)


class HonestMachine(RuleBasedStateMachine):
    """One workspace with a tree of chats, all of them limited. Subclasses name the server."""

    server: ClassVar[Server]
    scripts: ClassVar[ScriptSet]

    @initialize(
        workspace=st.tuples(*[limits for _ in PERIOD_NAMES]),
        chats=st.tuples(*[limits for _ in PARENTS]),
        policy=st.sampled_from(["refund", "charge"]),
    )
    def begin(self, workspace: tuple[int, ...], chats: tuple[int, ...], policy: str) -> None:
        self.server.flush()
        self.clock = DrivenClock(self.server.client)
        self.driver = Driver(self.server.client, self.scripts)
        limited = zip(PERIOD_NAMES, workspace, strict=True)
        self.limits = {f"limit.{name}": limit for name, limit in limited}
        self.driver.load({**self.limits, "on_hold_expiry": policy})
        for (chat, parent), limit in zip(PARENTS.items(), chats, strict=True):
            self.driver.load_chat(chat, parent, root="c1", depth=DEPTHS[chat], limit=limit)
        self.revision = 1
        self.holds: dict[str, Admitted] = {}
        self.asked = 0

    @rule(estimate=st.integers(0, 40), chat=st.sampled_from(["", *PARENTS]), long=st.booleans())
    def check(self, estimate: int, chat: str, long: bool) -> None:
        self.asked += 1
        hold_ms = 2 * DAY_MS if long else 30_000
        answer = self.driver.check(estimate, f"r{self.asked}", chat=chat, hold_ms=hold_ms)
        assert isinstance(answer, Admitted | Denied)
        if isinstance(answer, Admitted) and answer.held_micros:
            self.holds[answer.reservation_id] = answer

    @precondition(lambda self: self.holds)
    @rule(which=st.integers(0, 9), share=st.integers(0, 4))
    def settle(self, which: int, share: int) -> None:
        """At most what was held, and none of it where the hold has expired."""
        hold = self._take_hold(which)
        if self.driver.usage().now < hold.expires_at:
            cost = hold.held_micros * share // 4
            answer = self.driver.record(cost, f"e-{hold.reservation_id}", hold.reservation_id)
            assert isinstance(answer, Recorded)
            assert (answer.charged, answer.state) == (cost, "h")

    @precondition(lambda self: self.holds)
    @rule(which=st.integers(0, 9))
    def release(self, which: int) -> None:
        self.driver.release(self._take_hold(which).reservation_id)

    @rule(name=st.sampled_from(PERIOD_NAMES), more=st.integers(1, 50))
    def raise_limit(self, name: str, more: int) -> None:
        self.revision += 1
        self.limits[f"limit.{name}"] += more
        self.driver.configure(self.revision, self.limits)

    @rule(ms=jumps_ms)
    def jump(self, ms: int) -> None:
        self.clock.advance(ms)

    @invariant()
    def nothing_is_over(self) -> None:
        for chat in ("c3", "c4"):
            usage = self.driver.usage(chat)
            for name, limit in usage.workspace.limits.items():
                assert limit is not None
                assert usage.workspace.spent[name] + usage.workspace.held <= limit
            for state in usage.chats:
                assert state.limit is not None
                assert state.spent + state.held <= state.limit

    def _take_hold(self, which: int) -> Admitted:
        return self.holds.pop(list(self.holds)[which % len(self.holds)])


def test_spent_and_held_never_exceed_a_limit(real_server: Server, scripts: ScriptSet) -> None:
    machine = type("Machine", (HonestMachine,), {"server": real_server, "scripts": scripts})
    histories = HISTORIES[hypothesis.settings.get_current_profile_name()]
    settings = hypothesis.settings(max_examples=histories, stateful_step_count=50)
    run_state_machine_as_test(machine, settings=settings)
