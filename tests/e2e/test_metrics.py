"""/metrics of a service: whichever worker answers, it answers for all processes."""

from __future__ import annotations

import contextlib
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from limiter.metrics import FAMILIES
from tests.metrics.scrape import Numbers, scraped
from tests.support.redis_process import running_redis
from tests.support.service import Service, running_service
from tests.support.waiting import eventually

WORKERS = 2
ROUND = 40
ROUNDS_MAX = 50
CALLERS = 8

ADMITTED = "limiter_decisions_total{outcome=admitted}"
ADMITTED_CELL = next(f for f in FAMILIES if f.name == "limiter_decisions_total").cell("admitted")


def checks_of_each(folder: Path) -> list[int]:
    """What lies in the cells of each worker and of the keeper, past the service."""
    return [
        memoryview(path.read_bytes()).cast("Q")[ADMITTED_CELL]
        for path in sorted(folder.glob("limiter-metrics-*/*.cells"))
    ]


def checks_through_all(service: Service, pool: ThreadPoolExecutor, folder: Path) -> int:
    """Makes checks until each worker has had some more; returns how many it made."""
    before, made = checks_of_each(folder), 0
    for _ in range(ROUNDS_MAX):
        bodies = [{"workspace_id": "acme", "estimate_micros": 1}] * ROUND
        answers = list(pool.map(lambda body: service.post("/check", body), bodies))
        assert {answer.status for answer in answers} == {200}
        made += ROUND
        now = checks_of_each(folder)
        if sum(more > few for more, few in zip(now, before, strict=True)) == WORKERS:
            return made
    raise AssertionError(f"a worker had none of {made} checks")


def test_sums_are_exact_over_workers_and_their_deaths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with (
        running_service(tmp_path, workers=WORKERS, snapshot_interval_ms=50) as service,
        ThreadPoolExecutor(CALLERS) as pool,
    ):
        ready = eventually(lambda: checks_of_each(tmp_path), lambda each: len(each) == WORKERS + 1)
        assert ready == [0] * (WORKERS + 1)
        made = checks_through_all(service, pool, tmp_path)
        # At once, and from whichever worker: nothing is passed on by and by.
        seen = {numbers[ADMITTED] for numbers in pool.map(scraped, [service.url] * 20)}
        assert seen == {made}
        assert sum(checks_of_each(tmp_path)) == made
        count = "limiter_call_duration_seconds_count{call=check}"
        assert scraped(service.url)[count] == made

        # Whichever worker's pass moved an entry, the sum has it.
        for number in range(ROUND):
            body = {"workspace_id": "acme", "event_id": f"e{number}", "cost_micros": number}
            assert service.post("/record", body).status == 200
        charged = sum(range(ROUND))

        def moved() -> Numbers:
            return scraped(service.url)

        settled = eventually(
            moved, lambda numbers: numbers["limiter_charged_micros_total"] >= charged
        )
        assert settled["limiter_charged_micros_total"] == charged
        assert settled["limiter_records_total{outcome=charged}"] == ROUND
        assert settled["limiter_holds_placed_total"] == made

        killed, _ = worker_pids(tmp_path)
        os.kill(killed, signal.SIGKILL)
        pids = eventually(
            lambda: worker_pids(tmp_path),
            lambda pids: len(pids) == WORKERS and killed not in pids,
        )
        assert len(pids) == WORKERS
        assert scraped(service.url)[ADMITTED] == made
        made += checks_through_all(service, pool, tmp_path)
        assert scraped(service.url)[ADMITTED] == made
        assert len(checks_of_each(tmp_path)) == WORKERS + 1
        service.stop()
    assert list(tmp_path.glob("limiter-metrics-*")) == []


def test_whichever_worker_is_asked_it_says_what_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    settings = {"snapshot_interval_ms": 20, "drift_interval_ms": 1}
    folder = tmp_path / "redis"
    folder.mkdir()
    with (
        running_redis(folder) as server,
        running_service(tmp_path, workers=WORKERS, redis_url=server.url, **settings) as service,
    ):
        assert service.post("/record", {"workspace_id": "acme", "cost_micros": 7}).status == 200

        def differ() -> float:
            return scraped(service.url)["limiter_drift_micros"]

        equal = "limiter_drift_checks_total{outcome=equal}"
        assert eventually(lambda: scraped(service.url)[equal], bool)
        assert differ() == 0
        server.client.hincrby("lim:{0}:acme:workspace", "spent.weekly", 13)
        assert eventually(differ, bool) == 13
        assert {differ() for _ in range(20)} == {13}
        line = "workspace acme: spent.weekly is 20 in Redis and 7 in durable storage"
        assert service.log.count(line) == 1
        server.client.hincrby("lim:{0}:acme:workspace", "spent.weekly", -13)
        assert eventually(differ, lambda micros: micros == 0) == 0
        service.stop()


def worker_pids(folder: Path) -> list[int]:
    """The processes that have a file of cells open, but for the keeper."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        # Processes, and what they have open, come and go; of some nothing can be seen.
        with contextlib.suppress(OSError):
            target = link.readlink()
            if target.suffix == ".cells" and target.is_relative_to(folder):
                found.add(int(link.parts[2]))
            if b"limiter.keeper" in (link.parents[1] / "cmdline").read_bytes():
                found.discard(int(link.parts[2]))
    return sorted(found)


def test_one_worker_has_the_keepers_numbers_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with running_service(tmp_path) as service:
        assert service.post("/record", {"workspace_id": "acme", "cost_micros": 7}).status == 200

        def numbers() -> Numbers:
            return scraped(service.url)

        moved = eventually(numbers, lambda numbers: numbers["limiter_charged_micros_total"] > 0)
        assert moved["limiter_charged_micros_total"] == 7
        assert moved["limiter_cold_loads_total{kind=workspace}"] == 1
        service.stop()
    assert list(tmp_path.glob("limiter-metrics-*")) == []
