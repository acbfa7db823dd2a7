"""The commands that look, as typed: beside a running service, and without one."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands.typed import Typed
from tests.support.service import Service, running_service

LIVE_MS_MAX = 20_000


def use(service: Service) -> None:
    """A workspace near its limit with a tree, a hold and spend; one that is blocked; one idle."""
    service.patch("/config/workspaces/acme", {"budget_limits": {"hourly": 2_000_000}})
    service.put("/config/workspaces/acme/chats/c1", {"spend_limit_micros": 5_000_000})
    for number, (chat, parent, micros) in enumerate(
        [("c1", None, 900_000), ("c2", "c1", 600_000), ("c3", "c1", 10)]
    ):
        body = {"workspace_id": "acme", "chat_id": chat, "cost_micros": micros}
        more = {"event_id": f"e{number}", **({"parent_chat_id": parent} if parent else {})}
        assert service.post("/record", {**body, **more}).status == 200
    held = {"workspace_id": "acme", "chat_id": "c2", "estimate_micros": 400_000}
    assert service.post("/check", {**held, "reservation_id": "r-77"}).status == 200
    service.patch("/config/workspaces/shut", {"budget_limits": {"daily": 0}})
    assert service.post("/check", {"workspace_id": "free"}).status == 200
    assert service.get("/usage/workspaces/acme/chats/c1").status == 200  # all of it is durable now


def without_times(value: Any) -> Any:
    """What does not depend on when one looks."""
    if isinstance(value, dict):
        return {
            name: without_times(each)
            for name, each in value.items()
            if name not in ("at", "age_ms", "retry_after_ms", "fits_at")
        }
    return [without_times(each) for each in value] if isinstance(value, list) else value


COMMANDS = [
    ["usage", "acme"],
    ["usage", "acme", "c2"],
    ["top"],
    ["explain", "acme", "c2", "--estimate", "0.25"],
    ["chats", "acme"],
    ["chats", "acme", "--parent", "c1"],
    ["holds", "acme"],
    ["config", "get", "acme"],
    ["config", "get", "acme", "--chat", "c1"],
]


def test_the_same_is_seen_with_and_without_a_service(tmp_path: Path, typed: Typed) -> None:
    with running_service(tmp_path) as service:
        use(service)
        seen = {
            " ".join(command): typed(tmp_path, *command, "--json").as_json() for command in COMMANDS
        }
        for typed_as, path in [
            ("usage acme", "/usage/workspaces/acme"),
            ("usage acme c2", "/usage/workspaces/acme/chats/c2"),
            ("config get acme", "/config/workspaces/acme"),
            ("config get acme --chat c1", "/config/workspaces/acme/chats/c1"),
        ]:
            assert without_times(seen[typed_as]) == without_times(service.get(path).body)
        body = {"workspace_id": "acme", "chat_id": "c2", "estimate_micros": 250_000}
        denied = service.post("/check", body)
        assert denied.status == 402
        told = seen["explain acme c2 --estimate 0.25"]
        assert without_times(told["violations"]) == without_times(denied.body["violations"])
        assert denied.body["retry_after_ms"] <= told["retry_after_ms"] <= 600_000
        service.stop()
    for command in COMMANDS:
        again = typed(tmp_path, *command, "--json").as_json()
        assert without_times(again) == without_times(seen[" ".join(command)]), command

    assert [row["workspace_id"] for row in seen["top"]["rows"]] == ["shut", "acme", "free"]
    assert [(row["chat_id"], row["level"]) for row in seen["chats acme"]["rows"]] == [
        ("c1", 0),
        ("c2", 1),
        ("c3", 1),
    ]
    assert [row["chat_id"] for row in seen["chats acme --parent c1"]["rows"]] == ["c2", "c3"]
    assert [hold["reservation_id"] for hold in seen["holds acme"]] == ["r-77"]


def test_people_get_lines_in_dollars(tmp_path: Path, typed: Typed) -> None:
    with running_service(tmp_path) as service:
        use(service)
        look_as_people(typed, tmp_path)


def look_as_people(typed: Typed, folder: Path) -> None:
    usage = typed(folder, "usage", "acme").succeeded().splitlines()
    assert usage[0].split("\t")[:5] == ["period", "limit", "spent", "held", "remaining"]
    assert usage[1].split("\t")[:6] == ["hourly", "$2.00", "$1.50001", "$0.40", "$0.09999", "95 %"]
    assert usage[2].split("\t")[:5] == ["daily", "unlimited", "$1.50001", "$0.40", ""]
    top = [line.split("\t") for line in typed(folder, "top").succeeded().splitlines()]
    assert [row[0] for row in top] == ["workspace", "shut", "acme", "free"]
    assert [row[-1] for row in top[1:3]] == ["blocked, not in Redis", ""]
    chats = typed(folder, "chats", "acme", "--limit", "2").succeeded().splitlines()
    assert [line.split("\t")[0] for line in chats] == [
        "chat",
        "c1",
        "  c2",
        "and more than these 2: see --limit",
    ]
    explained = typed(folder, "explain", "acme", "--estimate", "2.01").succeeded()
    assert "A call of $2.01 is denied, and waiting alone does not help." in explained
    assert "$2.01 is more than the whole limit: it never fits." in explained
    assert "A limit of 0 blocks everything" in typed(folder, "explain", "shut").succeeded()
    assert "Nothing is limited here." in typed(folder, "explain", "free").succeeded()

    released = typed(folder, "holds", "acme", "--release", "r-77").succeeded()
    assert released == "r-77 is released: $0.40\n"
    again = typed(folder, "holds", "acme", "--release", "r-77", "--json").as_json()
    assert (again["state"], again["duplicate"]) == ("released", True)
    assert typed(folder, "holds", "acme", "--json").as_json() == []
    assert typed(folder, "usage", "acme", "--json").as_json()["held_micros"] == 0


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["usage", "nobody"], 1, "workspace_not_found: workspace 'nobody' does not exist"),
        (["usage", "acme", "nobody"], 1, "chat_not_found"),
        (["chats", "acme", "--parent", "nobody"], 1, "chat_not_found"),
        (["holds", "acme", "--release", "nobody"], 1, "reservation_not_found"),
        (["explain", "nobody"], 1, "workspace_not_found"),
        (["holds", "nobody"], 1, "workspace_not_found"),
        (["config", "get", "nobody"], 1, "workspace_not_found"),
        (["usage", "a:b"], 2, "workspace_id: 1 to 128 characters"),
        (
            ["explain", "acme", "--estimate", "1,5"],
            2,
            "--estimate: write the amount without commas",
        ),
        (["config", "set", "acme"], 2, "nothing to change"),
        (["holds", "acme", "--limit", "0"], 2, "--limit"),
        (["top", "--limit", "101"], 2, "--limit"),
    ],
)
def test_what_cannot_be_shown_is_said(
    used: Path, typed: Typed, arguments: list[str], status: int, said: str
) -> None:
    finished = typed(used, *arguments)
    assert finished.returncode == status, finished
    assert said in finished.stderr
    assert finished.stdout == ""


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a service that goes on."""
    folder = tmp_path_factory.mktemp("used")
    with running_service(folder) as service:
        use(service)
        yield folder


