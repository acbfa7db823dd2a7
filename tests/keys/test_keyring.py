"""What a process knows of keys: fresh within its bound, safe while the store is away, bounded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path

import pytest

from limiter import keyring as keyrings
from limiter.access import ApiKey
from limiter.durable import Storage
from limiter.errors import StoreUnavailable
from limiter.keyring import REVOKED_MS_MAX, Keyring
from tests.support.api_keys import MadeKey, added_key, new_key

WAIT_S_MAX = 10
MALFORMED = [
    "",
    "lim_",
    "secret",
    "lim_" + "0" * 16,
    "lim_" + "0" * 16 + "_" + "0" * 63,
    "lim_" + "0" * 16 + "_" + "0" * 65,
    "lim_" + "0" * 16 + "_" + "0" * 64 + "\n",
    "LIM_" + "0" * 16 + "_" + "0" * 64,
    "lim_" + "A" * 16 + "_" + "0" * 64,
    "lim_" + "٠" * 16 + "_" + "0" * 64,  # digits of another script
]


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    async with Storage(f"sqlite:///{tmp_path}/limiter.db") as storage:
        yield storage


class Watched:
    """A store's keys, counted as they are asked for, and away when a test says so."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.asked: list[list[str]] = []
        self.is_away = False
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def live(self, key_ids: Iterable[str]) -> Mapping[str, ApiKey]:
        ids = list(key_ids)
        self.asked.append(ids)
        await self.may_answer.wait()
        if self.is_away:
            raise StoreUnavailable("away")
        return await self._storage.api_keys.live(ids)

    async def all_live(self, limit: int) -> list[ApiKey]:
        return await self._storage.api_keys.all_live(limit)


@pytest.fixture
def source(storage: Storage) -> Watched:
    return Watched(storage)


async def until(holds: Callable[[], bool]) -> None:
    """Returns once the condition holds, which it must in a bounded time."""
    deadline = time.monotonic() + WAIT_S_MAX
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


def with_another_secret(made: MadeKey) -> str:
    return made.text[:-1] + ("0" if made.text[-1] != "0" else "1")


async def test_a_key_is_looked_up_once(storage: Storage, source: Watched) -> None:
    made = await added_key(storage, "caller", "acme")
    keyring = Keyring(source)
    for _ in range(3):
        assert await keyring.principal(made.text) == made.key
    assert source.asked == [[made.key.key_id]]
    assert made.key.actor == f"key:{made.key.key_id}"
    assert made.key.secret_hash not in repr(made.key)


@pytest.mark.parametrize("presented", MALFORMED)
async def test_what_is_no_key_is_not_looked_up(source: Watched, presented: str) -> None:
    assert await Keyring(source).principal(presented) is None
    assert source.asked == []


async def test_guesses_at_an_id_cost_one_look_up(storage: Storage, source: Watched) -> None:
    made, nobody = await added_key(storage, "caller"), new_key("caller")
    keyring = Keyring(source)
    for _ in range(3):
        assert await keyring.principal(with_another_secret(made)) is None
        assert await keyring.principal(nobody.text) is None
    assert source.asked == [[made.key.key_id], [nobody.key.key_id]]
    assert await keyring.principal(made.text) == made.key


async def test_the_secret_of_another_key_does_not_fit(storage: Storage, source: Watched) -> None:
    one, other = [await added_key(storage, "caller") for _ in range(2)]
    mixed = one.text[:21] + other.text[21:]
    assert await Keyring(source).principal(mixed) is None


async def test_keys_that_come_together_are_looked_up_together(
    storage: Storage, source: Watched
) -> None:
    made = [await added_key(storage, "caller") for _ in range(20)]
    keyring = Keyring(source)
    source.may_answer.clear()
    first = asyncio.create_task(keyring.principal(made[0].text))
    await until(lambda: bool(source.asked))
    rest = [asyncio.create_task(keyring.principal(each.text)) for each in made[1:] * 2]
    await asyncio.sleep(0)
    source.may_answer.set()
    found = await asyncio.gather(first, *rest)
    assert found == [each.key for each in (made[0], *made[1:], *made[1:])]
    assert [len(ids) for ids in source.asked] == [1, 19]


