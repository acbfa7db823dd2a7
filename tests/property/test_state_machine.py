"""The scripts, on real servers and a driven clock, against the model: every answer, every counter.

Hypothesis makes up histories of one workspace. After each step the server must answer as the model
does, report the same counters for the workspace and for every chat, and have appended the same
entries to the stream. Time jumps as part of a call, so that the call itself is the first to notice.

    HYPOTHESIS_PROFILE=deep pytest tests/property
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from limiter.periods import DAY_MS, PERIOD_NAMES, PERIODS
from limiter.redis.scripts import ScriptSet
from tests.property.facts import leaves_at
from tests.property.oracle import MICROS_MAX, Oracle, Source
from tests.property.strategies import (
    MEMORY_MS,
    PARENTS,
    chat_limits,
    chats,
    counts,
    holds_ms,
    jumps_ms,
    kinships,
    limits,
    names,
    reservations,
    sequences,
    short_jumps_ms,
    sources,
    units,
)
from tests.support.answers import Admitted, Answer, Said
from tests.support.clock import START_MS, DrivenClock
from tests.support.driver import Driver, parse, parse_entries
from tests.support.ledger import ChatPlace, Ledger
from tests.support.servers import Server

STEPS_MAX = 50
HISTORIES = {"ci": 400, "deep": 20_000}


@dataclass(frozen=True)
class Call:
    """A check or a record as it was sent, to be sent again."""

    name: str
    args: dict[str, Any]


class LimiterMachine(RuleBasedStateMachine):
    """One workspace's history. Subclasses name the server and the scripts."""

    server: ClassVar[Server]
    scripts: ClassVar[ScriptSet]

    checks = Bundle("checks")
    records = Bundle("records")

    def __init__(self) -> None:
        super().__init__()
        self.server.flush()
        self.driver = Driver(self.server.client, self.scripts, memory_ms=MEMORY_MS)
        self.driver.preload()
        self.ledger = Ledger()
        self.last_entry = "-"
        self.made_ids = 0
        # The chat of every reservation that there ever was, the newest last.
        self.reserved: dict[str, str] = {}

    @initialize(
        start_ms=st.integers(START_MS, START_MS + 30 * DAY_MS),
        unit=units,
        config=st.fixed_dictionaries({f"limit.{name}": limits for name in PERIOD_NAMES}),
        default_estimate=st.sampled_from([0, 7]),
        on_hold_expiry=st.sampled_from(["refund", "charge"]),
        depth=st.integers(0, 4),
    )
    def begin(
        self,
        start_ms: int,
        unit: int,
        config: dict[str, int | None],
        default_estimate: int,
        on_hold_expiry: str,
        depth: int,
    ) -> None:
        self.unit = unit
        self.clock = DrivenClock(self.server.client, start_ms=start_ms)
        self.oracle = Oracle(clock_ms=start_ms, memory_ms=MEMORY_MS)
        self.ledger.restore(self.driver, {}, revision=0)
        fields: dict[str, Any] = {name: self.limit(count) for name, count in config.items()}
        fields["default_estimate"] = self.amount(default_estimate)
        fields["on_hold_expiry"] = on_hold_expiry
        self._configure(1, fields)
        for chat in list(PARENTS)[:depth]:
            self._create_chat(chat, None)

    def amount(self, count: int) -> int:
        """So many units, and a few micros more, so that amounts differ in their last digits."""
        return min(count * self.unit + (count % 7 if self.unit > 1 else 0), MICROS_MAX)

    def limit(self, count: int | None) -> int | None:
        return None if count is None else self.amount(count)

    # ----------------------------------------------------------------- checks

    @rule(
        target=checks,
        jump_ms=jumps_ms,
        estimate=st.one_of(st.none(), counts, counts),
        name=names,
        hold_ms=holds_ms,
        chat=chats,
        kinship=kinships,
        limit=chat_limits,
    )
    def check(
        self,
        jump_ms: int,
        estimate: int | None,
        name: str | None,
        hold_ms: int,
        chat: str,
        kinship: str,
        limit: int | None,
    ) -> Call:
        self._jump(jump_ms)
        args = {
            "estimate": self.limit(estimate),
            "reservation_id": name or self._make_id(),
            "payload": f"{estimate}/{hold_ms}/{chat}/{kinship}",
            "hold_ms": hold_ms,
            **self._chat_args(chat, kinship, limit),
        }
        call = Call("check", args)
        self._call(call, fresh=name is None)
        return call

    @rule(
        target=checks,
        jump_ms=short_jumps_ms,
        estimate=st.integers(1, 30),
        hold_ms=holds_ms,
        which=st.integers(0, len(PARENTS)),
    )
    def usual_check(self, jump_ms: int, estimate: int, hold_ms: int, which: int) -> Call:
        """A fresh id, an estimate, and a chat that is there or none."""
        self._jump(jump_ms)
        known = ["", *self.oracle.facts.chats]
        args = {
            "estimate": self.amount(estimate),
            "reservation_id": self._make_id(),
            "payload": f"{estimate}/{hold_ms}/{which}",
            "hold_ms": hold_ms,
            "chat": known[which % len(known)],
        }
        call = Call("check", args)
        self._call(call, fresh=True)
        return call

    @rule(jump_ms=jumps_ms, call=checks)
    def retry_check(self, jump_ms: int, call: Call) -> None:
        self._jump(jump_ms)
        self._call(call)

    # ----------------------------------------------------------------- records

    @rule(
        target=records,
        jump_ms=jumps_ms,
        cost=counts,
        name=names,
        reservation_id=reservations,
        chat=chats,
        kinship=kinships,
        limit=chat_limits,
        priced=st.booleans(),
    )
    def record(
        self,
        jump_ms: int,
        cost: int,
        name: str | None,
        reservation_id: str,
        chat: str,
        kinship: str,
        limit: int | None,
        priced: bool,
    ) -> Call:
        self._jump(jump_ms)
        args = {
            "cost": self.amount(cost),
            "event_id": name or self._make_id(),
            "reservation_id": reservation_id,
            "payload": f"{cost}/{reservation_id}/{chat}/{kinship}",
            "priced": priced,
            **self._chat_args(chat, kinship, limit),
        }
        call = Call("record", args)
        self._call(call, fresh=name is None)
        return call

    @precondition(lambda self: self.reserved)
    @rule(
        target=records,
        jump_ms=jumps_ms,
        which=st.integers(0, 9),
        cost=counts,
        own_id=st.booleans(),
        names_chat=st.booleans(),
    )
    def settle(self, jump_ms: int, which: int, cost: int, own_id: bool, names_chat: bool) -> Call:
        """Records what was reserved; often the reservation's id is the event's, too."""
        reservation_id, chat = self._pick_hold(which)
        self._jump(jump_ms)
        args = {
            "cost": self.amount(cost),
            "event_id": reservation_id if own_id else self._make_id(),
            "reservation_id": reservation_id,
            "payload": f"{cost}/{reservation_id}/{names_chat}",
            "chat": chat if names_chat else "",
        }
        call = Call("record", args)
        self._call(call, fresh=not own_id)
        return call

    @rule(
        target=records,
        jump_ms=jumps_ms,
        source=sources,
        total=counts,
        sequence=sequences,
        name=names,
        reservation_id=reservations,
        chat=chats,
    )
    def report(
        self,
        jump_ms: int,
        source: str,
        total: int,
        sequence: int | None,
        name: str | None,
        reservation_id: str,
        chat: str,
    ) -> Call:
        """A running total: repeated, late, or started again, as the numbers happen to fall."""
        self._jump(jump_ms)
        args = {
            "cost": self.amount(total),
            "event_id": name or self._make_id(),
            "reservation_id": reservation_id,
            "payload": f"{source}/{total}/{sequence}/{reservation_id}/{chat}",
            "chat": chat,
            "source": source,
            "sequence": sequence,
        }
        call = Call("record", args)
        self._call(call, fresh=name is None)
        return call

    @rule(jump_ms=jumps_ms, call=records)
    def retry_record(self, jump_ms: int, call: Call) -> None:
        self._jump(jump_ms)
        self._call(call)

    @precondition(lambda self: self.reserved)
    @rule(jump_ms=jumps_ms, which=st.integers(0, 9))
    def release_held(self, jump_ms: int, which: int) -> None:
        reservation_id, _ = self._pick_hold(which)
        self._release(jump_ms, reservation_id)

    @rule(jump_ms=jumps_ms, reservation_id=st.sampled_from(["a", "b", "c", "other"]))
    def release(self, jump_ms: int, reservation_id: str) -> None:
        self._release(jump_ms, reservation_id)

    def _release(self, jump_ms: int, reservation_id: str) -> None:
        self._jump(jump_ms)
        assert self.driver.release(reservation_id) == self.oracle.release(reservation_id)

    def _pick_hold(self, which: int) -> tuple[str, str]:
        """A reservation and its chat: mostly one that is held, while there is one."""
        live = [name for name in self.reserved if name in self.oracle.facts.holds]
        names = live if live and which < 7 else list(self.reserved)
        name = names[-1 - which % len(names)]
        return name, self.reserved[name]

    # ----------------------------------------------------------------- configuration

    @rule(
        jump_ms=jumps_ms,
        counts_by_field=st.fixed_dictionaries(
            {},
            optional={
                **{f"limit.{name}": limits for name in PERIOD_NAMES},
                "default_estimate": st.one_of(st.none(), counts),
            },
        ),
        on_hold_expiry=st.sampled_from(["", "refund", "charge", None]),
        newer=st.sampled_from([0, 1, 1, 2]),
    )
    def configure(
        self,
        jump_ms: int,
        counts_by_field: dict[str, int | None],
        on_hold_expiry: str | None,
        newer: int,
    ) -> None:
        self._jump(jump_ms)
        fields: dict[str, Any] = {
            field: self.limit(count) for field, count in counts_by_field.items()
        }
        if on_hold_expiry != "":
            fields["on_hold_expiry"] = on_hold_expiry
        self._configure(self.oracle.revision + newer, fields)

    @rule(chat=st.sampled_from(list(PARENTS)), limit=chat_limits, newer=st.sampled_from([0, 1, 1]))
    def configure_chat(self, chat: str, limit: int | None, newer: int) -> None:
        revision = self.oracle.chat_revisions.get(chat, 0) + newer
        expected = self.oracle.configure_chat(chat, revision, self.limit(limit))
        fields = {"limit.lifetime": self.limit(limit)}
        assert self.driver.configure(revision, fields, chat=chat) == expected

    @rule(chat=st.sampled_from(list(PARENTS)), limit=chat_limits)
    def create_chat(self, chat: str, limit: int | None) -> None:
        """A chat that comes from its configuration, its parent being there."""
        parent = PARENTS[chat]
        if not parent or parent in self.oracle.facts.chats:
            self._create_chat(chat, self.limit(limit))

    def _create_chat(self, chat: str, limit: int | None) -> None:
        parent = PARENTS[chat]
        expected = self.oracle.create_chat(chat, parent, limit)
        lineage = self.oracle.facts.lineage(chat)
        place = ChatPlace(parent, lineage[-1].chat_id, len(lineage))
        answer = self.driver.load_chat(
            chat, parent, root=place.root, depth=place.depth, limit=limit
        )
        assert answer == expected
        self.ledger.chats.setdefault(chat, place)

    def _configure(self, revision: int, fields: dict[str, Any]) -> None:
        expected = self.oracle.configure(revision, fields)
        assert self.driver.configure(revision, fields) == expected

    # ----------------------------------------------------------------- time and loss

    @rule(jump_ms=jumps_ms)
    def wait(self, jump_ms: int) -> None:
        self._jump(jump_ms)

    @rule(which=st.integers(0, 5), ms=st.sampled_from([-1, 0]))
    def wait_for_change(self, which: int, ms: int) -> None:
        """To the moment at which a charge leaves a window or a hold expires, or just before it."""
        facts = self.oracle.facts
        moments = {leaves_at(charge.at, period) for charge in facts.charges for period in PERIODS}
        moments |= {hold.expires_at for hold in facts.holds.values()}
        ahead = sorted(moment for moment in moments if moment > self.clock.now_ms)
        if ahead:
            self._jump(ahead[which % len(ahead)] + ms - self.clock.now_ms)

    @rule(jump_ms=jumps_ms)
    def lose_everything(self, jump_ms: int) -> None:
        """The server is emptied; what the stream told and the configuration bring it back."""
        self.server.flush()
        self.last_entry = "-"
        self._jump(jump_ms)
        self._load()
        self.oracle.reload(self.ledger.clock, ids_were_lost=True)

    @rule(jump_ms=jumps_ms)
    def be_forgotten(self, jump_ms: int) -> None:
        """The workspace is made cold and comes back; the ids that it remembers stay."""
        self._jump(max(jump_ms, self.oracle.changed_at - self.clock.now_ms))
        assert self.driver.forget() == Said("forgotten")
        self._load()
        self.oracle.reload(self.ledger.clock, ids_were_lost=False)

    def _load(self) -> None:
        fields: dict[str, int | str | None] = {
            f"limit.{name}": limit for name, limit in self.oracle.facts.limits.items()
        }
        fields["default_estimate"] = self.oracle.default_estimate
        fields["on_hold_expiry"] = self.oracle.on_hold_expiry
        self.ledger.restore(
            self.driver,
            fields,
            revision=self.oracle.revision,
            chat_limits={name: chat.limit for name, chat in self.oracle.facts.chats.items()},
            chat_revisions=self.oracle.chat_revisions,
        )

    # ----------------------------------------------------------------- agreement

    @invariant()
    def counters_agree(self) -> None:
        chats: list[str] = list(self.oracle.facts.chats) or [""]
        pipeline = self.server.client.pipeline(transaction=False)
        for chat in chats:
            pipeline.execute_command(*self.driver.usage_command(chat))
        pipeline.execute_command(*self.driver.entries_command(self.last_entry))
        *replies, tail = pipeline.execute()
        for chat, reply in zip(chats, replies, strict=True):
            assert parse(reply) == self.oracle.usage(chat)

        entries = parse_entries(tail)
        assert [entry for _, entry in entries] == self.oracle.entries
        if entries:
            self.last_entry = entries[-1][0]
        self.ledger.add(self.oracle.entries)
        self.oracle.entries.clear()

    def _chat_args(self, chat: str, kinship: str, limit: int | None) -> dict[str, Any]:
        if not chat:
            return {}
        if kinship == "unsaid" and chat in self.oracle.facts.chats:
            parent = ""
        else:
            parent = kinship if kinship in PARENTS else PARENTS[chat]
        return {"chat": chat, "parent": parent, "limit": self.limit(limit)}

    def _call(self, call: Call, *, fresh: bool = False) -> None:
        """Sends a check or record as the service does: what is cold is looked up, once each."""
        args = call.args | {"fresh": fresh}
        answer = self._compare(call.name, args)
        if answer == Said("cold", ("source", args.get("source", ""))):
            args |= self._look_up(args["source"])
            answer = self._compare(call.name, args)
        if answer == Said("cold", ("chat", args.get("chat", ""))):
            # Durable storage has no such chat either.
            args |= {"new": True}
            answer = self._compare(call.name, args)
        if isinstance(answer, Admitted) and answer.held_micros > 0 and not answer.duplicate:
            self._assert_within_limits(answer)
            self.reserved[answer.reservation_id] = args.get("chat", "")

    def _look_up(self, source: str) -> dict[str, int | None]:
        total, sequence = self.ledger.sources.get(source, (0, None))
        return {"stored_total": total, "stored_sequence": sequence}

    def _compare(self, name: str, args: dict[str, Any]) -> Answer:
        expected_args = dict(args)
        total = expected_args.pop("stored_total", None)
        sequence = expected_args.pop("stored_sequence", None)
        if total is not None:
            expected_args["stored"] = Source(total, sequence)
        expected: Answer = getattr(self.oracle, name)(**expected_args)
        answer: Answer = getattr(self.driver, name)(**args)
        assert answer == expected
        return answer

    @staticmethod
    def _assert_within_limits(answer: Admitted) -> None:
        state = answer.workspace
        for period, limit in state.limits.items():
            assert limit is None or state.spent[period] + state.held <= limit
        chat = answer.chat
        assert chat is None or chat.limit is None or chat.spent + chat.held <= chat.limit

    def _jump(self, ms: int) -> None:
        self.clock.advance(ms)
        self.oracle.clock_ms = self.clock.now_ms

    def _make_id(self) -> str:
        self.made_ids += 1
        return f"made-{self.made_ids}"


# The scripts are the same everywhere, so one server gets most of the histories.
SHARE = {"valkey": 1.0, "redis": 0.25, "valkey-cluster": 0.25}


def test_the_scripts_agree_with_the_model(real_server: Server, scripts: ScriptSet) -> None:
    machine = type("Machine", (LimiterMachine,), {"server": real_server, "scripts": scripts})
    histories = HISTORIES[hypothesis.settings.get_current_profile_name()]
    settings = hypothesis.settings(
        max_examples=int(histories * SHARE[real_server.name]), stateful_step_count=STEPS_MAX
    )
    run_state_machine_as_test(machine, settings=settings)