@pytest.mark.parametrize("command", [*COMMANDS, ["config", "set", "acme", "--hourly", "1"]])
def test_where_there_is_no_data_none_is_made(
    tmp_path: Path, typed: Typed, command: list[str]
) -> None:
    finished = typed(tmp_path, *command)
    assert finished.returncode == 2
    assert "there is no data in" in finished.stderr
    assert list(tmp_path.iterdir()) == []


def test_top_on_a_terminal_goes_on_until_it_is_interrupted(tmp_path: Path) -> None:
    with running_service(tmp_path) as service:
        use(service)
        ours, theirs = pty.openpty()
        environment = {name: each for name, each in os.environ.items() if "LIMITER" not in name}
        environment |= {
            "LIMITER_DATA_DIR": str(tmp_path / "data"),
            "TERM": "xterm",
            "COLUMNS": "120",
        }
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("limiter")), "top", "--interval", "0.5"],
            env=environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        try:
            read_until(ours, b"$1.50001")
            body = {"workspace_id": "acme", "cost_micros": 250_000, "event_id": "more"}
            assert service.post("/record", body).status == 200
            read_until(ours, b"$1.75001")
            process.send_signal(signal.SIGINT)
            rest = read_until(ours, None)
            assert b"Traceback" not in rest
            assert process.wait(LIVE_MS_MAX / 1_000) == 0
        finally:
            process.kill()
            process.wait()
            os.close(ours)


def read_until(terminal: int, wanted: bytes | None) -> bytes:
    """What is shown until `wanted` is; None: until the program has gone."""
    seen = b""
    deadline = time.monotonic() + LIVE_MS_MAX / 1_000
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 0.1)[0]:
            continue
        try:
            part = os.read(terminal, 65_536)
        except OSError:  # the other end is closed
            part = b""
        if not part:
            assert wanted is None, seen
            return seen
        seen += part
        if wanted is not None and wanted in seen:
            return seen
    raise AssertionError(f"not within {LIVE_MS_MAX} ms: {wanted!r} in {seen[-2_000:]!r}")


def test_a_shell_is_told_how_a_command_goes_on(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "_LIMITER_COMPLETE": "complete_bash",
        "COMP_WORDS": "limiter do",
        "COMP_CWORD": "1",
    }
    finished = subprocess.run(
        [str(Path(sys.executable).with_name("limiter"))],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIVE_MS_MAX / 1_000,
        check=False,
    )
    assert finished.stdout.split() == ["doctor"]
