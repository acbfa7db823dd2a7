"""The commands as an operator types them: beside a running service, without one, and for a move."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import redis

from limiter.redis.embedded import embedded_url
from tests.support.command_line import RUN_MS_MAX, run, succeeded
from tests.support.postgres import PostgresCluster
from tests.support.redis_process import RedisProcess
from tests.support.service import Service, running_service

CHATS = ("c1", "c2", "c3")


def use(service: Service) -> None:
    """Chats three deep, a live hold on the deepest, a report."""
    service.patch("/config/workspaces/acme", {"budget_limits": {"hourly": 100_000}})
    for number, chat_id in enumerate(CHATS):
        parent = {"parent_chat_id": CHATS[number - 1]} if number else {}
        body = {"workspace_id": "acme", "chat_id": chat_id, "cost_micros": 10 ** (number + 1)}
        assert service.post("/record", {**body, **parent, "event_id": chat_id}).status == 200
    held = {"workspace_id": "acme", "chat_id": "c3", "estimate_micros": 7, "reservation_id": "r"}
    assert service.post("/check", held).status == 200
    report = {"workspace_id": "acme", "cumulative_micros": 5, "source": "worker"}
    assert service.post("/record", report).body["charged_micros"] == 5


def counters(service: Service) -> dict[str, Any]:
    paths = ["/usage/workspaces/acme", *(f"/usage/workspaces/acme/chats/{c}" for c in CHATS)]
    paths += ["/config/workspaces/acme", *(f"/config/workspaces/acme/chats/{c}" for c in CHATS)]
    found = {}
    for path in paths:
        answer = service.get(path)
        assert answer.status == 200, answer
        found[path] = {**answer.body, "at": None}
    return found


def test_beside_a_running_service_its_embedded_server_is_used(tmp_path: Path) -> None:
    with running_service(tmp_path) as service:
        use(service)
        before = counters(service)
        assert "durable storage has everything" in succeeded(run(tmp_path, "snapshot"))
        assert "no drift" in succeeded(run(tmp_path, "verify"))
        assert "1 workspaces and 3 chats" in succeeded(run(tmp_path, "restore"))
        lines = succeeded(run(tmp_path, "ledger", "acme", "--json")).splitlines()
        assert [json.loads(line)["charged_micros"] for line in lines] == [10, 100, 1_000, 5]
        assert counters(service) == before

        url = embedded_url(tmp_path / "data")
        assert url is not None
        with redis.Redis.from_url(url, protocol=2) as client:
            client.hincrby("lim:{0}:acme:workspace", "spent.daily", 1)
        drifted = run(tmp_path, "verify")
        assert drifted.returncode == 1
        assert "spent.daily" in drifted.stdout
        as_json = run(tmp_path, "verify", "--json")
        assert as_json.returncode == 1
        assert json.loads(as_json.stdout) == {
            "workspaces": 1,
            "hot": 1,
            "chats": 3,
            "counters": 4 + 2 * 4 + 3 * 3,
            "drift": [
                {
                    "workspace_id": "acme",
                    "where": "redis",
                    "counter": "spent.daily",
                    "found": 1_116,
                    "ledger": 1_115,
                }
            ],
            "unsettled": [],
        }
        assert service.get("/readyz").status == 200


def test_without_a_service_a_command_brings_the_embedded_server(tmp_path: Path) -> None:
    with running_service(tmp_path, snapshot_interval_ms=3_600_000) as service:
        use(service)
        before = counters(service)
        service.kill()  # what it did last is only in the embedded server's file
        assert "no drift" in succeeded(run(tmp_path, "verify"))
        assert succeeded(run(tmp_path, "snapshot")).startswith("0 entries")
        rows = succeeded(run(tmp_path, "ledger", "acme", "--csv", "--since", "2020-01-01"))
        assert len(rows.splitlines()) == 1 + 4
        assert succeeded(run(tmp_path, "ledger", "acme", "--until", "2020-01-01")).count("\n") == 1
        # Nothing of it is in the way of the next service.
        service.start()
        assert counters(service) == before


@pytest.mark.parametrize("command", [["verify"], ["snapshot"], ["restore"], ["ledger", "acme"]])
def test_where_there_is_no_data_none_is_made(tmp_path: Path, command: list[str]) -> None:
    finished = run(tmp_path, *command)
    assert finished.returncode == 2
    assert "there is no data in" in finished.stderr
    assert list(tmp_path.iterdir()) == []


def test_moving_to_a_redis_of_its_own_and_to_postgresql_changes_no_counter(
    tmp_path: Path, redis_server: RedisProcess, postgres: PostgresCluster
) -> None:
    """docs/howto/move.md, step by step."""
    with running_service(tmp_path) as service:
        use(service)
        before = counters(service)
        service.stop()
    assert succeeded(run(tmp_path, "snapshot")).startswith("0 entries")

    # From the embedded server to a Redis of its own: durable storage is all that moves.
    with running_service(tmp_path, redis_url=redis_server.url) as service:
        assert counters(service) == before
        service.stop()
    parts: dict[str, object] = {"redis_url": redis_server.url}
    assert "no drift" in succeeded(run(tmp_path, "verify", **parts))

    # From SQLite to PostgreSQL.
    succeeded(run(tmp_path, "snapshot", **parts))
    target = postgres.create_database()
    source = f"sqlite:///{tmp_path / 'data' / 'limiter.db'}"
    assert "spend_events" in succeeded(
        run(tmp_path, "copy-store", "--from", source, "--to", target)
    )
    again = run(tmp_path, "copy-store", "--from", source, "--to", target)
    assert again.returncode == 2
    assert "not empty" in again.stderr
    parts["database_url"] = target
    with running_service(tmp_path, **parts) as service:
        assert counters(service) == before
        # A retry from before the moves is still known, and a new call still counts.
        retried = {"workspace_id": "acme", "chat_id": "c1", "cost_micros": 10, "event_id": "c1"}
        service.post("/record", retried)
        service.post("/record", {"workspace_id": "acme", "chat_id": "c3", "cost_micros": 1})
        report = {"workspace_id": "acme", "cumulative_micros": 6, "source": "worker"}
        assert service.post("/record", report).body["charged_micros"] == 1
        settled = service.post(
            "/record", {"workspace_id": "acme", "reservation_id": "r", "cost_micros": 7}
        )
        assert (settled.status, settled.body["late"]) == (200, False)
        service.stop()
    succeeded(run(tmp_path, "snapshot", **parts))
    assert "no drift" in succeeded(run(tmp_path, "verify", **parts))
    rows = succeeded(run(tmp_path, "ledger", "acme", "--json", **parts)).splitlines()
    assert sum(json.loads(row)["charged_micros"] for row in rows) == 1_115 + 1 + 1 + 7
    postgres.drop_database(target)


def test_the_way_back_with_another_number_of_partitions_changes_no_counter(
    tmp_path: Path, redis_server: RedisProcess, postgres: PostgresCluster
) -> None:
    """docs/howto/move.md: from PostgreSQL and a Redis of its own to the service's own, in one stop.

    The database is made, and the new one named, as on the page.
    """
    place = postgres.url("way_back")
    subprocess.run(
        [postgres.binaries / "createdb", "--maintenance-db", postgres.url(), "way_back"],
        check=True,
        timeout=RUN_MS_MAX / 1_000,
    )
    parts: dict[str, object] = {"redis_url": redis_server.url, "database_url": place}
    with running_service(tmp_path, **parts) as service:
        use(service)
        before = counters(service)
        service.stop()
    assert succeeded(run(tmp_path, "snapshot", **parts)).startswith("0 entries")

    home: dict[str, object] = {"data_dir": tmp_path / "limiter-data", "partitions": 3}
    target = "sqlite:///limiter-data/limiter.db"
    succeeded(run(tmp_path, "copy-store", "--from", place, "--to", target))
    with running_service(tmp_path, **home) as service:
        assert counters(service) == before
        report = {"workspace_id": "acme", "cumulative_micros": 6, "source": "worker"}
        assert service.post("/record", report).body["charged_micros"] == 1
        assert "no drift" in succeeded(run(tmp_path, "verify", **home))
        service.stop()
    postgres.drop_database(place)
