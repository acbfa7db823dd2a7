"""Keys at a real service: how it starts, who gets in, and when a revoked key stops working."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from limiter.keyring import REVOKED_MS_MAX
from tests.support.command_line import run, succeeded
from tests.support.service import Service, running_service, session_pids

CHECK = {"workspace_id": "acme", "estimate_micros": 1}


def made(folder: Path, role: str, *options: str) -> tuple[str, str]:
    """Id and text of a new key."""
    created = json.loads(
        succeeded(run(folder, "keys", "create", "--role", role, *options, "--json"))
    )
    return created["key_id"], created["key"]


def statuses_by_worker(service: Service) -> list[int]:
    """What each worker answers to a check, while all others are stopped."""
    workers = [
        pid
        for pid in session_pids(service.pid)
        if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    statuses = []
    for answering in workers:
        others = [pid for pid in workers if pid != answering]
        for pid in others:
            os.kill(pid, signal.SIGSTOP)
        try:
            statuses.append(service.post("/check", CHECK).status)
        finally:
            for pid in others:
                os.kill(pid, signal.SIGCONT)
    return statuses


@pytest.mark.parametrize(
    "settings",
    [{"auth": "keys"}, {"host": "0.0.0.0"}],  # noqa: S104  # It does not get that far.
)
def test_without_an_admin_key_it_does_not_start_and_says_how_to_make_one(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    made(tmp_path, "caller")
    service = Service(tmp_path, **settings)
    with pytest.raises(AssertionError, match="limiter keys create --role admin") as refusal:
        service.start("/healthz")
    assert "Traceback" not in str(refusal.value)
    made(tmp_path, "admin")
    try:
        service.start()
        assert service.get("/metrics").status == 401
    finally:
        service.kill()


def test_switched_off_on_another_address_it_starts_with_a_warning(tmp_path: Path) -> None:
    # Loopback by a name that says less: nothing outside this machine is listened to.
    with running_service(tmp_path, auth="off", host="127.1") as service:
        assert "LIMITER_AUTH=off" in service.log
        assert service.post("/check", CHECK).status == 200


def test_on_loopback_nobody_is_asked(tmp_path: Path) -> None:
    with running_service(tmp_path) as service:
        assert service.post("/check", CHECK).status == 200
        assert "LIMITER_AUTH" not in service.log


def test_a_revoked_key_stops_working_in_every_worker_within_the_promised_time(
    tmp_path: Path,
) -> None:
    made(tmp_path, "admin")
    key_id, key = made(tmp_path, "caller", "--workspace", "acme")
    with running_service(tmp_path, auth="keys", workers=2) as service:
        service.key = key
        assert statuses_by_worker(service) == [200, 200]
        succeeded(run(tmp_path, "keys", "revoke", key_id))
        deadline = time.monotonic() + REVOKED_MS_MAX / 1000
        while time.monotonic() < deadline:
            assert service.post("/check", CHECK).status in (200, 401)
        assert statuses_by_worker(service) == [401, 401]


def test_a_key_that_is_made_while_it_runs_works_at_once(tmp_path: Path) -> None:
    made(tmp_path, "admin")
    with running_service(tmp_path, auth="keys") as service:
        _, service.key = made(tmp_path, "caller")
        assert service.post("/check", CHECK).status == 200
