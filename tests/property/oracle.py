"""The model of the limiter: check, record, release, expiry and configuration in plain Python.

One workspace, one thread, no storage: the facts are kept as they are (`facts.py`), every answer is
derived from them (`decision.py`). It must not know keys, scripts, sorted sets or running sums.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Concatenate, ParamSpec, TypeVar

from limiter.periods import PERIODS
from tests.property.decision import frees_at, violations
from tests.property.facts import Charge, Chat, Facts, Hold
from tests.support.answers import Admitted, Denied, Recorded, Released, Said, Usage

MICROS_MAX = 2**53 - 1
DEPTH_MAX = 64

P = ParamSpec("P")
A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class Event:
    """A record that is remembered: what it was asked and what it answered."""

    at: int
    payload: str
    charged: int
    state: str


@dataclass(frozen=True, slots=True)
class End:
    """How a reservation ended, and what its expiry was charged. State letters: r, l, e, u."""

    at: int
    state: str
    charged: int
    chat: str


@dataclass(frozen=True, slots=True)
class Source:
    """A reporter's last running total, and the highest sequence number that it sent."""

    total: int
    sequence: int | None


class _Stop(Exception):
    """Ends a call with an answer; nothing of the call has been done."""

    def __init__(self, status: str, *details: str) -> None:
        self.answer = Said(status, details)


def _answering(
    call: Callable[Concatenate[Oracle, P], A],
) -> Callable[Concatenate[Oracle, P], A | Said]:
    def wrapped(self: Oracle, /, *args: P.args, **kwargs: P.kwargs) -> A | Said:
        try:
            return call(self, *args, **kwargs)
        except _Stop as stop:
            return stop.answer

    return wrapped


