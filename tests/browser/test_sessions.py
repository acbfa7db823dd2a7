"""Signing in, what a session is good for, and what happens when it ends while somebody types."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import NewPage
from tests.support.command_line import run, succeeded
from tests.support.service import Service
from tests.support.waiting import eventually


def made_key(service: Service, role: str) -> str:
    """A key as it is printed when it is made."""
    printed = succeeded(run(service.folder, "keys", "create", "--role", role))
    return next(word for word in printed.split() if word.startswith("lim_"))


def revoke(service: Service, key: str) -> None:
    succeeded(run(service.folder, "keys", "revoke", key.split("_")[1]))


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that demands keys. It presents one of its admin keys."""
    service = Service(tmp_path_factory.mktemp("keyed"), auth="keys", redis_deadline_ms=10_000)
    service.key = made_key(service, "admin")
    try:
        service.start()
        yield service
    finally:
        service.kill()


@pytest.fixture
def account(keyed: Service, workspace_id: str) -> str:
    assert keyed.patch(f"/config/workspaces/{workspace_id}", {}).status == 200
    return workspace_id


def sign_in(page: Page, key: str) -> None:
    page.get_by_label("Admin key").fill(key)
    with page.expect_navigation():
        page.get_by_role("button", name="Sign in").click()


def hourly_limit(keyed: Service, account: str) -> object:
    return keyed.get(f"/config/workspaces/{account}").body["budget_limits"]["hourly"]


def test_only_an_admin_key_opens_the_page(new_page: NewPage, keyed: Service, account: str) -> None:
    page = new_page(expects_errors=True)
    answer = page.goto(f"{keyed.url}/workspaces/{account}")
    assert answer is not None
    assert answer.status == 401
    expect(page.get_by_label("Admin key")).to_be_focused()
    expect(page.locator("main")).not_to_contain_text(account)
    expect(page.get_by_role("status")).to_be_empty()

    wrong = f"lim_{'0' * 16}_{'0' * 64}"
    for key in ("no-key", wrong, made_key(keyed, "caller"), made_key(keyed, "monitor")):
        sign_in(page, key)
        expect(page.locator("#error-key")).to_contain_text("no valid admin key")
        assert key not in page.content()
    assert page.context.cookies() == []

    assert keyed.key is not None
    sign_in(page, keyed.key)
    page.wait_for_url(f"**/workspaces/{account}")
    (cookie,) = page.context.cookies()
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Lax"
    assert keyed.key not in cookie["value"]

    page.get_by_label("Hourly limit").fill("2")
    page.get_by_role("button", name="Save limits").click()
    expect(page.get_by_role("status").first).to_contain_text("Saved")
    assert hourly_limit(keyed, account) == 2_000_000
    expect(page.locator("#changes tbody tr").first).to_contain_text(
        f"key:{keyed.key.split('_')[1]}"
    )

    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("status")).to_contain_text("You have signed out")
    assert page.context.cookies() == []
    page.goto(f"{keyed.url}/workspaces/{account}")
    expect(page.get_by_label("Admin key")).to_be_visible()


@pytest.mark.parametrize("path", ["/", "/workspaces/acme", "/workspaces/acme/chats/c1"])
def test_nothing_is_shown_without_a_session(page: Page, keyed: Service, path: str) -> None:
    for cookie in ("", "limiter_session=x", f"limiter_session={'0' * 16}.1.{'0' * 32}.{'0' * 64}"):
        answer = page.request.get(keyed.url + path, headers={"cookie": cookie})
        assert answer.status == 401
        # Not even whether there is such a workspace.
        assert "acme" not in answer.text().replace(f'value="{path}"', "")
        assert answer.headers["cache-control"] == "no-store"


