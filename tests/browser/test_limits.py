"""Setting limits: what is typed is what the API enforces, and what cannot be is said."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from limiter.periods import PERIOD_NAMES
from tests.browser.conftest import NewPage
from tests.support.service import Service

ESTIMATE_MICROS = 50_000

_FREES_UP = re.compile(r"frees up in (1 h|1 h 1 min|60 min|59 min)")


def opened(page: Page, service: Service, workspace: str) -> Page:
    page.goto(f"{service.url}/workspaces/{workspace}")
    return page


def save(page: Page, outcome: str = "Saved") -> None:
    page.get_by_role("button", name="Save limits").click()
    expect(page.get_by_role("status").filter(has_text=outcome)).to_be_visible()


def limits_of(service: Service, workspace: str) -> dict[str, int | None]:
    limits: dict[str, int | None] = service.get(f"/config/workspaces/{workspace}").body[
        "budget_limits"
    ]
    return limits


def record(service: Service, workspace: str, micros: int) -> None:
    body = {"workspace_id": workspace, "cost_micros": micros}
    assert service.post("/record", body).status == 200


@pytest.mark.parametrize("period", PERIOD_NAMES)
def test_each_period_is_set_and_enforced(
    page: Page, service: Service, workspace: str, period: str
) -> None:
    check = {"workspace_id": workspace, "estimate_micros": ESTIMATE_MICROS}
    field = opened(page, service, workspace).get_by_label(f"{period.capitalize()} limit")
    row = page.locator(f"#now-{period}")
    expect(field).to_have_value("")
    expect(field).to_have_attribute("placeholder", "unlimited")
    expect(row).to_contain_text("Unlimited")

    field.fill("0.049999")
    save(page)
    assert limits_of(service, workspace)[period] == 49_999
    denied = service.post("/check", check)
    assert (denied.status, denied.body["exceeded_periods"]) == (402, [period])

    field.fill("$0.05")
    save(page)
    expect(field).to_have_value("0.05")
    admitted = service.post("/check", check)
    assert admitted.status == 200
    assert service.post(
        "/release",
        {"workspace_id": workspace, "reservation_id": admitted.body["reservation"]["id"]},
    ).body["released"]

    field.fill("0")
    save(page)
    expect(row).to_contain_text("Blocks every call")
    assert service.post("/check", check).body["code"] == "blocked"

    field.fill("")
    save(page)
    expect(row).to_contain_text("Unlimited")
    assert limits_of(service, workspace) == dict.fromkeys(PERIOD_NAMES)
    assert service.post("/check", check).status == 200


def test_four_rows_say_what_the_api_says(page: Page, service: Service, workspace: str) -> None:
    limits = {"hourly": 2_000_000, "daily": 10_000_000, "weekly": None, "monthly": 0}
    service.patch(f"/config/workspaces/{workspace}", {"budget_limits": {**limits, "monthly": None}})
    record(service, workspace, 1_200_000)
    assert (
        service.post("/check", {"workspace_id": workspace, "estimate_micros": 300_000}).status
        == 200
    )
    service.patch(f"/config/workspaces/{workspace}", {"budget_limits": limits})
    opened(page, service, workspace)

    assert page.locator("#limits h3").all_inner_texts() == ["Hourly", "Daily", "Weekly", "Monthly"]
    bars = page.locator("#limits").get_by_role("progressbar")
    expect(bars).to_have_count(4)
    said = [
        (bar.get_attribute("aria-valuenow"), bar.get_attribute("aria-valuetext"))
        for bar in bars.all()
    ]
    assert said == [
        ("75", "$1.20 spent, $0.30 held, of $2.00: 75 percent"),
        ("15", "$1.20 spent, $0.30 held, of $10.00: 15 percent"),
        ("0", "$1.20 spent, $0.30 held, no limit"),
        ("0", "$1.20 spent, $0.30 held, every call is blocked"),
    ]
    hourly = bars.first
    assert (hourly.get_attribute("aria-valuemin"), hourly.get_attribute("aria-valuemax")) == (
        "0",
        "100",
    )
    boxes = [hourly.locator(part).bounding_box() for part in ("svg", ".spent", ".held")]
    whole, spent, held = (box["width"] for box in boxes if box is not None)
    assert spent / whole == pytest.approx(0.6, abs=0.01)
    assert held / whole == pytest.approx(0.15, abs=0.01)
    expect(page.locator("#now-hourly")).to_contain_text("75%")
    expect(page.locator("#now-hourly")).to_contain_text("$0.50 left")
    expect(page.locator("#now-monthly")).to_contain_text("Blocks every call")


def test_spend_over_time_is_drawn(page: Page, service: Service, workspace: str) -> None:
    record(service, workspace, 700_000)
    record(service, workspace, 500_000)
    opened(page, service, workspace)
    for period in PERIOD_NAMES:
        picture = page.locator(f"#past-{period}").get_by_role("img")
        label = picture.get_attribute("aria-label") or ""
        assert label.startswith("Spend over this window: $1.20 in all")
        titles = picture.locator("rect title").all_text_contents()
        amounts = [round(float(title.rpartition("$")[2]) * 1_000_000) for title in titles]
        # The second may have come after the end of a bucket.
        assert sum(amounts) == 1_200_000


def test_over_is_red_and_says_when_it_frees_up(
    page: Page, service: Service, workspace: str
) -> None:
    service.patch(
        f"/config/workspaces/{workspace}",
        {"budget_limits": {"hourly": 1_000_000, "daily": 5_000_000}},
    )
    record(service, workspace, 1_250_000)
    opened(page, service, workspace)
    row = page.locator("#now-hourly")
    for words in ("$1.25 spent", "125%", "Over the limit", "$0.25 over"):
        expect(row).to_contain_text(words)
    # The bucket that has it leaves whole, half a minute after the hour at most.
    expect(row).to_contain_text(_FREES_UP)
    bar = row.get_by_role("progressbar")
    expect(bar).to_have_attribute("aria-valuenow", "100")
    expect(bar).to_have_attribute(
        "aria-valuetext", "$1.25 spent, $0.00 held, of $1.00: 125 percent, over the limit"
    )
    fills = [
        page.locator(f"#bar-{period} .spent").evaluate("bar => getComputedStyle(bar).fill")
        for period in ("hourly", "daily")
    ]
    reds = [is_red(fill) for fill in fills]
    assert reds == [True, False]
    mark, whole = (page.locator(f"#bar-hourly {part}").bounding_box() for part in (".mark", "svg"))
    assert mark is not None
    assert whole is not None
    assert (mark["x"] - whole["x"]) / whole["width"] == pytest.approx(0.8, abs=0.01)


def is_red(fill: str) -> bool:
    red, green, blue = (int(part) for part in fill.removeprefix("rgb(").rstrip(")").split(","))
    return red > 2 * max(green, blue)


WRONG = {
    "-1": "The amount must not be negative.",
    "1,50": "Write the amount without commas, like 1234.50.",
    "0.0000001": "The amount has more than 6 decimals.",
    "1e3": "The amount must be dollars in plain digits, like 12 or 12.50.",
    "9007199254.740992": "The amount is above $9007199254.740991.",
    "<script>alert(1)</script>": "The amount must be dollars in plain digits, like 12 or 12.50.",
}


@pytest.mark.parametrize(
    ("typed", "scripted"), [*((typed, True) for typed in WRONG), ("-1", False), ('"><b>', False)]
)
def test_wrong_input_is_said_at_its_field_and_loses_nothing(
    new_page: NewPage, service: Service, workspace: str, typed: str, scripted: bool
) -> None:
    service.patch(f"/config/workspaces/{workspace}", {"budget_limits": {"hourly": 3_000_000}})
    page = new_page(expects_errors=True, java_script_enabled=scripted)
    opened(page, service, workspace)
    page.get_by_label("Daily limit").fill(typed)
    page.get_by_label("Weekly limit").fill("7.5")
    save(page, "Nothing was saved")

    wrong = page.get_by_label("Daily limit")
    expect(wrong).to_have_value(typed)
    expect(wrong).to_have_attribute("aria-invalid", "true")
    described_by = (wrong.get_attribute("aria-describedby") or "").split()
    assert page.locator(f"#{described_by[0]}").inner_text() == WRONG.get(typed, WRONG["1e3"])
    if scripted:
        expect(wrong).to_be_focused()
    expect(page.get_by_label("Hourly limit")).to_have_value("3.00")
    expect(page.get_by_label("Weekly limit")).to_have_value("7.5")
    assert limits_of(service, workspace) == {
        **dict.fromkeys(PERIOD_NAMES),
        "hourly": 3_000_000,
    }

    wrong.fill("5")
    save(page)
    expect(page.locator("[aria-invalid]")).to_have_count(0)
    assert limits_of(service, workspace) == {
        "hourly": 3_000_000,
        "daily": 5_000_000,
        "weekly": 7_500_000,
        "monthly": None,
    }


def test_only_what_was_changed_is_saved(page: Page, service: Service, workspace: str) -> None:
    opened(page, service, workspace)
    # Somebody else sets another limit meanwhile.
    service.patch(f"/config/workspaces/{workspace}", {"budget_limits": {"daily": 8_000_000}})
    page.get_by_label("Hourly limit").fill("2")
    save(page)
    limits = limits_of(service, workspace)
    assert (limits["hourly"], limits["daily"]) == (2_000_000, 8_000_000)
    expect(page.get_by_label("Daily limit")).to_have_value("8.00")
    save(page, "Nothing was changed")
    change = page.locator("#changes tbody tr").first
    expect(change).to_contain_text("page")
    expect(change).to_contain_text("hourly")
    expect(change).to_contain_text("unlimited")
    expect(change).to_contain_text("$2.00")


def test_what_happens_shows_and_what_is_typed_stays(
    page: Page, service: Service, workspace: str
) -> None:
    opened(page, service, workspace)
    expect(page.locator("#now-hourly")).to_contain_text("$0.00 spent")
    expect(page.locator("#records")).to_contain_text("Nothing was recorded yet")
    page.get_by_label("Hourly limit").fill("12.34")
    record(service, workspace, 90_000)
    expect(page.locator("#now-hourly")).to_contain_text("$0.09 spent")
    expect(page.locator("#records")).to_contain_text("$0.090000")
    expect(page.get_by_label("Hourly limit")).to_have_value("12.34")


def test_a_form_of_another_site_changes_nothing(
    page: Page, service: Service, workspace: str
) -> None:
    address = f"{service.url}/workspaces/{workspace}"
    for headers in (
        {"origin": "https://elsewhere.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site", "origin": service.url},
        {"sec-fetch-site": "same-site", "origin": service.url},
        {},
    ):
        answer = page.request.post(address, form={"hourly": "1"}, headers=headers)
        assert answer.status == 403
        assert "not sent by a page of this service" in answer.text()
    assert limits_of(service, workspace)["hourly"] is None
