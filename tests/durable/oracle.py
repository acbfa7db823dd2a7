"""What durable storage has to hold, worked out the plain way, and histories to try it with.

`Oracle` keeps every charge and looks at all of them for each sum. `History` writes streams as the
scripts would: a hold is placed before it ends, a chat made before it is used, time never goes back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from limiter.durable import Entry
from limiter.durable.entries import ChatEntry, ExpireEntry, HoldEntry, RecordEntry, position
from limiter.durable.verify import ChatSums
from limiter.periods import PERIODS
from limiter.stored import StoredSource
from tests.durable.stream import Stream

Action = tuple[int, int, int]
E = TypeVar("E", RecordEntry, Entry)


@dataclass(slots=True)
class Oracle:
    """One workspace. The first charge of an event counts; of other news the latest written does."""

    charges: dict[str, RecordEntry | ExpireEntry] = field(default_factory=dict)
    latest: dict[str, Entry] = field(default_factory=dict)
    totals: dict[str, RecordEntry] = field(default_factory=dict)
    parents: dict[str, str | None] = field(default_factory=dict)
    seq: int = 0
    clock_ms: int = 0

    def deliver(self, batch: Iterable[Entry]) -> list[str]:
        """Returns the events that were charged a second time, as often as they come."""
        seconds = []
        for entry in sorted(batch, key=lambda entry: position(entry.stream_id)):
            self.seq = max(self.seq, entry.seq)
            self.clock_ms = max(self.clock_ms, entry.at_ms)
            if isinstance(entry, ChatEntry):
                self.parents[entry.chat_id] = entry.parent_chat_id
                continue
            charges = isinstance(entry, RecordEntry) or (
                isinstance(entry, ExpireEntry) and entry.charged_micros > 0
            )
            if charges and isinstance(entry, RecordEntry | ExpireEntry):
                first = self.charges.setdefault(entry.event_id, entry)
                if first.stream_id != entry.stream_id:
                    seconds.append(entry.event_id)
            if entry.reservation_id is not None:
                _keep(self.latest, entry.reservation_id, entry)
            if isinstance(entry, RecordEntry) and entry.source is not None:
                _keep(self.totals, entry.source, entry)
        return seconds

    @property
    def unpriced_records(self) -> int:
        return sum(
            isinstance(entry, RecordEntry) and not entry.priced for entry in self.charges.values()
        )

    @property
    def spent_at_ms(self) -> int:
        return max((e.at_ms for e in self.charges.values() if e.charged_micros), default=0)

    def windows(self) -> dict[str, list[tuple[int, int]]]:
        found = {}
        for period in PERIODS:
            buckets: defaultdict[int, int] = defaultdict(int)
            for entry in self.charges.values():
                start_ms = entry.at_ms - entry.at_ms % period.bucket_ms
                if start_ms + period.bucket_ms + period.window_ms > self.clock_ms:
                    buckets[start_ms] += entry.charged_micros
            found[period.name] = sorted((at, micros) for at, micros in buckets.items() if micros)
        return found

    def holds(self) -> dict[str, tuple[int, int, str | None]]:
        return {
            name: (entry.micros, entry.expires_at_ms, entry.chat_id)
            for name, entry in self.latest.items()
            if isinstance(entry, HoldEntry)
        }

    def sources(self) -> dict[str, StoredSource]:
        return {
            name: StoredSource(entry.total_micros or 0, entry.sequence)
            for name, entry in self.totals.items()
        }

    def chats(self) -> dict[str, ChatSums]:
        own: defaultdict[str, int] = defaultdict(int)
        spent: defaultdict[str, int] = defaultdict(int)
        held: defaultdict[str, int] = defaultdict(int)
        for entry in self.charges.values():
            if entry.chat_id is not None:
                own[entry.chat_id] += entry.charged_micros
            for chat_id in self.chain(entry.chat_id):
                spent[chat_id] += entry.charged_micros
        for micros, _, chat in self.holds().values():
            for chat_id in self.chain(chat):
                held[chat_id] += micros
        return {
            chat_id: ChatSums(
                own_spent_micros=own[chat_id],
                spent_micros=spent[chat_id],
                held_micros=held[chat_id],
            )
            for chat_id in self.parents
        }

    def chain(self, chat_id: str | None) -> list[str]:
        """The chat and its ancestors, root last."""
        found = []
        while chat_id is not None:
            found.append(chat_id)
            chat_id = self.parents[chat_id]
        return found


def _keep(news: dict[str, E], name: str, entry: E) -> None:
    known = news.get(name)
    if known is None or position(known.stream_id) < position(entry.stream_id):
        news[name] = entry


@dataclass(slots=True)
class History:
    """Entries of one workspace. An action is a kind and two numbers to choose by."""

    stream: Stream
    entries: list[Entry] = field(default_factory=list)
    chats: list[str | None] = field(default_factory=lambda: [None])
    holds: dict[str, tuple[int, int, str | None]] = field(default_factory=dict)
    records: int = 0
    totals: list[int] = field(default_factory=lambda: [0, 0])

    KINDS = 8

    def act(self, action: Action) -> None:
        kind, first, second = action
        chat = self.chats[first % len(self.chats)]
        match kind % self.KINDS:
            case 0:
                name = f"c{len(self.chats)}"
                limit = second or None
                self.entries.append(self.stream.chat(name, chat, limit=limit))
                self.chats.append(name)
            case 1:
                self.records += 1
                name = f"e{self.records}"
                self.entries.append(
                    self.stream.record(name, second, chat=chat, priced=second % 3 != 0)
                )
            case 2:
                name = f"r{len(self.entries)}"
                hold_ms = 1 + second * 100
                self.entries.append(self.stream.hold(name, second, chat=chat, hold_ms=hold_ms))
                self.holds[name] = (self.stream.at_ms + hold_ms, second, chat)
            case 3 | 4 if self.holds:
                name = sorted(self.holds)[first % len(self.holds)]
                _, _, chat = self.holds.pop(name)
                if kind % self.KINDS == 3:
                    self.entries.append(self.stream.release(name, chat=chat))
                else:
                    self.entries.append(
                        self.stream.record(name, second, chat=chat, reservation=name)
                    )
            case 5 if self.records:
                # Redis forgot the id, so the retry is charged again.
                name = f"e{1 + first % self.records}"
                self.entries.append(self.stream.record(name, second, chat=self.chats[-1]))
            case 6:
                which = first % 2
                self.totals[which] += second
                self.records += 1
                self.entries.append(
                    self.stream.record(
                        f"e{self.records}",
                        second,
                        source=f"s{which}",
                        total=self.totals[which],
                        sequence=self.records if which else None,
                    )
                )
            case 7:
                self.pass_time(first**4)

    def pass_time(self, time_ms: int) -> None:
        """Holds end as the scripts end them: before anything else is written."""
        self.stream.at_ms += time_ms
        for name, (expires_at_ms, micros, chat) in sorted(self.holds.items()):
            if expires_at_ms <= self.stream.at_ms:
                del self.holds[name]
                charged = micros if micros % 2 else 0
                self.entries.append(self.stream.expire(name, charged=charged, chat=chat))
