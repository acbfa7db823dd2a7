"""API keys: what one looks like, and what its role may do.

A key reads `lim_<key_id>_<secret>`. The secret has 256 random bits, so that its plain SHA-256 can
be stored: a slow hash protects what can be guessed, which this cannot, and every call would pay
for it. Pure: it must not look a key up.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256
from hmac import compare_digest
from typing import Final, Literal, TypeVar

Role = Literal["caller", "admin", "monitor"]
ROLES: Final[tuple[Role, ...]] = ("caller", "admin", "monitor")

LABEL_LENGTH_MAX: Final = 200
_KEY_ID_BYTES = 8
_SECRET_BYTES = 32
_KEY = re.compile(r"lim_([0-9a-f]{16})_([0-9a-f]{64})")

HandlerT = TypeVar("HandlerT", bound=Callable[..., object])


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls. `workspace_id`: the only one that it may reach; None is all of them."""

    key_id: str
    role: Role
    workspace_id: str | None = None

    @property
    def actor(self) -> str:
        """Who the audit says it was."""
        return f"key:{self.key_id}"

    def reaches(self, workspace_id: str) -> bool:
        return self.workspace_id is None or self.workspace_id == workspace_id


@dataclass(frozen=True, slots=True)
class ApiKey(Principal):
    """A key as durable storage has it. `secret_hash`: 64 hexadecimal digits."""

    secret_hash: str = field(default="", repr=False)
    label: str = ""
    created_at_ms: int = 0
    revoked_at_ms: int | None = None

    def fits(self, secret: str) -> bool:
        """Whether this is the key's secret. It takes as long whether it is or not."""
        return compare_digest(hash_secret(secret), self.secret_hash)


class Demand(Enum):
    """What a route demands of its caller's key: one of these roles. `NOTHING`: not even a key."""

    NOTHING = frozenset[str]()
    CALLER = frozenset({"caller", "admin"})
    MONITOR = frozenset({"monitor", "admin"})
    ADMIN = frozenset({"admin"})

    def is_met_by(self, principal: Principal) -> bool:
        return principal.role in self.value


def demands(demand: Demand) -> Callable[[HandlerT], HandlerT]:
    """Declares, next to a route's handler, what it demands."""

    def declare(handler: HandlerT) -> HandlerT:
        setattr(handler, _DECLARED, demand)
        return handler

    return declare


_DECLARED = "demand"


def demand_of(handler: object) -> Demand:
    """What a handler declares. Raises TypeError where it does not: none is open by accident."""
    demand = getattr(handler, _DECLARED, None)
    if not isinstance(demand, Demand):
        raise TypeError(f"{handler!r} does not say what it demands: decorate it with @demands")
    return demand


def new_secret() -> tuple[str, str]:
    """A fresh key id and secret."""
    return secrets.token_hex(_KEY_ID_BYTES), secrets.token_hex(_SECRET_BYTES)


def key_text(key_id: str, secret: str) -> str:
    """The key as its holder presents it."""
    return f"lim_{key_id}_{secret}"


def split_key(presented: str) -> tuple[str, str] | None:
    """Key id and secret of what is presented; None if it is no key at all."""
    found = _KEY.fullmatch(presented)
    return None if found is None else (found[1], found[2])


def hash_secret(secret: str) -> str:
    """What is stored of a secret."""
    return sha256(secret.encode()).hexdigest()
