"""docs/redis.md is true: its commands print what it shows, and its table names every key."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.docs.scene import MORNING_MS, build
from tests.support.clock import DrivenClock, driven_scripts
from tests.support.driver import Driver
from tests.support.servers import Server

PAGE = (Path(__file__).parents[2] / "docs" / "redis.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```console\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


def commands() -> list[tuple[str, str]]:
    """(command, what the page shows below it) of every example."""
    examples = []
    for block in BLOCKS:
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            examples.append((command, shown))
    return examples


@pytest.fixture
def morning(real_server: Server) -> Server:
    real_server.flush()
    driver = Driver(real_server.client, driven_scripts())
    build(driver, DrivenClock(real_server.client, start_ms=MORNING_MS))
    return real_server


def test_page_has_examples_for_five_questions() -> None:
    questions = PAGE.partition("## Five questions")[2]
    assert len(re.findall(r"^### .*\?$", questions, flags=re.MULTILINE)) == 5
    assert len(commands()) >= 10


@pytest.mark.parametrize("command", [command for command, _ in commands()])
def test_example_prints_what_the_page_shows(morning: Server, command: str) -> None:
    assert morning.socket_path is not None
    program, *arguments = shlex.split(command)
    assert program == "redis-cli"
    # --no-raw: into a pipe, redis-cli prints differently than on the terminal of the page.
    printed = subprocess.run(
        [program, "-s", str(morning.socket_path), "--no-raw", *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    ).stdout
    assert printed == dict(commands())[command]


def test_table_names_every_key(morning: Server) -> None:
    found: list[bytes] = morning.client.execute_command("KEYS", "lim:*")
    keys = {key.decode() for key in found}
    named = set(re.findall(r"^\| `(lim:[^`]+)` \|", PAGE, flags=re.MULTILINE))
    other_periods = {key for key in keys if re.search(r":(daily|weekly|monthly)$", key)}
    other_chats = {"lim:{0}:acme:chat:c2"}
    assert keys - other_periods - other_chats == named
