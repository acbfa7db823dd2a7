"""API keys for tests: made into a real store, and presented."""

from __future__ import annotations

from dataclasses import dataclass

from limiter.access import ApiKey, Role, hash_secret, key_text, new_secret
from limiter.durable import Storage


@dataclass(frozen=True, slots=True)
class MadeKey:
    """A key, and what its holder presents."""

    key: ApiKey
    text: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.text}"}


def new_key(
    role: Role, workspace_id: str | None = None, *, revoked_at_ms: int | None = None
) -> MadeKey:
    """A key that is nowhere yet."""
    key_id, secret = new_secret()
    key = ApiKey(
        key_id=key_id,
        role=role,
        workspace_id=workspace_id,
        secret_hash=hash_secret(secret),
        label="for a test",
        created_at_ms=1,
        revoked_at_ms=revoked_at_ms,
    )
    return MadeKey(key, key_text(key_id, secret))


async def added_key(
    storage: Storage,
    role: Role,
    workspace_id: str | None = None,
    *,
    revoked_at_ms: int | None = None,
) -> MadeKey:
    """A key that the store has."""
    made = new_key(role, workspace_id, revoked_at_ms=revoked_at_ms)
    await storage.api_keys.add(made.key)
    return made
