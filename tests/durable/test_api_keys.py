"""API keys at rest, in both stores."""

from __future__ import annotations

import dataclasses

import pytest
from sqlalchemy.exc import IntegrityError

from limiter.access import Role
from limiter.durable import Storage
from limiter.errors import KeyNotFound
from tests.support.api_keys import added_key, new_key


async def test_keys_are_paged_in_the_order_of_their_ids(storage: Storage) -> None:
    made = [await added_key(storage, "caller", "acme") for _ in range(5)]
    ordered = sorted((each.key for each in made), key=lambda key: key.key_id)
    first = await storage.api_keys.page(None, 3)
    rest = await storage.api_keys.page(first[-1].key_id, 3)
    assert [*first, *rest] == ordered
    assert await storage.api_keys.page(rest[-1].key_id, 3) == []


async def test_only_live_keys_are_looked_up(storage: Storage) -> None:
    caller = await added_key(storage, "caller", "acme")
    revoked = await added_key(storage, "admin", revoked_at_ms=2)
    ids = [caller.key.key_id, revoked.key.key_id, new_key("admin").key.key_id]
    assert await storage.api_keys.live(ids) == {caller.key.key_id: caller.key}
    assert await storage.api_keys.live([]) == {}
    assert await storage.api_keys.all_live(2) == [caller.key]
    assert await storage.api_keys.all_live(0) == []


async def test_a_key_is_revoked_once_and_stays_so(storage: Storage) -> None:
    made = await added_key(storage, "caller")
    other = await added_key(storage, "caller")
    key_id = made.key.key_id
    revoked = dataclasses.replace(made.key, revoked_at_ms=7)
    assert await storage.api_keys.revoke(key_id, 7) == revoked
    assert await storage.api_keys.revoke(key_id, 9) == revoked
    assert await storage.api_keys.live([key_id, other.key.key_id]) == {other.key.key_id: other.key}
    with pytest.raises(KeyNotFound):
        await storage.api_keys.revoke("0" * 16, 7)


async def test_an_admin_key_counts_while_it_lives(storage: Storage) -> None:
    assert not await storage.api_keys.has_admin()
    await added_key(storage, "caller")
    await added_key(storage, "monitor")
    await added_key(storage, "admin", revoked_at_ms=2)
    assert not await storage.api_keys.has_admin()
    admin = await added_key(storage, "admin")
    assert await storage.api_keys.has_admin()
    await storage.api_keys.revoke(admin.key.key_id, 3)
    assert not await storage.api_keys.has_admin()


@pytest.mark.parametrize("role", ["admin", "monitor"])
async def test_only_a_caller_is_bound_to_a_workspace(storage: Storage, role: Role) -> None:
    with pytest.raises(IntegrityError):
        await added_key(storage, role, "acme")


async def test_an_id_is_given_once(storage: Storage) -> None:
    made = await added_key(storage, "caller")
    with pytest.raises(IntegrityError):
        await storage.api_keys.add(made.key)
