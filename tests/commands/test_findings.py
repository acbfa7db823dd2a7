"""What the doctor makes of what it saw: each threshold, on both sides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from limiter.commands import findings
from limiter.commands.findings import Finding, Status
from limiter.durable import DeadLetter
from limiter.durable.examine import ExaminedContents, ExaminedStore
from limiter.periods import SECOND_MS
from limiter.redis.connect import ServerInfo
from limiter.redis.examine import Examined

NOW_MS = 1_795_335_900_000
GIB = 1 << 30

INFO = ServerInfo(
    engine="valkey",
    version="9.1.0",
    run_id="x",
    role="master",
    cluster_enabled=False,
    aof_enabled=True,
)
SERVER = Examined(
    info=INFO,
    bytes_used=GIB,
    bytes_max=0,
    system_bytes=16 * GIB,
    append_only_file_ok=True,
    dump_ok=True,
    clock_ms=NOW_MS,
    ahead_ms=0,
)
CONTENTS = ExaminedContents(
    workspaces=3,
    clock_ms=NOW_MS,
    queued_records=0,
    untold_scopes=0,
    dead_letters=0,
    last_dead_letter=None,
    has_admin_key=False,
)
STORE = ExaminedStore(
    engine="SQLite 3.45.1",
    revision="0001",
    expected="0001",
    is_newer=False,
    contents=CONTENTS,
)
LETTER = DeadLetter(at_ms=1, partition=0, stream_id="1-0", reason="no amount", fields="{}")


def by_check(found: list[Finding]) -> dict[str, Finding]:
    for finding in found:
        assert (finding.advice is None) == (finding.status == "ok"), finding
    checks = {finding.check: finding for finding in found}
    assert len(checks) == len(found)
    return checks


def of_server(seen: Examined, newest_stored_ms: int | None = NOW_MS) -> dict[str, Finding]:
    return by_check(list(findings.server_findings("redis", seen, newest_stored_ms)))


def of_store(seen: ExaminedStore) -> dict[str, Finding]:
    return by_check(list(findings.store_findings(seen)))


def test_a_healthy_server_and_store_have_nothing_to_advise() -> None:
    server, store = of_server(SERVER), of_store(STORE)
    assert {finding.status for finding in (*server.values(), *store.values())} == {"ok"}
    assert server["redis"].detail == "Valkey 9.1.0, master, noeviction"
    assert server["redis memory"].detail == "1 GiB used, 6 % of the machine's memory (16 GiB)"
    assert set(store) == {"store", "migrations", "dead letters", "queued records", "limits"}


@pytest.mark.parametrize(
    ("aof_enabled", "append_only_file_ok", "dump_ok", "status"),
    [
        (True, True, False, "ok"),
        (True, False, True, "fail"),
        (False, True, True, "warn"),
        (False, True, False, "fail"),
    ],
)
def test_persistence(
    aof_enabled: bool, append_only_file_ok: bool, dump_ok: bool, status: Status
) -> None:
    seen = replace(
        SERVER,
        info=replace(INFO, aof_enabled=aof_enabled),
        append_only_file_ok=append_only_file_ok,
        dump_ok=dump_ok,
    )
    assert of_server(seen)["redis persistence"].status == status


@pytest.mark.parametrize(
    ("used", "bound", "system", "status"),
    [
        (74, 100, 1_000, "ok"),
        (75, 100, 1_000, "warn"),
        (89, 100, 1_000, "warn"),
        (90, 100, 1_000, "fail"),
        (750, 0, 1_000, "warn"),
        (900, 0, 1_000, "fail"),
        (900, 0, 0, "ok"),
    ],
)
def test_memory(used: int, bound: int, system: int, status: Status) -> None:
    seen = replace(SERVER, bytes_used=used, bytes_max=bound, system_bytes=system)
    assert of_server(seen)["redis memory"].status == status


@pytest.mark.parametrize(
    ("newest_stored_ms", "ahead_ms", "status"),
    [
        (None, 0, "ok"),
        (NOW_MS + SECOND_MS, 0, "ok"),
        (NOW_MS + SECOND_MS + 1, 0, "warn"),
        (NOW_MS + 60 * SECOND_MS, 0, "warn"),
        (NOW_MS + 60 * SECOND_MS + 1, 0, "fail"),
        (NOW_MS, 5 * SECOND_MS, "ok"),
        (NOW_MS, 5 * SECOND_MS + 1, "warn"),
        (NOW_MS, -5 * SECOND_MS - 1, "warn"),
    ],
)
def test_clock(newest_stored_ms: int | None, ahead_ms: int, status: Status) -> None:
    found = of_server(replace(SERVER, ahead_ms=ahead_ms), newest_stored_ms)["redis clock"]
    assert found.status == status
    assert ("behind this" in found.detail) == (ahead_ms < 0)


@pytest.mark.parametrize(
    ("revision", "is_newer", "status"),
    [("0001", False, "ok"), ("0000", False, "warn"), (None, False, "warn"), ("9", True, "fail")],
)
def test_migrations(revision: str | None, is_newer: bool, status: Status) -> None:
    seen = replace(STORE, revision=revision, is_newer=is_newer, contents=None)
    found = of_store(seen)
    assert found["migrations"].status == status
    assert set(found) == {"store", "migrations"}


def test_what_is_stuck_is_a_warning() -> None:
    contents = replace(CONTENTS, dead_letters=2, last_dead_letter=LETTER, queued_records=1_234)
    found = of_store(replace(STORE, contents=contents))
    assert (found["dead letters"].status, found["queued records"].status) == ("warn", "warn")
    assert found["dead letters"].detail == "2, the latest for: no amount"
    assert found["queued records"].detail.startswith("1,234 were taken")


def test_limits_that_redis_was_not_told_of() -> None:
    found = of_store(replace(STORE, contents=replace(CONTENTS, untold_scopes=3)))
    assert found["limits"].status == "warn"
    assert "not told of 3" in found["limits"].detail


@pytest.mark.parametrize(
    ("oldest_wait_ms", "interval_ms", "status"),
    [
        (None, 1_000, "ok"),
        (10_000, 1_000, "ok"),
        (10_001, 1_000, "warn"),
        (50_000, 5_000, "ok"),
        (50_001, 5_000, "warn"),
    ],
)
def test_backlog(oldest_wait_ms: int | None, interval_ms: int, status: Status) -> None:
    found = findings.backlog_finding(7, oldest_wait_ms, interval_ms)
    by_check([found])
    assert found.status == status
    assert ("7 not durable yet" in found.detail) == (oldest_wait_ms is not None)


@pytest.mark.parametrize(
    ("ready", "status"),
    [
        (None, "warn"),
        ({"ready": True, "snapshot_age_ms": 10_000}, "ok"),
        ({"ready": True, "snapshot_age_ms": None}, "ok"),
        ({"ready": True, "snapshot_age_ms": 10_001}, "warn"),
        ({"ready": False, "snapshot_age_ms": 1}, "fail"),
        ({}, "fail"),
    ],
)
def test_service(ready: dict[str, object] | None, status: Status) -> None:
    found = findings.service_finding("127.0.0.1:8080", ready, 1_000)
    by_check([found])
    assert found.status == status


@pytest.mark.parametrize(
    ("free_bytes", "status"),
    [(GIB, "ok"), (GIB - 1, "warn"), (100 << 20, "warn"), ((100 << 20) - 1, "fail")],
)
def test_disk(free_bytes: int, status: Status) -> None:
    found = findings.disk_finding("data", free_bytes)
    by_check([found])
    assert found.status == status


@pytest.mark.parametrize(
    ("is_local", "demands_keys", "has_admin_key", "status"),
    [
        (True, False, False, "ok"),
        (True, True, True, "ok"),
        (False, True, True, "ok"),
        (False, True, None, "ok"),
        (False, True, False, "fail"),
        (False, False, True, "warn"),
    ],
)
def test_access(
    is_local: bool, demands_keys: bool, has_admin_key: bool | None, status: Status
) -> None:
    found = findings.access_finding(
        "10.0.0.1", is_local=is_local, demands_keys=demands_keys, has_admin_key=has_admin_key
    )
    by_check([found])
    assert found.status == status
