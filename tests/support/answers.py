"""What the scripts answer, as values that compare: the driver parses replies into these, and the
model of `property/oracle.py` produces the same.

Amounts are micros, moments are milliseconds. State letters are those of `lua/lib/memory.lua`.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class WorkspaceState:
    """`limits` (None: unlimited) and `spent` name every period."""

    held: int
    limits: dict[str, int | None]
    spent: dict[str, int]


@dataclass(frozen=True, slots=True)
class ChatState:
    chat_id: str
    parent: str
    root: str
    held: int
    limit: int | None
    spent: int
    own: int


@dataclass(frozen=True, slots=True)
class Violation:
    kind: str
    scope_id: str
    period: str
    reason: str
    limit: int
    spent: int
    held: int
    retry_after_ms: int | None
    transient: bool


@dataclass(frozen=True, slots=True)
class Admitted:
    reservation_id: str
    held_micros: int
    expires_at: int
    duplicate: bool
    workspace: WorkspaceState
    chat: ChatState | None


@dataclass(frozen=True, slots=True)
class Denied:
    now: int
    estimate: int
    violations: list[Violation]


@dataclass(frozen=True, slots=True)
class Recorded:
    now: int
    charged: int
    duplicate: bool
    state: str
    workspace: WorkspaceState
    chat: ChatState | None


@dataclass(frozen=True, slots=True)
class Released:
    now: int
    micros: int
    state: str


@dataclass(frozen=True, slots=True)
class Usage:
    """`frees_at` names every period; None: nothing there to be freed by time."""

    now: int
    workspace: WorkspaceState
    live_holds: int
    unpriced: int
    frees_at: dict[str, int | None]
    chats: list[ChatState] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Said:
    """Any other reply: its status and what follows it, as text."""

    status: str
    details: tuple[str, ...] = ()


Answer = Admitted | Denied | Recorded | Released | Usage | Said
