"""Every route with every kind of key at a real service: the table of docs/reference/keys.md."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from limiter.durable import Storage
from limiter.http.operations import OPERATIONS
from tests.http.support import BODIES, IDS, address
from tests.support.api_keys import MadeKey, added_key, new_key
from tests.support.service import Response, Service, running_service

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "keys.md"
OWN, OTHER = IDS["{workspace_id}"], "zeta"
COLUMNS = (
    "no key",
    "wrong key",
    "revoked key",
    "monitor",
    "caller of another workspace",
    "caller of this workspace",
    "caller of all",
    "admin",
)
_numbers = itertools.count()


async def _added(folder: Path) -> dict[str, MadeKey]:
    async with Storage(f"sqlite:///{folder / 'data' / 'limiter.db'}") as storage:
        return {
            "revoked key": await added_key(storage, "admin", revoked_at_ms=2),
            "monitor": await added_key(storage, "monitor"),
            "caller of another workspace": await added_key(storage, "caller", OTHER),
            "caller of this workspace": await added_key(storage, "caller", OWN),
            "caller of all": await added_key(storage, "caller"),
            "admin": await added_key(storage, "admin"),
        }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def keys(folder: Path) -> dict[str, MadeKey]:
    """A key for each column but the first, by column."""
    return {"wrong key": new_key("admin"), **asyncio.run(_added(folder))}


@pytest.fixture(scope="module")
def service(folder: Path, keys: dict[str, MadeKey]) -> Iterator[Service]:
    """A service with two workspaces, each with a chat and a hold."""
    with running_service(folder, auth="keys") as service:
        service.key = keys["admin"].text
        for workspace_id in (OWN, OTHER):
            hold(service, workspace_id, reservation_id="theirs", chat_id=IDS["{chat_id}"])
        service.key = None
        yield service


def hold(service: Service, workspace_id: str, **fields: object) -> None:
    body = {"workspace_id": workspace_id, "estimate_micros": 5, **fields}
    assert service.post("/check", body).status == 200


def ask(service: Service, method: str, path: str, key: MadeKey | None) -> int:
    """The status of one request that would do, for whoever may."""
    body: dict[str, Any] | None = BODIES.get((method, path))
    if path == "/release":
        body = {"workspace_id": OWN, "reservation_id": "theirs"}
    if path == "/record":
        body = {"workspace_id": OWN, "cost_micros": 1, "event_id": f"e{next(_numbers)}"}
    headers = {} if key is None else key.headers
    return service.request(method, address(path), body, **headers).status


def test_the_table_is_what_the_service_answers(service: Service, keys: dict[str, MadeKey]) -> None:
    lines = [f"| route | {' | '.join(COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|"]
    for operation in OPERATIONS:
        statuses = [
            str(ask(service, operation.method, operation.path, keys.get(column)))
            for column in COLUMNS
        ]
        lines.append(f"| `{operation.method} {operation.path}` | {' | '.join(statuses)} |")
    table = "\n".join(lines)
    page = PAGE.read_text(encoding="utf-8")
    assert table in page, f"the page must have this table:\n{table}"


def test_a_guessed_reservation_of_another_workspace_is_not_found_and_stays(
    service: Service, keys: dict[str, MadeKey]
) -> None:
    key, admin = keys["caller of this workspace"].headers, keys["admin"].headers
    service.request(
        "POST",
        "/check",
        {"workspace_id": OTHER, "estimate_micros": 7, "reservation_id": "secret-call"},
        **admin,
    )
    before = service.get(f"/usage/workspaces/{OTHER}", **admin).body["held_micros"]

    def told(reservation_id: str) -> Response:
        body = {"workspace_id": OWN, "reservation_id": reservation_id}
        return service.post("/release", body, **key)

    guessed, made_up = told("secret-call"), told("made-up-one")
    assert guessed.status == made_up.status == 404
    assert guessed.body["code"] == made_up.body["code"] == "reservation_not_found"
    record = {"workspace_id": OWN, "reservation_id": "secret-call", "cost_micros": 1}
    assert service.post("/record", record, **key).body["reservation_state"] == "unknown"
    assert service.get(f"/usage/workspaces/{OTHER}", **admin).body["held_micros"] == before


def test_no_secret_reaches_the_log_or_the_data(
    service: Service, folder: Path, keys: dict[str, MadeKey]
) -> None:
    secrets = [key.text.rpartition("_")[2].encode() for key in keys.values()]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "service.log" for path in files)
    assert any(path.name == "limiter.db" for path in files)
    for path in files:
        content = path.read_bytes()
        assert not any(secret in content for secret in secrets), path


async def test_every_change_names_its_key(
    service: Service, folder: Path, keys: dict[str, MadeKey]
) -> None:
    path = f"/config/workspaces/{OWN}"
    admin = keys["admin"]
    assert service.request("PATCH", path, {"budget_limits": {}}, **admin.headers).status == 200
    assert service.request("DELETE", f"{path}/chats/c1", None, **admin.headers).status == 204
    async with Storage(f"sqlite:///{folder / 'data' / 'limiter.db'}") as storage:
        latest = (await storage.audit(OWN, 2))[:2]
    assert [(row.chat_id, row.actor) for row in latest] == [
        ("c1", f"key:{admin.key.key_id}"),
        (None, f"key:{admin.key.key_id}"),
    ]
