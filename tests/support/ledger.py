"""What durable storage would know: the stream's entries, folded into the values that scripts load.

It reads nothing but the entries, so a state that comes back through it shows that they suffice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from limiter.periods import PERIODS
from tests.support.answers import Said
from tests.support.driver import Driver

LOADED = Said("loaded")


@dataclass(frozen=True, slots=True)
class ChatPlace:
    parent: str
    root: str
    depth: int


@dataclass(slots=True)
class Ledger:
    """`charges`: (at ms, micros, chat). `holds`: micros, expires_at ms, chat, fingerprint by id."""

    charges: list[tuple[int, int, str]] = field(default_factory=list)
    holds: dict[str, tuple[int, int, str, str]] = field(default_factory=dict)
    chats: dict[str, ChatPlace] = field(default_factory=dict)
    sources: dict[str, tuple[int, int | None]] = field(default_factory=dict)
    unpriced: int = 0
    seq: int = 0
    clock: int = 0

    def add(self, entries: Iterable[Mapping[str, str]]) -> None:
        for entry in entries:
            seq, at = int(entry["seq"]), int(entry["at"])
            assert seq == self.seq + 1, "the stream has a gap"
            assert at >= self.clock, "time went back in the stream"
            self.seq, self.clock = seq, at
            self._add(entry, at)

    def _add(self, entry: Mapping[str, str], at: int) -> None:
        match entry["type"]:
            case "hold":
                self.holds[entry["reservation"]] = (
                    int(entry["micros"]),
                    int(entry["expires_at"]),
                    entry["chat"],
                    entry["fingerprint"],
                )
            case "release":
                del self.holds[entry["reservation"]]
            case "expire":
                del self.holds[entry["reservation"]]
                self._charge(at, entry)
            case "record":
                self.holds.pop(entry["reservation"], None)
                self._charge(at, entry)
                self.unpriced += entry["priced"] == "0"
                if "source" in entry:
                    sequence = entry["sequence"]
                    known = int(entry["total"]), int(sequence) if sequence else None
                    self.sources[entry["source"]] = known
            case "chat":
                self.chats[entry["chat"]] = ChatPlace(
                    entry["parent"], entry["root"], int(entry["depth"])
                )
            case other:
                raise AssertionError(f"an entry of unknown type {other!r}")

    def _charge(self, at: int, entry: Mapping[str, str]) -> None:
        if int(entry["charged"]) > 0:
            self.charges.append((at, int(entry["charged"]), entry["chat"]))

    def _below(self, chat_id: str) -> set[str]:
        """The chat and all its descendants."""
        found = {chat_id}
        for _ in range(len(self.chats)):
            found |= {child for child, place in self.chats.items() if place.parent in found}
        return found

    def restore(
        self,
        driver: Driver,
        config: Mapping[str, int | str | None],
        *,
        revision: int = 1,
        chat_limits: Mapping[str, int | None] | None = None,
        chat_revisions: Mapping[str, int] | None = None,
    ) -> None:
        """Loads the workspace and all its chats into a server that has lost them."""
        windows: dict[str, dict[int, int]] = {period.name: defaultdict(int) for period in PERIODS}
        for at, micros, _ in self.charges:
            for period in PERIODS:
                windows[period.name][at - at % period.bucket_ms] += micros
        answer = driver.load(
            config,
            revision=revision,
            seq=self.seq,
            spent_at=max((at for at, _, _ in self.charges), default=0),
            clock=self.clock,
            unpriced=self.unpriced,
            windows={name: sorted(buckets.items()) for name, buckets in windows.items()},
            holds=[(name, *hold) for name, hold in self.holds.items()],
        )
        assert answer == LOADED
        for chat_id, place in self.chats.items():
            below = self._below(chat_id)
            answer = driver.load_chat(
                chat_id,
                place.parent,
                root=place.root,
                depth=place.depth,
                limit=(chat_limits or {}).get(chat_id),
                spent=sum(micros for _, micros, chat in self.charges if chat in below),
                own=sum(micros for _, micros, chat in self.charges if chat == chat_id),
                held=sum(hold[0] for hold in self.holds.values() if hold[2] in below),
                revision=(chat_revisions or {}).get(chat_id, 0),
            )
            assert answer == LOADED
