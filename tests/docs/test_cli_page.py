"""docs/reference/cli.md is true: its commands print what it shows, its tables have every option."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from limiter import runtime
from limiter.cli import app
from limiter.commands.keys import create_key
from limiter.models import ChatPatch, CheckRequest, RecordRequest, WorkspacePatch
from limiter.runtime import open_parts
from limiter.settings import Settings
from tests.commands.conftest import redis_server
from tests.commands.typed import Typed, typed
from tests.docs.scene import MINUTE_MS, MORNING_MS
from tests.support.clock import DrivenClock, driven_scripts
from tests.support.redis_process import RedisProcess
from tests.support.service import free_port

__all__ = ["redis_server", "typed"]

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```console\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
RUN_MS_MAX = 20_000
# Their options are the settings, which have a page of their own.
WITH_SETTINGS = {"serve", "check-config"}


def examples() -> list[tuple[str, str]]:
    """(command, what the page shows below it)."""
    found = []
    for block in BLOCKS:
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = part.replace("\\\n", "").partition("\n")
            found.append((" ".join(command.split()), shown))
    return found


# --------------------------------------------------------------------------- names and options


def commands(group: Any = None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every command by its full name, those of groups as well."""
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


COMMANDS = dict(commands())


def section(name: str) -> str:
    """What the page says of a command."""
    found = re.search(
        rf"^### `limiter {re.escape(name)}\b.*?(?=^##|\Z)", PAGE, flags=re.DOTALL | re.MULTILINE
    )
    assert found is not None, f"the page says nothing of `limiter {name}`"
    return found[0]


def options_table(name: str) -> str:
    """A command's options as a table; '' if there are none."""
    options = [each for each in COMMANDS[name].params if each.param_type_name == "option"]
    settings = set(Settings.model_fields) if name in WITH_SETTINGS else set()
    rows = [
        f"| {', '.join(f'`{text}`' for text in (*each.opts, *each.secondary_opts))} | {each.help} |"
        for each in options
        if each.name not in {"help", *settings}
    ]
    return "\n".join(["| option | meaning |", "|---|---|", *rows]) + "\n" if rows else ""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_with_its_options(name: str) -> None:
    text = section(name)
    table = options_table(name)
    assert table in text
    assert text.count("|---|---|") == bool(table), "a table of other options"
    arguments = [each for each in COMMANDS[name].params if each.param_type_name == "argument"]
    heading = text.partition("\n")[0]
    shown = [f"{each.name.upper()}" for each in arguments]
    assert re.findall(r"\[?\b([A-Z_]{2,})\b\]?", heading) == shown, "other arguments"
    assert [each.required for each in arguments] == [f"[{each}]" not in heading for each in shown]


def test_the_page_has_no_other_commands() -> None:
    headings = re.findall(r"^### `limiter ([a-z -]+?)(?: [\[A-Z].*)?`$", PAGE, flags=re.MULTILINE)
    assert sorted(headings) == sorted(COMMANDS)


def test_most_commands_are_shown() -> None:
    shown = {command.split()[1] for command, _ in examples()}
    assert {name.split()[0] for name in COMMANDS} - shown == {"serve", "lua", "replay"}


# --------------------------------------------------------------------------- what they print


@pytest.fixture
def options(
    tmp_path: Path, redis_server: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> dict[str, object]:
    """Settings of the scene of docs/redis.md, in Redis and in SQLite, on the clock of that page."""
    monkeypatch.setattr(runtime, "bundled_scripts", driven_scripts)
    # A terminal of 80 columns that cannot show colours.
    for name, value in {"TTY_COMPATIBLE": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)
    return {
        "redis_url": redis_server.url,
        "database_url": f"sqlite:///{tmp_path}/limiter.db",
        "redis_deadline_ms": 10_000,
        "port": free_port(),
    }


@pytest.fixture
async def scene(options: dict[str, object], redis_server: RedisProcess) -> dict[str, object]:
    clock = DrivenClock(redis_server.client, start_ms=MORNING_MS)
    async with open_parts(Settings.model_validate(options)) as parts:
        limiter = parts.limiter
        await limiter.configure(
            "acme", WorkspacePatch(budget_limits={"hourly": 2_000_000, "monthly": 50_000_000})
        )
        await limiter.configure("zeta", WorkspacePatch(budget_limits={"daily": 0}))
        await limiter.configure_chat("acme", "c1", ChatPatch(spend_limit_micros=5_000_000))
        for number, (chat_id, micros, minutes) in enumerate(
            [("c1", 900_000, 10), ("c2", 250_000, 10), ("c2", 350_000, 0)], start=1
        ):
            record = RecordRequest(
                workspace_id="acme",
                chat_id=chat_id,
                parent_chat_id="c1" if chat_id == "c2" else None,
                cost_micros=micros,
                event_id=f"ev-{number}",
            )
            await limiter.record(record)
            clock.advance(minutes * MINUTE_MS)
        report = {"source": "worker-7", "sequence": 3, "event_id": "ev-4"}
        await limiter.record(
            RecordRequest(workspace_id="acme", cumulative_micros=120, **report)  # type: ignore[arg-type]
        )
        await parts.snapshot.run_once()
        clock.advance(5 * MINUTE_MS)
        await create_key(
            Settings.model_validate(options), "caller", workspace_id="acme", label="agents"
        )
        check = CheckRequest(
            workspace_id="acme", chat_id="c2", estimate_micros=400_000, reservation_id="r-77"
        )
        assert (await limiter.check(check)).allowed
    return options


def matches(shown: str, printed: str) -> bool:
    """`…` on the page stands for whatever is there, within a line."""
    pattern = ".*?".join(map(re.escape, shown.split("…")))
    return re.fullmatch(pattern, printed) is not None


@pytest.mark.parametrize("command", [command for command, _ in examples()])
def test_example_prints_what_the_page_shows(
    tmp_path: Path, typed: Typed, scene: dict[str, object], command: str
) -> None:
    shown = dict(examples())[command]
    program, *arguments = shlex.split(command)
    assert program == "limiter"
    if arguments[0] == "redis-cli":  # it becomes another program
        finished = subprocess.run(
            [str(Path(sys.executable).with_name(program)), *arguments],
            env={"LIMITER_REDIS_URL": str(scene["redis_url"]), "PATH": "/usr/bin:/bin"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=RUN_MS_MAX / 1_000,
            check=True,
        )
        assert finished.stdout == shown
        return
    printed = typed(tmp_path, *arguments, **scene).stdout
    printed = re.sub(r"[ \t]+$", "", printed, flags=re.MULTILINE)
    assert matches(shown, printed), printed