def test_a_session_ends_while_somebody_types(
    new_page: NewPage, keyed: Service, account: str
) -> None:
    page = new_page(expects_errors=True)
    key = made_key(keyed, "admin")
    page.goto(f"{keyed.url}/workspaces/{account}")
    sign_in(page, key)
    page.get_by_label("Hourly limit").fill("4")
    page.get_by_label("Daily limit").fill("44")
    revoke(keyed, key)

    def answered() -> int:
        return page.request.get(f"{keyed.url}/workspaces/{account}").status

    assert eventually(answered, lambda status: status == 401) == 401
    page.get_by_role("button", name="Save limits").click()
    expect(page.get_by_role("status").first).to_contain_text("Your session has ended")
    assert hourly_limit(keyed, account) is None

    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Sign in in another tab").click()
    assert keyed.key is not None
    sign_in(opened.value, keyed.key)
    opened.value.wait_for_url(f"{keyed.url}/")
    opened.value.close()

    expect(page.get_by_label("Hourly limit")).to_have_value("4")
    page.get_by_role("button", name="Save limits").click()
    expect(page.get_by_role("status").first).to_contain_text("Saved")
    limits = keyed.get(f"/config/workspaces/{account}").body["budget_limits"]
    assert (limits["hourly"], limits["daily"]) == (4_000_000, 44_000_000)


def test_a_session_that_ended_asks_for_a_key_and_leads_back(
    new_page: NewPage, keyed: Service, account: str
) -> None:
    page = new_page(expects_errors=True, java_script_enabled=False)
    page.goto(f"{keyed.url}/workspaces/{account}")
    assert keyed.key is not None
    sign_in(page, keyed.key)
    page.get_by_label("Hourly limit").fill("9")
    page.context.add_cookies(
        [{"name": "limiter_session", "value": f"{'0' * 16}.1.x.y", "url": keyed.url}]
    )
    page.get_by_role("button", name="Save limits").click()
    expect(page.get_by_role("status")).to_contain_text("Your session has ended")
    assert hourly_limit(keyed, account) is None
    sign_in(page, keyed.key)
    page.wait_for_url(f"**/workspaces/{account}")


def test_every_form_needs_the_token_of_its_session(
    page: Page, keyed: Service, account: str
) -> None:
    page.goto(f"{keyed.url}/sign-in")
    assert keyed.key is not None
    sign_in(page, keyed.key)
    page.wait_for_url(f"{keyed.url}/")
    # As the browser's own, so that only the token is lacking.
    headers = {"origin": keyed.url, "sec-fetch-site": "same-origin"}
    for path in (
        "/workspaces",
        f"/workspaces/{account}",
        f"/workspaces/{account}/release",
        f"/workspaces/{account}/chats/c1",
        "/sign-out",
    ):
        for token in ({}, {"csrf": ""}, {"csrf": "0" * 64}):
            form: dict[str, str | float | bool] = {
                "hourly": "1",
                "limit": "1",
                "workspace_id": account,
            }
            form.update(token)
            answer = page.request.post(keyed.url + path, form=form, headers=headers)
            assert answer.status == 403, path
    assert hourly_limit(keyed, account) is None
    assert keyed.get(f"/config/workspaces/{account}/chats/c1").status == 404


@pytest.mark.parametrize(
    "behind", ["https://elsewhere.example", "//elsewhere.example", "/\\elsewhere.example", "/check"]
)
def test_signing_in_leads_to_no_other_place(page: Page, keyed: Service, behind: str) -> None:
    assert keyed.key is not None
    answer = page.request.post(
        f"{keyed.url}/sign-in",
        form={"key": keyed.key, "behind": behind},
        headers={"origin": keyed.url},
        max_redirects=0,
    )
    assert (answer.status, answer.headers["location"]) == (303, "/")


def test_a_form_of_another_site_signs_nobody_in(page: Page, keyed: Service) -> None:
    assert keyed.key is not None
    answer = page.request.post(
        f"{keyed.url}/sign-in",
        form={"key": keyed.key},
        headers={"origin": "https://elsewhere.example"},
    )
    assert answer.status == 403
    assert page.context.cookies() == []
