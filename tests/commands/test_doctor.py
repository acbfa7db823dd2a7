"""`limiter doctor` over real parts: each trouble is found, and nothing is changed by looking."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from limiter.commands.doctor import doctor, is_healthy
from limiter.commands.findings import Finding
from limiter.commands.keys import create_key
from limiter.durable.engine import parse_url
from limiter.runtime import open_parts
from limiter.settings import Settings
from tests.commands.scene import build
from tests.commands.typed import Typed
from tests.support.keyspace import dump
from tests.support.redis_process import RedisProcess
from tests.support.service import free_port, running_service


@pytest.fixture
async def built(settings: Settings) -> Settings:
    """With all of it in durable storage, and no service that listens."""
    async with open_parts(settings) as parts:
        await build(parts.limiter)
        await parts.snapshot.run_once()
    return settings.model_copy(update={"port": free_port()})


async def troubles(settings: Settings) -> dict[str, Finding]:
    """What is not ok, but for the service, which does not run."""
    found = await doctor(settings)
    assert found[-1].check == "access"
    return {one.check: one for one in found if one.status != "ok" and one.check != "service"}


def execute(settings: Settings, statement: str) -> None:
    assert settings.database_url is not None
    engine = create_engine(parse_url(settings.database_url.get_secret_value()))
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


async def test_all_is_well_and_stays_as_it_is(built: Settings, redis_server: RedisProcess) -> None:
    before = dump(redis_server.client)
    found = await doctor(built)
    assert {one.check: one.status for one in found} == {
        "store": "ok",
        "migrations": "ok",
        "dead letters": "ok",
        "queued records": "ok",
        "limits": "ok",
        "redis": "ok",
        "redis persistence": "ok",
        "redis memory": "ok",
        "redis clock": "ok",
        "stream": "ok",
        "service": "warn",
        "access": "ok",
    }
    assert is_healthy(found)
    assert dump(redis_server.client) == before


async def test_a_server_that_may_drop_counters(built: Settings, redis_server: RedisProcess) -> None:
    redis_server.client.config_set("maxmemory-policy", "allkeys-lru")
    found = await troubles(built)
    assert found.keys() == {"redis"}
    assert found["redis"].status == "fail"
    assert "must be noeviction" in found["redis"].detail


async def test_a_server_that_is_away(built: Settings, redis_server: RedisProcess) -> None:
    redis_server.kill()
    found = await troubles(built)
    assert {check: one.status for check, one in found.items()} == {"redis": "fail"}


async def test_a_server_without_an_append_only_file_and_with_little_memory(
    built: Settings, redis_server: RedisProcess
) -> None:
    redis_server.client.config_set("appendonly", "no")
    used = int(redis_server.client.info("memory")["used_memory"])
    redis_server.client.config_set("maxmemory", used * 5 // 4)
    found = await troubles(built)
    assert found["redis persistence"].status == "warn"
    assert found["redis memory"].status == "warn"


async def test_a_clock_that_stepped_back(built: Settings) -> None:
    execute(built, "UPDATE workspaces SET clock_ms = clock_ms + 3600000 WHERE workspace_id='acme'")
    found = await troubles(built)
    assert found["redis clock"].status == "fail"
    assert "it has stepped back" in found["redis clock"].detail


async def test_entries_that_wait(built: Settings, redis_server: RedisProcess) -> None:
    redis_server.client.delete("lim:{0}:stream")
    redis_server.client.execute_command("XADD", "lim:{0}:stream", "1000-0", "type", "none")
    found = await troubles(built)
    assert found["stream"].status == "warn"
    assert found["stream"].detail.startswith("1 not durable yet")


async def test_what_durable_storage_has_put_aside(built: Settings) -> None:
    execute(
        built,
        "INSERT INTO dead_letters (at_ms, partition, stream_id, reason, fields)"
        " VALUES (1, 0, '1-0', 'no amount', '{}')",
    )
    execute(built, "UPDATE spend_events SET applied = false WHERE event_id = 'e9'")
    found = await troubles(built)
    assert {check: one.status for check, one in found.items()} == {
        "dead letters": "warn",
        "queued records": "warn",
    }
    assert found["dead letters"].detail == "1, the latest for: no amount"
    assert found["queued records"].detail.startswith("2 were taken")


async def test_a_database_of_another_version(built: Settings) -> None:
    execute(built, "UPDATE alembic_version SET version_num = 'from-the-future'")
    found = await troubles(built)
    assert found["migrations"].status == "fail"
    execute(built, "DELETE FROM alembic_version")
    found = await troubles(built)
    assert found["migrations"].status == "warn"
    assert found["migrations"].detail.startswith("at nothing")


async def test_a_database_that_is_away(built: Settings, tmp_path: Path) -> None:
    url = f"postgresql://nobody@127.0.0.1:{free_port()}/none"
    away = Settings.model_validate({"database_url": url, "redis_url": built.redis_url})
    found = await troubles(away)
    assert found["store"].status == "fail"
    assert "durable storage cannot answer" in found["store"].detail


@pytest.fixture
def unready() -> Iterator[int]:
    """The port of a service that says that it is not ready."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"ready": False, "snapshot_age_ms": 1}).encode()
            self.send_response(503)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


async def test_a_service_that_is_not_ready_or_listens_to_all(built: Settings, unready: int) -> None:
    changes: dict[str, object] = {"port": unready, "host": "0.0.0.0"}  # noqa: S104
    everywhere = built.model_copy(update=changes)
    found = {one.check: one for one in await doctor(everywhere)}
    assert found["service"].status == "fail"
    assert found["access"].status == "fail"
    assert "no admin key" in found["access"].detail
    await create_key(everywhere, "admin")
    assert "access" not in await troubles(everywhere)
    found = await troubles(everywhere.model_copy(update={"auth": "off"}))
    assert found["access"].status == "warn"


def test_as_typed(tmp_path: Path, typed: Typed) -> None:
    fresh = typed(tmp_path, "doctor", "--json", port=free_port()).as_json()
    assert {one["check"]: one["status"] for one in fresh["findings"]} == {
        "store": "warn",
        "redis": "warn",
        "service": "warn",
        "access": "ok",
    }
    assert list(tmp_path.iterdir()) == []
    with running_service(tmp_path) as service:
        beside = typed(tmp_path, "doctor", "--json", port=service.port).as_json()
        assert beside["healthy"]
        assert {one["status"] for one in beside["findings"]} == {"ok"}
        assert "service" in {one["check"] for one in beside["findings"]}
        service.stop()
    alone = typed(tmp_path, "doctor", port=service.port)
    lines = [line.split("\t") for line in alone.succeeded().splitlines()]
    assert lines[0] == ["status", "check", "detail", "advice"]
    assert [line[1] for line in lines if line[0] == "warn"] == ["service"]
    away = typed(tmp_path, "doctor", redis_url=f"redis://127.0.0.1:{free_port()}/0")
    assert away.returncode == 1
    assert "fail\tredis\tRedis cannot be reached" in away.stdout
