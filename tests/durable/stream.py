"""A workspace's stream as Redis would write it: numbered entries, at moments that tests choose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from limiter.durable import Entry, Storage, parse_entry
from limiter.periods import PERIOD_NAMES
from limiter.stored import StoredChat, WorkspaceSettings

# Begins a bucket of every period, so that tests can count from here.
START_MS = 1_699_941_600_000

UNLIMITED = WorkspaceSettings(limits=dict.fromkeys(PERIOD_NAMES))


def flat(fields: Mapping[str, str]) -> list[bytes]:
    """As they lie in a stream: names and values by turns."""
    return [word.encode() for pair in fields.items() for word in pair]


@dataclass(slots=True)
class Stream:
    """Makes entries. `at_ms` is the clock of its Redis; each entry has the next number."""

    workspace_id: str = "acme"
    at_ms: int = START_MS
    seq: int = 0
    partition: int = 0
    stream_ms: int = START_MS
    depths: dict[str, tuple[str, int]] = field(default_factory=dict)

    def entry(self, kind: str, **fields: object) -> Entry:
        self.seq += 1
        self.stream_ms = max(self.stream_ms + 1, self.at_ms)
        text = {
            "type": kind,
            "workspace": self.workspace_id,
            "seq": str(self.seq),
            "at": str(self.at_ms),
            **{name: "" if value is None else str(value) for name, value in fields.items()},
        }
        stream_id = f"{self.stream_ms}-0".encode()
        return parse_entry(flat(text), partition=self.partition, stream_id=stream_id)

    def record(
        self,
        event_id: str,
        micros: int,
        *,
        chat: str | None = None,
        reservation: str | None = None,
        state: str | None = None,
        source: str | None = None,
        total: int | None = None,
        sequence: int | None = None,
        priced: bool = True,
        data: str | None = None,
        fingerprint: str = "fp",
    ) -> Entry:
        return self.entry(
            "record",
            event=event_id,
            charged=micros,
            fingerprint=fingerprint,
            chat=chat,
            reservation=reservation,
            state=state or ("-" if reservation is None else "h"),
            source=source,
            total=total,
            sequence=sequence,
            priced=int(priced),
            data=data,
        )

    def hold(
        self, reservation: str, micros: int, *, chat: str | None = None, hold_ms: int = 600_000
    ) -> Entry:
        return self.entry(
            "hold",
            reservation=reservation,
            micros=micros,
            expires_at=self.at_ms + hold_ms,
            chat=chat,
            fingerprint="fp",
        )

    def release(self, reservation: str, *, chat: str | None = None) -> Entry:
        return self.entry("release", reservation=reservation, chat=chat)

    def expire(self, reservation: str, *, charged: int = 0, chat: str | None = None) -> Entry:
        return self.entry("expire", reservation=reservation, charged=charged, chat=chat)

    def chat(self, chat_id: str, parent: str | None = None, *, limit: int | None = None) -> Entry:
        """Parents have to be made first."""
        root, depth = (chat_id, 1)
        if parent is not None:
            root, depth = self.depths[parent][0], self.depths[parent][1] + 1
        self.depths[chat_id] = (root, depth)
        return self.entry("chat", chat=chat_id, parent=parent, root=root, depth=depth, limit=limit)

    def fork(self, back: int) -> Stream:
        """What Redis goes on with after it lost its last `back` entries."""
        return Stream(
            self.workspace_id, self.at_ms, self.seq - back, self.partition, self.stream_ms + 1_000
        )


async def chat_of(storage: Storage, chat_id: str, workspace_id: str = "acme") -> StoredChat:
    chat = await storage.chat(workspace_id, chat_id)
    assert chat is not None
    return chat