class Oracle:
    """One workspace. The caller sets `clock_ms` to what the clock shows."""

    def __init__(self, *, clock_ms: int, memory_ms: int) -> None:
        self.clock_ms = clock_ms
        self.memory_ms = memory_ms
        self.facts = Facts()
        self.default_estimate = 0
        self.on_hold_expiry = "refund"
        self.revision = 0
        self.chat_revisions: dict[str, int] = {}
        self.unpriced = 0
        self.sources: dict[str, Source] = {}
        self.events: dict[str, Event] = {}
        self.ends: dict[str, End] = {}
        # The last moment at which anything changed: time never goes back behind it.
        self.changed_at = clock_ms
        # When the holds are looked at next. A hold that ends early leaves it as it is, so a look
        # may find nothing due; but time does not go back behind a look either.
        self.look_at: int | None = None
        self.seq = 0
        # What has to become durable, since the caller last took it from here.
        self.entries: list[dict[str, str]] = []

    # ----------------------------------------------------------------- calls

    @_answering
    def check(
        self,
        estimate: int | None,
        reservation_id: str,
        *,
        fresh: bool,
        payload: str,
        hold_ms: int,
        chat: str = "",
        parent: str = "",
        limit: int | None = None,
        new: bool = False,
    ) -> Admitted | Denied:
        """Holds the estimate on every scope, or changes nothing."""
        now = self._refresh()
        lineage = self._name_chat(chat, parent, limit, new)
        if not fresh:
            hold = self.facts.holds.get(reservation_id)
            if hold is not None:
                if hold.payload != payload:
                    raise _Stop("id_reused")
                return self._admitted(now, reservation_id, hold, lineage, duplicate=True)
            end = self._end_of(reservation_id, now)
            if end.state != "u":
                raise _Stop("settled", end.state)

        estimate = self.default_estimate if estimate is None else estimate
        found = violations(self.facts, lineage, estimate, now)
        if found:
            return Denied(now, estimate, found)
        self._require_room(lineage, estimate, now)

        self._create(lineage, now)
        if estimate == 0:
            return self._admitted(now, "", Hold(0, 0, chat, payload), lineage)
        hold = Hold(estimate, now + hold_ms, chat, payload)
        self.facts.holds[reservation_id] = hold
        self.look_at = min(self.look_at or hold.expires_at, hold.expires_at)
        self._append(
            *("hold", now),
            reservation=reservation_id,
            micros=estimate,
            expires_at=hold.expires_at,
            chat=chat,
            fingerprint=payload,
        )
        return self._admitted(now, reservation_id, hold, lineage)

    @_answering
    def record(
        self,
        cost: int,
        event_id: str,
        reservation_id: str = "",
        *,
        fresh: bool,
        payload: str,
        chat: str = "",
        parent: str = "",
        limit: int | None = None,
        new: bool = False,
        source: str = "",
        sequence: int | None = None,
        stored: Source | None = None,
        priced: bool = True,
    ) -> Recorded:
        """Charges the cost once and ends the reservation.

        With a source, `cost` is its running total and `stored` what durable storage knows of it.
        """
        now = self._refresh()
        hold, credit, state = None, 0, "-"
        if reservation_id:
            hold = self.facts.holds.get(reservation_id)
            if hold is not None:
                state, home = "h", hold.chat
                if chat not in ("", home):
                    raise _Stop("reservation_chat")
            else:
                end = self._end_of(reservation_id, now)
                state, credit, home = end.state, end.charged, end.chat
            chat = chat or home
        lineage = self._name_chat(chat, parent, limit, new)

        event = self.events.get(event_id)
        if not fresh and event is not None and self._is_remembered(event.at, now):
            if event.payload != payload:
                raise _Stop("id_reused")
            return self._recorded(now, event.charged, event.state, lineage, duplicate=True)

        known = Source(0, None)
        if source:
            known, cost = self._report(source, cost, sequence, stored)
        # What the expiry of the hold was charged already is not charged again.
        charged = max(0, cost - credit)
        self._require_room(lineage, charged - (hold.micros if hold else 0), now)

        self._create(lineage, now)
        self.facts.holds.pop(reservation_id, None)
        if source:
            self.sources[source] = known
        self.unpriced += not priced
        self._charge(charged, chat, now)
        self.events[event_id] = Event(now, payload, charged, state)
        if reservation_id:
            self.ends[reservation_id] = End(now, "r", 0, chat)
        # A report that says nothing new has nothing to make durable.
        if not source or charged > 0 or state != "-":
            report: dict[str, Any] = {
                "source": source,
                "total": known.total,
                "sequence": "" if known.sequence is None else known.sequence,
            }
            self._append(
                *("record", now),
                event=event_id,
                charged=charged,
                fingerprint=payload,
                chat=chat,
                reservation=reservation_id,
                state=state,
                priced=int(priced),
                data="{}",
                **(report if source else {}),
            )
        return self._recorded(now, charged, state, lineage)

    @_answering
    def release(self, reservation_id: str) -> Released:
        now = self._refresh()
        hold = self.facts.holds.pop(reservation_id, None)
        if hold is None:
            return Released(now, 0, self._end_of(reservation_id, now).state)
        self.ends[reservation_id] = End(now, "l", 0, hold.chat)
        self._append("release", now, reservation=reservation_id, chat=hold.chat)
        return Released(now, hold.micros, "h")

    @_answering
    def usage(self, chat: str = "") -> Usage:
        now = self._refresh()
        lineage = self._name_chat(chat, "", None, False)
        states = [self.facts.chat_state(lineage[i:]) for i in range(len(lineage))]
        return Usage(
            now,
            self.facts.workspace_state(now),
            len(self.facts.holds),
            self.unpriced,
            {period.name: frees_at(self.facts, period, now) for period in PERIODS},
            [state for state in states if state is not None],
        )

    def configure(self, revision: int, fields: Mapping[str, int | str | None]) -> Said:
        """`fields` as for the script; None removes one."""
        if revision <= self.revision:
            return Said("stale")
        self.revision = revision
        for field, value in fields.items():
            if field == "on_hold_expiry":
                self.on_hold_expiry = str(value or "refund")
            elif field == "default_estimate":
                self.default_estimate = int(value or 0)
            else:
                name = field.removeprefix("limit.")
                self.facts.limits[name] = None if value is None else int(value)
        return Said("configured")

    def configure_chat(self, chat_id: str, revision: int, limit: int | None) -> Said:
        chats = self.facts.chats
        if chat_id not in chats:
            return Said("cold")
        if revision <= self.chat_revisions.get(chat_id, 0):
            return Said("stale")
        self.chat_revisions[chat_id] = revision
        chats[chat_id] = replace(chats[chat_id], limit=limit)
        return Said("configured")

    def create_chat(self, chat_id: str, parent: str, limit: int | None) -> Said:
        """A chat that comes from its configuration, not from a call that names it."""
        if chat_id in self.facts.chats:
            return Said("present")
        self.facts.chats[chat_id] = Chat(chat_id, parent, limit)
        return Said("loaded")

    def reload(self, durable_clock_ms: int, *, ids_were_lost: bool) -> None:
        """All was made cold and is back, but for sources, which are asked for when they report.

        `durable_clock_ms` is the latest moment that durable storage knows of.
        """
        if ids_were_lost:
            self.events.clear()
            self.ends.clear()
        self.sources.clear()
        self.changed_at = max(self.clock_ms, durable_clock_ms)
        self.look_at = self.facts.next_expiry()

    # ----------------------------------------------------------------- time

    def _refresh(self) -> int:
        """The time of a call. What time alone has changed is noticed by the first call after."""
        now = max(self.clock_ms, self.changed_at)
        if self.facts.left_between(self.changed_at, now):
            self.changed_at = now
        if self.look_at is not None and self.look_at <= now:
            self.changed_at = now
            self._expire_holds(now)
            self.look_at = self.facts.next_expiry()
        return now

    def _expire_holds(self, now: int) -> None:
        """Gives back every hold whose time is over, or charges it, the oldest expiry first."""
        holds = self.facts.holds
        for expires_at, reservation_id in sorted((h.expires_at, name) for name, h in holds.items()):
            if expires_at <= now:
                hold = holds.pop(reservation_id)
                charged = hold.micros if self.on_hold_expiry == "charge" else 0
                self._charge(charged, hold.chat, now)
                self.ends[reservation_id] = End(now, "e", charged, hold.chat)
                self._append(
                    "expire", now, reservation=reservation_id, charged=charged, chat=hold.chat
                )

    def _is_remembered(self, at: int, now: int) -> bool:
        """Ids are remembered by slices of `memory_ms`: the present one and the one before."""
        return now // self.memory_ms - at // self.memory_ms <= 1

    def _end_of(self, reservation_id: str, now: int) -> End:
        end = self.ends.get(reservation_id)
        if end is not None and self._is_remembered(end.at, now):
            return end
        # A reservation's id alone serves as an event's id, so an event of that id is its record.
        event = self.events.get(reservation_id)
        if event is not None and self._is_remembered(event.at, now):
            return End(event.at, "r", 0, "")
        return End(now, "u", 0, "")

    # ----------------------------------------------------------------- chats, totals, sums

    def _name_chat(self, chat_id: str, parent: str, limit: int | None, new: bool) -> list[Chat]:
        """The lineage of the chat that a call names, which may be new and not yet created."""
        if not chat_id:
            return []
        chat = self.facts.chats.get(chat_id)
        if chat is not None:
            if parent not in ("", chat.parent):
                raise _Stop("chat_parent_immutable")
        elif not new:
            raise _Stop("cold", "chat", chat_id)
        elif parent == chat_id:
            raise _Stop("chat_cycle")
        else:
            chat = Chat(chat_id, parent, limit)
        if chat.parent and chat.parent not in self.facts.chats:
            raise _Stop("cold", "chat", chat.parent)
        lineage = [chat, *self.facts.lineage(chat.parent)]
        if len(lineage) > DEPTH_MAX:
            raise _Stop("chat_too_deep")
        return lineage

    def _report(
        self, source: str, total: int, sequence: int | None, stored: Source | None
    ) -> tuple[Source, int]:
        """What is known of a source after its report, and by how much its total grew."""
        last = self.sources.get(source) or stored
        if last is None:
            raise _Stop("cold", "source", source)
        numbers = [number for number in (sequence, last.sequence) if number is not None]
        highest = max(numbers, default=None)
        is_older = len(numbers) == 2 and numbers[0] <= numbers[1]
        if is_older or total in (0, last.total):
            return Source(last.total, highest), 0
        # A lower total means that the reporter started again: all of it is new.
        grown = total - last.total if total > last.total else total
        return Source(total, highest), grown

    def _require_room(self, lineage: list[Chat], more: int, now: int) -> None:
        """No sum may leave the range in which every part of the system is exact."""
        facts = self.facts
        sums = [facts.spent(period, now) + facts.held() for period in PERIODS]
        sums += [facts.chat_spent(c.chat_id) + facts.chat_held(c.chat_id) for c in lineage]
        if max(sums) + more > MICROS_MAX:
            raise _Stop("counter_overflow")

    # ----------------------------------------------------------------- changes and answers

    def _create(self, lineage: list[Chat], now: int) -> None:
        if lineage and lineage[0].chat_id not in self.facts.chats:
            chat = lineage[0]
            self.facts.chats[chat.chat_id] = chat
            self._append(
                *("chat", now),
                chat=chat.chat_id,
                parent=chat.parent,
                root=lineage[-1].chat_id,
                depth=len(lineage),
                limit="" if chat.limit is None else chat.limit,
            )

    def _charge(self, micros: int, chat: str, now: int) -> None:
        self.changed_at = now
        if micros > 0:
            self.facts.charges.append(Charge(now, micros, chat))

    def _append(self, kind: str, now: int, **fields: str | int) -> None:
        self.changed_at = now
        self.seq += 1
        entry = {"type": kind, "workspace": "acme", "seq": self.seq, "at": now, **fields}
        self.entries.append({name: str(value) for name, value in entry.items()})

    def _admitted(
        self,
        now: int,
        reservation_id: str,
        hold: Hold,
        lineage: list[Chat],
        *,
        duplicate: bool = False,
    ) -> Admitted:
        workspace, chat = self.facts.workspace_state(now), self.facts.chat_state(lineage)
        amounts = (hold.micros, hold.expires_at)
        return Admitted(reservation_id, *amounts, duplicate, workspace, chat)

    def _recorded(
        self, now: int, charged: int, state: str, lineage: list[Chat], *, duplicate: bool = False
    ) -> Recorded:
        workspace, chat = self.facts.workspace_state(now), self.facts.chat_state(lineage)
        return Recorded(now, charged, duplicate, state, workspace, chat)
