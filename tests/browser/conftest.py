"""The page in a real browser, in front of real services. Each test has a workspace of its own.

Every page fails its test over anything that the browser complains of: errors of the script, and
whatever the content security policy had to stop.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.support.parts import need
from tests.support.service import Service, running_service
from tests.support.waiting import WAIT_MS_MAX

DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}

NewPage = Callable[..., Page]

_numbers = itertools.count()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium of the system. It ends with the module: asyncio is not free while it runs."""
    program = need("browser", shutil.which("chromium"), "chromium")
    as_root = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=as_root)
        expect.set_options(timeout=WAIT_MS_MAX)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service without keys, whose records are in the ledger at once."""
    folder = tmp_path_factory.mktemp("service")
    with running_service(folder, redis_deadline_ms=10_000, snapshot_interval_ms=50) as service:
        yield service


@pytest.fixture
def workspace_id() -> str:
    return f"ws-{next(_numbers)}"


@pytest.fixture
def workspace(service: Service, workspace_id: str) -> str:
    """The id of a workspace that exists, without any limit."""
    assert service.patch(f"/config/workspaces/{workspace_id}", {}).status == 200
    return workspace_id


@pytest.fixture
def new_page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[NewPage]:
    """Opens pages, each in a browser profile of its own. Takes the options of a context.

    `expects_errors`: the browser reports answers of 400 and above, and lost connections, as errors.
    """
    complaints: list[str] = []
    with ExitStack() as stack:

        def open_page(*, expects_errors: bool = False, **options: Any) -> Page:
            context = browser.new_context(**{"viewport": DESKTOP, **options})
            stack.callback(context.close)
            context.set_default_timeout(WAIT_MS_MAX)
            page = context.new_page()

            def heard(message: ConsoleMessage) -> None:
                is_answer = "Failed to load resource" in message.text
                if message.type in ("error", "warning") and not (expects_errors and is_answer):
                    complaints.append(message.text)

            page.on("console", heard)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("dialog", lambda dialog: complaints.append(dialog.message))
            return page

        yield open_page
    assert complaints == []


@pytest.fixture
def page(new_page: NewPage) -> Page:
    """A page in a window of a desktop."""
    return new_page()


def screenshot(page: Page, folder: Path, name: str) -> Path:
    """The whole page as a picture, for people to look at."""
    path = folder / f"{name}.png"
    page.screenshot(path=path, full_page=True)
    return path
