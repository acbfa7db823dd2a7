"""The list of workspaces: search, order, and what it says where there is nothing to say."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import NewPage
from tests.support.service import Service, running_service


def make(service: Service, workspace: str, limit: int | None, spent: int) -> None:
    patch = {"budget_limits": {"daily": limit}}
    assert service.patch(f"/config/workspaces/{workspace}", patch).status == 200
    if spent:
        record = {"workspace_id": workspace, "cost_micros": spent}
        assert service.post("/record", record).status == 200


def ids(page: Page) -> list[str]:
    return page.locator("#list tbody th a").all_inner_texts()


def test_search_and_order(page: Page, service: Service, workspace_id: str) -> None:
    name = f"{workspace_id}-zoo"
    for ending, limit, spent in (
        ("ape", 1_000_000, 100_000),
        ("bear", 1_000_000, 900_000),
        ("cat", 1_000_000, 1_500_000),
        ("dog", None, 9_000_000),
        ("eel", 0, 0),
    ):
        make(service, f"{name}.{ending}", limit, spent)
    page.goto(service.url)
    page.get_by_label("Search by id").fill(name)
    page.get_by_label("Search by id").press("Enter")
    page.wait_for_url("**/?q=*")
    endings = [found.rpartition(".")[2] for found in ids(page)]
    assert endings == ["cat", "eel", "bear", "ape", "dog"]
    cat = page.locator("#list tbody tr").first
    for words in ("daily", "150%", "$1.50", "$1.00"):
        expect(cat).to_contain_text(words)
    expect(cat.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "100")
    expect(page.locator("#list tbody tr").nth(1)).to_contain_text("blocked")
    expect(page.locator("#list tbody tr").last).to_contain_text("unlimited")

    page.get_by_label("Sort by").select_option("Id")
    page.get_by_role("button", name="Show").click()
    page.wait_for_url("**sort=name*")
    endings = [found.rpartition(".")[2] for found in ids(page)]
    assert endings == ["ape", "bear", "cat", "dog", "eel"]
    page.get_by_role("link", name=f"{name}.bear").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"{name}.bear")


@pytest.mark.parametrize("text", ["nobody-has-this", "<script>alert(1)</script>", "a b"])
def test_nothing_is_found(page: Page, service: Service, text: str) -> None:
    page.goto(service.url)
    page.get_by_label("Search by id").fill(text)
    page.get_by_label("Search by id").press("Enter")
    expect(page.locator("#list")).to_contain_text(f"No workspace's id has “{text}” in it.")
    expect(page.locator("main script")).to_have_count(0)


def test_a_workspace_is_made(page: Page, service: Service, workspace_id: str) -> None:
    page.goto(service.url)
    page.get_by_text("New workspace", exact=True).click()
    page.get_by_label("Id of the new workspace").fill(workspace_id)
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(workspace_id)
    expect(page.get_by_role("status").first).to_contain_text("The workspace was created")
    assert service.get(f"/config/workspaces/{workspace_id}").status == 200
    for empty in ("No chat yet", "Nothing is held", "Nothing was recorded yet"):
        expect(page.get_by_text(empty)).to_be_visible()


@pytest.mark.parametrize("text", ["a b", "<script>alert(1)</script>", "x{y}", "ä"])
def test_a_bad_id_is_refused(new_page: NewPage, service: Service, text: str) -> None:
    page = new_page(expects_errors=True)
    page.goto(service.url)
    page.get_by_text("New workspace", exact=True).click()
    page.get_by_label("Id of the new workspace").fill(text)
    page.get_by_role("button", name="Create").click()
    field = page.get_by_label("Id of the new workspace")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_have_value(text)
    expect(page.locator("#error-new")).to_contain_text("1 to 128 characters of A-Z")
    expect(page.locator("main script")).to_have_count(0)


def test_errors_are_pages(new_page: NewPage, service: Service, workspace_id: str) -> None:
    page = new_page(expects_errors=True)
    answer = page.goto(f"{service.url}/workspaces/{workspace_id}")
    assert answer is not None
    assert answer.status == 404
    expect(page.get_by_role("heading", level=1)).to_have_text("No such workspace")
    page.get_by_role("button", name=f"Create {workspace_id}").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(workspace_id)

    answer = page.goto(f"{service.url}/workspaces/%3Cimg%20src=x%20onerror=alert(1)%3E")
    assert answer is not None
    assert answer.status == 400
    expect(page.get_by_role("heading", level=1)).to_have_text("Bad Request")
    expect(page.locator("main img")).to_have_count(0)

    answer = page.goto(f"{service.url}/workspaces/{workspace_id}/chats/nobody")
    assert answer is not None
    assert answer.status == 404
    expect(page.locator("main")).to_contain_text("chat 'nobody' does not exist")


def test_a_service_without_workspaces(page: Page, tmp_path: Path) -> None:
    with running_service(tmp_path) as service:
        page.clock.install()
        page.goto(service.url)
        expect(page.locator("#list")).to_contain_text("There is no workspace yet")
        make(service, "first", 1_000_000, 0)
        # By itself, with the next refresh.
        page.clock.fast_forward(10_000)
        expect(page.get_by_role("link", name="first")).to_be_visible()
