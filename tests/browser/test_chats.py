"""Chat trees and live holds: opened, edited and released on the page, enforced by the API."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import NewPage
from tests.support.service import Service
from tests.support.waiting import eventually

TREE = {"trip": None, "flights": "trip", "hotels": "trip", "prices": "flights"}


@pytest.fixture
def tree(service: Service, workspace: str) -> str:
    """trip > (flights > prices, hotels), where each has spent ten cents itself."""
    for chat, parent in TREE.items():
        address = f"/config/workspaces/{workspace}/chats/{chat}"
        assert service.put(address, {"parent_chat_id": parent}).status == 200
        record = {"workspace_id": workspace, "chat_id": chat, "cost_micros": 100_000}
        assert service.post("/record", record).status == 200
    return workspace


def check(service: Service, workspace: str, chat: str, **fields: object) -> int:
    body = {"workspace_id": workspace, "chat_id": chat, **fields}
    return service.post("/check", body).status


def said(page: Page, words: str) -> None:
    expect(page.get_by_role("status").filter(has_text=words)).to_be_visible()


def test_a_tree_is_opened_level_by_level(page: Page, service: Service, tree: str) -> None:
    page.goto(f"{service.url}/workspaces/{tree}")
    expect(page.locator("#sums-trip")).to_contain_text("$0.400000 in all")
    expect(page.locator("#sums-trip")).to_contain_text("$0.100000 itself")
    expect(page.locator("#chat-flights")).to_have_count(0)

    opener = page.get_by_role("button", name="Sub-chats of trip")
    expect(opener).to_have_attribute("aria-expanded", "false")
    opener.click()
    expect(opener).to_have_attribute("aria-expanded", "true")
    expect(page.locator("#sums-flights")).to_contain_text("$0.200000 in all")
    expect(page.locator("#sums-hotels")).to_contain_text("$0.100000 in all")
    page.get_by_role("button", name="Sub-chats of flights").click()
    expect(page.locator("#sums-prices")).to_contain_text("$0.100000 itself")
    expect(page.get_by_role("button", name="Sub-chats of hotels")).to_have_count(0)

    # What was opened is kept up to date as well, and new roots appear.
    record = {"workspace_id": tree, "chat_id": "prices", "cost_micros": 50_000}
    assert service.post("/record", record).status == 200
    assert check(service, tree, "another") == 200
    expect(page.locator("#sums-prices")).to_contain_text("$0.150000")
    expect(page.locator("#sums-trip")).to_contain_text("$0.450000")
    expect(page.locator("#chat-another")).to_be_visible()

    opener.click()
    expect(page.locator("#chat-flights")).to_be_hidden()


def test_a_limit_is_edited_in_the_tree(page: Page, service: Service, tree: str) -> None:
    page.goto(f"{service.url}/workspaces/{tree}")
    page.get_by_role("button", name="Sub-chats of trip").click()
    summary = page.locator("#chat-flights summary")
    expect(summary).to_contain_text("No limit")
    summary.click()
    field = page.get_by_label("Limit of flights and all below it, in dollars")
    field.fill("0.21")
    page.locator("#chat-flights").get_by_role("button", name="Save").click()
    said(page, "The chat's limit is in force")
    expect(summary).to_contain_text("$0.21")
    expect(summary).to_be_focused()
    expect(field).to_be_hidden()
    expect(page.locator("#sums-flights")).to_contain_text("95%")
    assert check(service, tree, "prices", estimate_micros=10_000) == 200
    assert check(service, tree, "prices", estimate_micros=1) == 409
    assert check(service, tree, "hotels", estimate_micros=1) == 200

    summary.click()
    field.fill("")
    page.locator("#chat-flights").get_by_role("button", name="Save").click()
    expect(summary).to_contain_text("No limit")
    assert check(service, tree, "prices", estimate_micros=1) == 200


@pytest.mark.parametrize("scripted", [True, False], ids=["script", "no script"])
def test_a_wrong_limit_of_a_chat_is_said(
    new_page: NewPage, service: Service, tree: str, scripted: bool
) -> None:
    page = new_page(expects_errors=True, java_script_enabled=scripted)
    page.goto(f"{service.url}/workspaces/{tree}")
    page.locator("#chat-trip summary").click()
    field = page.get_by_label("Limit of trip and all below it, in dollars")
    for typed, reason in {
        "0": "The limit of a chat is above $0; leave it blank for no limit.",
        "-4": "The amount must not be negative.",
    }.items():
        field.fill(typed)
        page.get_by_role("button", name="Save", exact=True).click()
        expect(page.locator("#error-of-trip")).to_have_text(reason)
        expect(field).to_have_value(typed)
        expect(field).to_have_attribute("aria-invalid", "true")
    config = service.get(f"/config/workspaces/{tree}/chats/trip").body
    assert config["spend_limit_micros"] is None

    field.fill("4.5")
    page.get_by_role("button", name="Save", exact=True).click()
    said(page, "The chat's limit is in force")
    config = service.get(f"/config/workspaces/{tree}/chats/trip").body
    assert config["spend_limit_micros"] == 4_500_000


def test_a_chat_has_a_page(page: Page, service: Service, tree: str) -> None:
    page.goto(f"{service.url}/workspaces/{tree}/chats/prices")
    trail = page.get_by_role("navigation").get_by_role("link").all_inner_texts()
    assert trail == ["Workspaces", tree, "trip", "flights"]
    expect(page.get_by_text("No chat names this one as its parent.")).to_be_visible()
    page.get_by_role("link", name="flights").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("flights")
    expect(page.locator("#children")).to_contain_text("prices")


def test_a_hold_is_released(page: Page, service: Service, workspace: str) -> None:
    service.patch(f"/config/workspaces/{workspace}", {"budget_limits": {"hourly": 100_000}})
    for name in ("first", "second"):
        body = {"reservation_id": f"{workspace}-{name}", "estimate_micros": 50_000}
        assert check(service, workspace, "c1", **body) == 200
    assert check(service, workspace, "c1", estimate_micros=50_000) == 402

    page.goto(f"{service.url}/workspaces/{workspace}")
    holds = page.locator("#holds tbody tr")
    expect(holds).to_have_count(2)
    expect(holds.first).to_contain_text(f"{workspace}-first")
    expect(holds.first).to_contain_text("$0.050000")
    expect(holds.first).to_contain_text("c1")
    expect(page.locator("#now-hourly")).to_contain_text("$0.10 held")
    expect(page.locator("#now-hourly")).to_contain_text("Limit reached")

    page.get_by_role("button", name=f"Release {workspace}-first").click()
    said(page, "The hold was released")
    expect(holds).to_have_count(1)
    expect(page.get_by_role("heading", name="Live holds")).to_be_focused()
    assert check(service, workspace, "c1", estimate_micros=50_000) == 200


def test_a_hold_that_is_gone_is_said_to_be(
    new_page: NewPage, service: Service, workspace: str
) -> None:
    reservation_id = f"{workspace}-hold"
    body = {"reservation_id": reservation_id, "estimate_micros": 50_000}
    assert check(service, workspace, "c1", **body) == 200
    # Without the script, which would take the row away first.
    page = new_page(java_script_enabled=False)
    page.goto(f"{service.url}/workspaces/{workspace}")
    record = {"workspace_id": workspace, "reservation_id": reservation_id, "cost_micros": 1}
    assert service.post("/record", {**record, "chat_id": "c1"}).status == 200
    page.get_by_role("button", name=f"Release {reservation_id}").click()
    said(page, "already settled")


def test_the_age_of_a_hold_is_known_from_the_ledger(
    page: Page, service: Service, workspace: str
) -> None:
    assert check(service, workspace, "c1", estimate_micros=50_000) == 200

    def age() -> str:
        page.goto(f"{service.url}/workspaces/{workspace}")
        return page.locator("#holds td[data-label=Age]").inner_text()

    assert eventually(age, lambda text: text.endswith(" s")).endswith(" s")
