"""Sessions of the page: an admin key, presented once, becomes a cookie. Nothing is stored.

A cookie reads `<key_id>.<expires_s>.<nonce>.<mac>`. The mac is keyed with the stored hash of the
key, so that revoking the key ends its sessions. Whoever can read that hash out of durable storage
could make a cookie; they could as well write limits there. It must not know HTTP.
"""

from __future__ import annotations

import hmac
import re
import secrets

from limiter.access import ApiKey, Demand, Principal
from limiter.keyring import Keyring

SESSION_S_MAX = 12 * 3_600
_NONCE_BYTES = 16
_COOKIE = re.compile(r"([0-9a-f]{16})\.([0-9]{1,12})\.([0-9a-f]{32})\.([0-9a-f]{64})")


class Sessions:
    """Sessions over the keys of one process. Moments are seconds since 1970."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    async def sign_in(self, presented_key: str, now_s: int) -> str | None:
        """A cookie's value for an admin key; None for any other. Raises StoreUnavailable."""
        principal = await self._keyring.principal(presented_key.strip())
        if principal is None or not Demand.ADMIN.is_met_by(principal):
            return None
        key = await self._keyring.key(principal.key_id)
        if key is None:
            return None
        head = f"{key.key_id}.{now_s + SESSION_S_MAX}.{secrets.token_hex(_NONCE_BYTES)}"
        return f"{head}.{_mac(key, head)}"

    async def session(self, cookie: str, now_s: int) -> Principal | None:
        """Whose session it is; None if it is none, or has expired. Raises StoreUnavailable."""
        found = _COOKIE.fullmatch(cookie)
        if found is None or not now_s < int(found[2]) <= now_s + SESSION_S_MAX:
            return None
        key = await self._keyring.key(found[1])
        if key is None or not Demand.ADMIN.is_met_by(key):
            return None
        head = cookie.rpartition(".")[0]
        return key if hmac.compare_digest(_mac(key, head), found[4]) else None


def csrf_token(cookie: str) -> str:
    """What a form of this session carries. Only who has the cookie can know it."""
    return hmac.digest(cookie.encode(), b"limiter form", "sha256").hex()


def csrf_ok(cookie: str, token: str) -> bool:
    """Whether a form came from this session."""
    return hmac.compare_digest(csrf_token(cookie).encode(), token.encode(errors="replace"))


def _mac(key: ApiKey, head: str) -> str:
    message = f"limiter session {head}".encode()
    return hmac.digest(bytes.fromhex(key.secret_hash), message, "sha256").hex()
