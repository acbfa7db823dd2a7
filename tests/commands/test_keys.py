"""`limiter keys` as an operator types it: on both stores, with and without data."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from limiter.access import ApiKey, hash_secret, split_key
from limiter.durable import Storage
from tests.support.command_line import run, succeeded

SHOWN_FIELDS = ["key_id", "role", "workspace_id", "label", "created_at", "revoked_at"]


async def stored(url: str) -> list[ApiKey]:
    async with Storage(url) as storage:
        return await storage.api_keys.page(None, 100)


async def test_a_key_is_made_shown_once_listed_and_revoked(tmp_path: Path, store_url: str) -> None:
    finished = run(tmp_path, "keys", "create", "--role", "admin", database_url=store_url)
    parts = split_key(succeeded(finished).removesuffix("\n"))
    assert parts is not None
    assert parts[1] not in finished.stderr
    created = [
        "keys",
        "create",
        "--role",
        "caller",
        "--workspace",
        "acme",
        "--label",
        "Ann's [b]ot",
    ]
    shown = json.loads(succeeded(run(tmp_path, *created, "--json", database_url=store_url)))
    assert list(shown) == [*SHOWN_FIELDS, "key"]
    caller = split_key(shown["key"])
    assert caller is not None
    assert caller[0] == shown["key_id"]

    by_id = {key.key_id: key for key in await stored(store_url)}
    assert {key_id: key.secret_hash for key_id, key in by_id.items()} == {
        key_id: hash_secret(secret) for key_id, secret in (parts, caller)
    }
    assert by_id[parts[0]].role == "admin"
    assert (by_id[caller[0]].role, by_id[caller[0]].workspace_id) == ("caller", "acme")

    listed = run(tmp_path, "keys", "list", database_url=store_url)
    as_json = run(tmp_path, "keys", "list", "--json", database_url=store_url)
    for secret in (parts[1], caller[1], *(key.secret_hash for key in by_id.values())):
        assert secret not in listed.stdout + listed.stderr + as_json.stdout
    assert all(text in succeeded(listed) for text in (parts[0], caller[0], "acme", "Ann's [b]ot"))
    keys = json.loads(succeeded(as_json))
    assert [key["key_id"] for key in keys] == [parts[0], caller[0]]
    assert [list(key) for key in keys] == [SHOWN_FIELDS] * 2
    assert [key["revoked_at"] for key in keys] == [None, None]

    assert "two seconds" in succeeded(
        run(tmp_path, "keys", "revoke", caller[0], database_url=store_url)
    )
    again = run(tmp_path, "keys", "revoke", caller[0], "--json", database_url=store_url)
    revoked = json.loads(succeeded(again))
    by_id = {key.key_id: key for key in await stored(store_url)}
    assert by_id[caller[0]].revoked_at_ms is not None
    assert by_id[parts[0]].revoked_at_ms is None
    assert revoked["revoked_at"].startswith("20")
    listed = run(tmp_path, "keys", "list", "--json", database_url=store_url)
    assert revoked in json.loads(succeeded(listed))


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (["create"], 2, "--role"),
        (["create", "--role", "chef"], 2, "chef"),
        (["create", "--role", "admin", "--workspace", "acme"], 2, "workspace"),
        (["create", "--role", "caller", "--workspace", "a:b"], 2, "workspace"),
        (["create", "--role", "caller", "--label", "a\nb"], 2, "label"),
        (["create", "--role", "caller", "--label", "\x1b[31m"], 2, "label"),
        (["create", "--role", "caller", "--label", "a" * 201], 2, "label"),
        (["list"], 2, "there is no data"),
        (["revoke", "0" * 16], 2, "there is no data"),
    ],
)
def test_what_does_not_fit_makes_nothing(
    tmp_path: Path, arguments: list[str], status: int, word: str
) -> None:
    finished = run(tmp_path, "keys", *arguments)
    assert finished.returncode == status
    assert word in finished.stderr
    assert "\x1b[31m" not in finished.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_is_not_there_is_not_revoked(tmp_path: Path) -> None:
    succeeded(run(tmp_path, "keys", "create", "--role", "admin"))
    for key_id, status in (("0" * 16, 1), ("a b", 2), ("'; --", 2)):
        finished = run(tmp_path, "keys", "revoke", key_id)
        assert finished.returncode == status
        assert "limiter: " in finished.stderr
    with sqlite3.connect(tmp_path / "data" / "limiter.db") as database:
        rows = database.execute("SELECT revoked_at_ms FROM api_keys").fetchall()
    database.close()
    assert rows == [(None,)]
