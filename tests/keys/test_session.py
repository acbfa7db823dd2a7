"""Sessions of the page: from an admin key, until they expire or the key is revoked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from limiter.access import Role
from limiter.durable import Storage
from limiter.keyring import Keyring
from limiter.session import SESSION_S_MAX, Sessions, csrf_ok, csrf_token
from tests.support.api_keys import MadeKey, added_key, new_key

NOW_S = 1_800_000_000


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    async with Storage(f"sqlite:///{tmp_path}/limiter.db") as storage:
        yield storage


@pytest.fixture
async def admin(storage: Storage) -> MadeKey:
    return await added_key(storage, "admin")


async def signed_in(sessions: Sessions, admin: MadeKey) -> str:
    cookie = await sessions.sign_in(f" {admin.text}\n", NOW_S)
    assert cookie is not None
    return cookie


async def test_a_session_lasts_its_hours_in_every_process(storage: Storage, admin: MadeKey) -> None:
    cookie = await signed_in(Sessions(Keyring(storage.api_keys)), admin)
    elsewhere = Sessions(Keyring(storage.api_keys))
    for now_s in (NOW_S, NOW_S + SESSION_S_MAX - 1):
        assert await elsewhere.session(cookie, now_s) == admin.key
    assert await elsewhere.session(cookie, NOW_S + SESSION_S_MAX) is None
    # Made in the future, by a clock or by hand.
    assert await elsewhere.session(cookie, NOW_S - 1) is None
    assert admin.text.rpartition("_")[2] not in cookie
    assert admin.key.secret_hash not in cookie


@pytest.mark.parametrize("role", ["caller", "monitor"])
async def test_other_keys_do_not_sign_in(storage: Storage, role: Role) -> None:
    made = await added_key(storage, role)
    sessions = Sessions(Keyring(storage.api_keys))
    assert await sessions.sign_in(made.text, NOW_S) is None
    assert await sessions.sign_in(new_key("admin").text, NOW_S) is None
    assert await sessions.sign_in("", NOW_S) is None


async def test_revoking_the_key_ends_its_sessions_alone(storage: Storage, admin: MadeKey) -> None:
    other = await added_key(storage, "admin")
    keyring = Keyring(storage.api_keys)
    sessions = Sessions(keyring)
    cookie, others = await signed_in(sessions, admin), await signed_in(sessions, other)
    await storage.api_keys.revoke(admin.key.key_id, 2)
    await keyring.refresh()
    assert await sessions.session(cookie, NOW_S) is None
    assert await sessions.session(others, NOW_S) == other.key


async def test_no_part_of_a_cookie_can_be_changed(storage: Storage, admin: MadeKey) -> None:
    other = await added_key(storage, "admin")
    sessions = Sessions(Keyring(storage.api_keys))
    cookie = await signed_in(sessions, admin)
    assert await signed_in(sessions, admin) != cookie
    key_id, expires, nonce, mac = cookie.split(".")
    for forged in (
        f"{other.key.key_id}.{expires}.{nonce}.{mac}",
        f"{new_key('admin').key.key_id}.{expires}.{nonce}.{mac}",
        f"{key_id}.{int(expires) - 1}.{nonce}.{mac}",
        f"{key_id}.{expires}.{'0' * 32}.{mac}",
        f"{key_id}.{expires}.{nonce}.{'0' * 64}",
        f"{cookie}\n",
        f"{cookie}.",
        cookie[:-1],
        "",
        "lim",
    ):
        assert await sessions.session(forged, NOW_S) is None


async def test_a_form_belongs_to_its_session(storage: Storage, admin: MadeKey) -> None:
    sessions = Sessions(Keyring(storage.api_keys))
    one, other = await signed_in(sessions, admin), await signed_in(sessions, admin)
    token = csrf_token(one)
    assert csrf_ok(one, token)
    assert token not in one
    for wrong in (csrf_token(other), token[:-1], "", "é", "\udc80", one):
        assert not csrf_ok(one, wrong)