async def test_a_revoked_key_ends_within_the_promised_time(storage: Storage) -> None:
    made, other = [await added_key(storage, "caller") for _ in range(2)]
    async with Keyring(storage.api_keys) as keyring:
        assert await keyring.principal(made.text) == made.key
        assert await keyring.principal(other.text) == other.key
        await storage.api_keys.revoke(made.key.key_id, 2)
        deadline = time.monotonic() + REVOKED_MS_MAX / 1000
        while await keyring.principal(made.text) is not None:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        assert await keyring.principal(other.text) == other.key


async def test_a_key_that_is_made_after_it_was_presented_works_from_the_next_interval(
    storage: Storage, source: Watched
) -> None:
    made = new_key("caller")
    keyring = Keyring(source)
    assert await keyring.principal(made.text) is None
    await storage.api_keys.add(made.key)
    assert await keyring.principal(made.text) is None
    await keyring.refresh()
    assert await keyring.principal(made.text) == made.key


async def test_the_keys_that_there_are_are_known_from_the_start(
    storage: Storage, source: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [await added_key(storage, "caller") for _ in range(3)]
    revoked = await added_key(storage, "caller", revoked_at_ms=2)
    async with Keyring(source) as keyring:
        assert [keyring.known(each.text) for each in made] == [each.key for each in made]
        assert keyring.known(revoked.text) is None
    monkeypatch.setattr(keyrings, "KEYS_MAX", 2)
    async with Keyring(source) as keyring:
        assert sum(keyring.known(each.text) is not None for each in made) == 2
    assert source.asked == []


async def test_while_the_store_is_away_known_keys_work_and_others_are_unavailable(
    storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    known = await added_key(storage, "caller")
    source = Watched(storage)
    async with Keyring(source, refresh_ms=1) as keyring:
        other = await added_key(storage, "caller")
        assert await keyring.principal(known.text) == known.key
        source.is_away = True
        await until(lambda: "until durable storage is back" in caplog.text)
        seen = len(source.asked)
        await until(lambda: len(source.asked) >= seen + 3)
        assert await keyring.principal(known.text) == known.key
        assert await keyring.principal(with_another_secret(known)) is None
        with pytest.raises(StoreUnavailable):
            await keyring.principal(other.text)
        source.is_away = False
        assert await keyring.principal(other.text) == other.key
    assert caplog.text.count("until durable storage is back") == 1


async def test_a_frozen_store_is_waited_for_so_long_and_by_so_many(
    storage: Storage, source: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyrings, "LOOK_UP_MS_MAX", 50)
    monkeypatch.setattr(keyrings, "WAITING_MAX", 3)
    async with Keyring(source) as keyring:
        made = [await added_key(storage, "caller") for _ in range(6)]
        source.may_answer.clear()
        first = asyncio.create_task(keyring.principal(made[0].text))
        await until(lambda: bool(source.asked))
        waiting = [asyncio.create_task(keyring.principal(each.text)) for each in made[1:4]]
        await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable, match="too many"):
            await keyring.principal(made[4].text)
        ended = await asyncio.gather(first, *waiting, return_exceptions=True)
        assert {type(each) for each in ended} == {StoreUnavailable}
        assert "in time" in str(ended[0])
        assert len(source.asked) == 1
        source.may_answer.set()
        await until(lambda: len(source.asked) >= 2)
        assert await keyring.principal(made[5].text) == made[5].key


async def test_what_is_remembered_is_bounded(
    storage: Storage, source: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyrings, "KEYS_MAX", 3)
    made = [await added_key(storage, "caller") for _ in range(5)]
    keyring = Keyring(source)
    for each in made:
        assert await keyring.principal(each.text) == each.key
    await keyring.refresh()
    assert source.asked[-1] == [each.key.key_id for each in made[2:]]
    for _ in range(10):
        assert await keyring.principal(new_key("caller").text) is None
    for each in made:
        assert await keyring.principal(each.text) == each.key
