"""The page while Redis or durable storage is away: what is known is shown, nothing is made up."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import NewPage
from tests.support.redis_process import RedisProcess, running_redis
from tests.support.service import Service, running_service
from tests.support.waiting import eventually


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisProcess]:
    folder = tmp_path / "redis"
    folder.mkdir()
    with running_redis(folder) as server:
        yield server


@pytest.fixture
def fragile(tmp_path: Path, redis: RedisProcess) -> Iterator[Service]:
    """A service whose Redis the test stops. It has a workspace `acme` that has spent something."""
    with running_service(
        tmp_path, redis_url=redis.url, snapshot_interval_ms=50, outage_policy="deny"
    ) as service:
        limits = {"hourly": 1_000_000, "daily": 3_000_000}
        assert service.patch("/config/workspaces/acme", {"budget_limits": limits}).status == 200
        record = {"workspace_id": "acme", "cost_micros": 250_000}
        assert service.post("/record", record).status == 200
        yield service


def limit_is_saved(page: Page, outcome: str) -> None:
    page.get_by_role("button", name="Save limits").click()
    expect(page.get_by_role("status").first).to_contain_text(outcome)


def test_redis_is_away(new_page: NewPage, fragile: Service, redis: RedisProcess) -> None:
    page = new_page(expects_errors=True)
    page.goto(f"{fragile.url}/workspaces/acme")
    row = page.locator("#now-hourly")
    expect(row).to_contain_text("$0.25 spent")
    expect(page.locator("#records")).to_contain_text("$0.250000")

    redis.kill()
    # By itself, with the next refresh.
    expect(page.locator("#health")).to_contain_text("Redis is away")
    expect(page.locator("#health")).to_contain_text("Checks are denied")
    expect(row).to_contain_text("Not known now")
    expect(row).to_contain_text("$0.25 spent at the last snapshot")
    expect(row).to_contain_text("of $1.00")
    bar = row.get_by_role("progressbar")
    expect(bar).to_have_attribute("aria-valuetext", "not known while Redis is away")
    page.goto(fragile.url)
    expect(page.locator("#health")).to_contain_text("Redis is away")
    expect(page.locator("#list")).to_contain_text("acme")

    page.goto(f"{fragile.url}/workspaces/acme")
    page.get_by_label("Hourly limit").fill("0.2")
    limit_is_saved(page, "comes into force by itself once Redis is back")
    expect(page.get_by_label("Hourly limit")).to_have_value("0.2")

    redis.start()
    eventually(lambda: fragile.get("/readyz").status, lambda status: status == 200)
    # It came back with what it had, and is told of the change without anybody doing anything.
    expect(row).to_contain_text("Over the limit")
    expect(row).not_to_contain_text("Not in force yet")
    page.reload()
    expect(page.get_by_label("Hourly limit")).to_have_value("0.20")
    check = {"workspace_id": "acme", "estimate_micros": 1}
    assert fragile.post("/check", check).status == 402
    expect(page.locator("#health")).to_be_hidden()


def test_the_store_is_away(new_page: NewPage, service: Service, workspace: str) -> None:
    page = new_page(expects_errors=True)
    page.goto(f"{service.url}/workspaces/{workspace}")
    page.get_by_label("Hourly limit").fill("6")
    with sqlite3.connect(service.folder / "data" / "limiter.db", isolation_level=None) as other:
        # Nobody else can write while this lasts.
        other.execute("BEGIN IMMEDIATE")
        limit_is_saved(page, "Nothing was saved: durable storage does not answer")
        other.execute("ROLLBACK")
    other.close()
    expect(page.get_by_label("Hourly limit")).to_have_value("6")
    limit_is_saved(page, "Saved")
    limits = service.get(f"/config/workspaces/{workspace}").body["budget_limits"]
    assert limits["hourly"] == 6_000_000


def test_the_service_is_away(new_page: NewPage, tmp_path: Path) -> None:
    page = new_page(expects_errors=True)
    with running_service(tmp_path) as service:
        service.patch("/config/workspaces/acme", {})
        page.goto(f"{service.url}/workspaces/acme")
        page.get_by_label("Hourly limit").fill("6")
    limit_is_saved(page, "The service did not answer")
    expect(page.get_by_label("Hourly limit")).to_have_value("6")
    expect(page.get_by_role("button", name="Save limits")).to_be_enabled()
