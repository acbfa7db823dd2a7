"""What has happened, exactly: every charge with its moment and chat, every hold, every chat.

Nothing is added up as it comes. A counter is derived from the facts, by its definition, when
somebody asks for it:

- A charge made at t belongs to the bucket of t. It counts in a window until all of that bucket is
  older than the window: for at least the window's length, for at most one bucket more.
- A chat's spend and holds are its own and those of all its descendants.

It must not know calls, decisions, keys or how anything is stored.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from limiter.periods import PERIODS, Period
from tests.support.answers import ChatState, WorkspaceState


@dataclass(frozen=True, slots=True)
class Charge:
    at: int
    micros: int
    chat: str


@dataclass(frozen=True, slots=True)
class Hold:
    micros: int
    expires_at: int
    chat: str
    payload: str


@dataclass(frozen=True, slots=True)
class Chat:
    """`parent` '' is a root; `limit` None is unlimited."""

    chat_id: str
    parent: str
    limit: int | None


def leaves_at(at: int, period: Period) -> int:
    """When a charge made at `at` leaves the window: all of its bucket is older than it then."""
    bucket_end = at - at % period.bucket_ms + period.bucket_ms
    return bucket_end + period.window_ms


@dataclass(slots=True)
class Facts:
    """One workspace's history, as far as it counts."""

    limits: dict[str, int | None] = field(
        default_factory=lambda: {period.name: None for period in PERIODS}
    )
    charges: list[Charge] = field(default_factory=list)
    holds: dict[str, Hold] = field(default_factory=dict)
    chats: dict[str, Chat] = field(default_factory=dict)

    def spent(self, period: Period, now: int) -> int:
        return sum(c.micros for c in self.charges if leaves_at(c.at, period) > now)

    def held(self) -> int:
        return sum(hold.micros for hold in self.holds.values())

    def next_expiry(self) -> int | None:
        return min((hold.expires_at for hold in self.holds.values()), default=None)

    def aged_out_at(self, period: Period, micros: int, now: int) -> int | None:
        """When that much of what is spent now will have left the window."""
        gone = 0
        for at, charged in sorted((leaves_at(c.at, period), c.micros) for c in self.charges):
            if at > now:
                gone += charged
                if gone >= micros:
                    return at
        return None

    def left_between(self, since: int, now: int) -> bool:
        """Whether any charge left any window after `since` and until `now`."""
        return any(
            since < leaves_at(charge.at, period) <= now
            for charge in self.charges
            for period in PERIODS
        )

    def lineage(self, chat_id: str) -> list[Chat]:
        """The chat and its ancestors up to the root."""
        found = []
        while chat_id:
            found.append(self.chats[chat_id])
            chat_id = found[-1].parent
        return found

    def _is_within(self, chat_id: str, ancestor: str) -> bool:
        return any(chat.chat_id == ancestor for chat in self.lineage(chat_id))

    def chat_spent(self, chat_id: str) -> int:
        return sum(c.micros for c in self.charges if self._is_within(c.chat, chat_id))

    def chat_held(self, chat_id: str) -> int:
        return sum(h.micros for h in self.holds.values() if self._is_within(h.chat, chat_id))

    def workspace_state(self, now: int) -> WorkspaceState:
        spent = {period.name: self.spent(period, now) for period in PERIODS}
        return WorkspaceState(self.held(), dict(self.limits), spent)

    def chat_state(self, lineage: list[Chat]) -> ChatState | None:
        """The state of the first chat of a lineage; of no lineage, none."""
        if not lineage:
            return None
        chat = lineage[0]
        return ChatState(
            chat_id=chat.chat_id,
            parent=chat.parent,
            root=lineage[-1].chat_id,
            held=self.chat_held(chat.chat_id),
            limit=chat.limit,
            spent=self.chat_spent(chat.chat_id),
            own=sum(c.micros for c in self.charges if c.chat == chat.chat_id),
        )
