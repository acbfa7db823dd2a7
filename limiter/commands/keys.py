"""`limiter keys`: makes, lists and revokes API keys, whether a service runs or not.

A secret is printed once, by `print_created`, and kept nowhere.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Column

from limiter.access import LABEL_LENGTH_MAX, ApiKey, Role, hash_secret, key_text, new_secret
from limiter.commands.data import open_storage
from limiter.commands.output import Head, print_json, print_table
from limiter.durable import Storage
from limiter.errors import InvalidRequest
from limiter.models import iso_ms
from limiter.redis.keys import require_id
from limiter.runtime import database_url
from limiter.settings import Settings

PAGE_KEYS = 1_000
_DAY_CHARACTERS = len("2026-11-22")


class KeyView(Struct, frozen=True, kw_only=True):
    """A key as `--json` shows it. `workspace_id` null: all of them."""

    key_id: str
    role: Role
    workspace_id: str | None
    label: str
    created_at: str
    revoked_at: str | None


class CreatedKey(KeyView, frozen=True, kw_only=True):
    """A key that was just made. `key` is what its holder presents."""

    key: str


async def create_key(
    settings: Settings, role: Role, *, workspace_id: str | None = None, label: str = ""
) -> CreatedKey:
    """Makes a key, and durable storage if there is none yet. Raises InvalidRequest, StartupError,
    StoreUnavailable.
    """
    if workspace_id is not None:
        require_id(workspace_id, "workspace")
        if role != "caller":
            raise InvalidRequest("workspace: only a caller is bound to one", field="workspace")
    if len(label) > LABEL_LENGTH_MAX or not label.isprintable():
        raise InvalidRequest(
            f"label: at most {LABEL_LENGTH_MAX} printable characters are allowed", field="label"
        )
    key_id, secret = new_secret()
    key = ApiKey(
        key_id=key_id,
        role=role,
        workspace_id=workspace_id,
        secret_hash=hash_secret(secret),
        label=label,
        created_at_ms=_now_ms(),
    )
    async with Storage(database_url(settings)) as storage:
        await storage.api_keys.add(key)
    return CreatedKey(**msgspec.structs.asdict(_view(key)), key=key_text(key_id, secret))


async def all_keys(settings: Settings) -> list[KeyView]:
    """Every key, in the order of their making. Raises StartupError, StoreUnavailable."""
    found: list[ApiKey] = []
    async with open_storage(settings) as storage:
        while page := await storage.api_keys.page(found[-1].key_id if found else None, PAGE_KEYS):
            found += page
    found.sort(key=lambda key: (key.created_at_ms, key.key_id))
    return [_view(key) for key in found]


async def revoke_key(settings: Settings, key_id: str) -> KeyView:
    """Ends a key; harmless to repeat. Raises KeyNotFound, StartupError, StoreUnavailable."""
    require_id(key_id, "KEY_ID")
    async with open_storage(settings) as storage:
        return _view(await storage.api_keys.revoke(key_id, _now_ms()))


def print_created(created: CreatedKey, *, as_json: bool) -> None:
    """The key alone on standard output, so that a program can take it; the rest beside it."""
    if as_json:
        print_json(created)
        return
    reach = "" if created.role != "caller" else f" of {created.workspace_id or 'all workspaces'}"
    note = f"{created.role}{reach}, id {created.key_id}. It is shown this once:"
    print(note, file=sys.stderr)
    print(created.key)


def print_keys(keys: Sequence[KeyView], *, as_json: bool) -> None:
    if as_json:
        print_json(keys)
        return
    columns: list[Head] = [
        # An id that is cut could not be revoked.
        *(Column("id", no_wrap=True), "role", "workspace", "label"),
        *(Column(title, no_wrap=True) for title in ("created", "revoked")),
    ]
    rows = [
        [
            *(key.key_id, key.role, key.workspace_id or ("all" if key.role == "caller" else "")),
            key.label,
            *(at[:_DAY_CHARACTERS] for at in (key.created_at, key.revoked_at or "")),
        ]
        for key in keys
    ]
    print_table(Console(), columns, rows)


def print_revoked(key: KeyView, *, as_json: bool) -> None:
    if as_json:
        print_json(key)
    else:
        print(f"{key.key_id} is revoked; running services refuse it within two seconds")


def _view(key: ApiKey) -> KeyView:
    return KeyView(
        key_id=key.key_id,
        role=key.role,
        workspace_id=key.workspace_id,
        label=key.label,
        created_at=iso_ms(key.created_at_ms),
        revoked_at=None if key.revoked_at_ms is None else iso_ms(key.revoked_at_ms),
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
