"""Phones and desktops, light and dark, and everything by the keyboard alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import DESKTOP, PHONE, NewPage, screenshot
from tests.support.service import Service

TOUCH_PX_MIN = 40
CONTRAST_MIN = 4.5


@pytest.fixture
def busy(service: Service, workspace: str) -> str:
    """A workspace with all that a page can have: over, near, blocked, chats, holds, long ids."""
    long_id = f"{workspace}-{'agent.' * 18}"
    limits = {"hourly": 1_000_000, "daily": 1_500_000, "weekly": 0, "monthly": None}
    address = f"/config/workspaces/{workspace}"
    for chat, parent in ((long_id, None), ("below", long_id)):
        body = {"parent_chat_id": parent, "spend_limit_micros": 2_000_000}
        assert service.put(f"{address}/chats/{chat}", body).status == 200
    record = {"workspace_id": workspace, "chat_id": "below", "cost_micros": 1_234_567}
    assert service.post("/record", record).status == 200
    check = {"workspace_id": workspace, "chat_id": long_id, "estimate_micros": 5_000}
    assert service.post("/check", check).status == 200
    assert service.patch(address, {"budget_limits": limits}).status == 200
    return workspace


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["phone", "desktop"])
def test_everything_fits_and_can_be_read(
    new_page: NewPage,
    service: Service,
    busy: str,
    tmp_path: Path,
    size: str,
    scheme: Literal["light", "dark"],
) -> None:
    viewport = PHONE if size == "phone" else DESKTOP
    page = new_page(viewport=viewport, color_scheme=scheme, has_touch=size == "phone")
    for path in ("/", f"/workspaces/{busy}", f"/workspaces/{busy}/chats/below"):
        page.goto(service.url + path)
        for opener in page.locator("[data-open]").all():
            opener.click()
        expect(page.locator("[data-open]")).to_have_count(page.locator(".twist:visible").count())
        # Nothing is wider than the window.
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        assert page.evaluate(_UNREADABLE, CONTRAST_MIN) == []
        if size == "phone":
            boxes = [box.bounding_box() for box in page.locator("button:visible").all()]
            heights = [box["height"] for box in boxes if box is not None]
            assert min(heights) >= TOUCH_PX_MIN
        assert screenshot(page, tmp_path, f"{size}-{scheme}").stat().st_size > 0
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(int(part) for part in re.findall(r"\d+", dark)) < 60) is (scheme == "dark")


# The texts whose contrast with what is behind them is below the bound of WCAG 2 AA.
_UNREADABLE = """(least) => {
  const parts = (color) => color.match(/[0-9.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = parts(color).map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (parts(color)[3] !== 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  for (const element of document.body.querySelectorAll("*")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || !element.checkVisibility() || element.closest("svg")) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(behind(element))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < least) found.push([element.outerHTML.slice(0, 80), contrast]);
  }
  return found;
}"""


def focused(page: Page) -> str:
    name: str = page.evaluate(
        "(({ activeElement: e }) => e.getAttribute('aria-label') || e.id || e.textContent.trim())"
        "(document)"
    )
    return name


def tab_to(page: Page, name: str, steps_max: int = 40) -> None:
    """Presses Tab until what is named so has the focus, and can be seen to have it."""
    for _ in range(steps_max):
        page.keyboard.press("Tab")
        if focused(page) == name:
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none"
            return
    raise AssertionError(f"{name} is not reached by Tab; {focused(page)} was the last")


def test_everything_is_done_by_the_keyboard(
    new_page: NewPage, service: Service, workspace: str
) -> None:
    page = new_page(expects_errors=True)
    for chat, parent in (("trip", None), ("flights", "trip")):
        address = f"/config/workspaces/{workspace}/chats/{chat}"
        assert service.put(address, {"parent_chat_id": parent}).status == 200
    hold = {"workspace_id": workspace, "reservation_id": f"{workspace}-hold"}
    assert service.post("/check", {**hold, "estimate_micros": 1_000}).status == 200

    # From the list to the workspace.
    page.goto(f"{service.url}/?q={workspace}&sort=name")
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the content"
    page.keyboard.press("Enter")
    tab_to(page, workspace)
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/workspaces/{workspace}")

    # A wrong limit brings the focus back to its field; a right one is saved by Enter.
    tab_to(page, "input-daily")
    page.keyboard.type("much")
    page.keyboard.press("Enter")
    expect(page.locator("#error-daily")).to_be_visible()
    assert focused(page) == "input-daily"
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("3.5")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").first).to_contain_text("Saved")
    limits = service.get(f"/config/workspaces/{workspace}").body["budget_limits"]
    assert limits["daily"] == 3_500_000

    # A sub-chat gets a limit.
    tab_to(page, "Sub-chats of trip")
    page.keyboard.press("Space")
    expect(page.locator("#chat-flights")).to_be_visible()
    tab_to(page, "flights")
    tab_to(page, "No limit Edit the limit of flights")
    page.keyboard.press("Enter")
    tab_to(page, "input-of-flights")
    page.keyboard.type("0.75")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").first).to_contain_text("The chat's limit is in force")
    config = service.get(f"/config/workspaces/{workspace}/chats/flights").body
    assert config["spend_limit_micros"] == 750_000
    assert focused(page) == "$0.75 Edit the limit of flights"

    # A hold is released, and the focus stays near it.
    tab_to(page, f"Release {workspace}-hold")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").first).to_contain_text("The hold was released")
    assert service.get(f"/usage/workspaces/{workspace}").body["held_micros"] == 0
    assert focused(page) == "holds-title"


def test_what_is_waited_for_is_said(page: Page, service: Service, workspace: str) -> None:
    page.goto(f"{service.url}/workspaces/{workspace}")
    form, button = page.locator("#limits"), page.locator("#limits button")
    held_back: list[Route] = []

    def meet(route: Route) -> None:
        if route.request.method == "POST":
            held_back.append(route)
        else:
            route.continue_()

    page.route("**/workspaces/*", meet)
    page.get_by_label("Hourly limit").fill("1")
    button.click()
    expect(form).to_have_attribute("aria-busy", "true")
    expect(button).to_have_text("Saving…")
    # Sent again, it is sent once all the same.
    page.get_by_label("Hourly limit").press("Enter")
    (route,) = held_back
    route.continue_()
    expect(page.get_by_role("status").first).to_contain_text("Saved")
    expect(button).to_have_text("Save limits")
    expect(form).not_to_have_attribute("aria-busy", "true")
