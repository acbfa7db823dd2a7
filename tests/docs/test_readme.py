"""The README's conversation works as printed, on a service that has just been started."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.support.service import Service, running_service

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
EXCHANGES = [
    tuple(block.removeprefix("$ ").replace("\\\n", "").split("\n", 1))
    for block in re.findall(r"^```console\n(\$ .*?)\n?```", README, flags=re.DOTALL | re.MULTILINE)
]

_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_WAIT = re.compile(r'"retry_after_ms":\d+')


def run(command: str, service: Service) -> str:
    """Runs a line of the README as it stands, but on this service's port and folder."""
    command = command.replace("localhost:8080", f"127.0.0.1:{service.port}")
    command = command.replace(".venv/bin/limiter", str(Path(sys.executable).with_name("limiter")))
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=service.folder,
        env={"PATH": "/usr/bin:/bin", "LIMITER_DATA_DIR": str(service.folder / "data")},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return done.stdout


def without_time(text: str) -> str:
    """What does not depend on when it was asked."""
    return _WAIT.sub('"retry_after_ms":0', _MOMENT.sub("then", text)).strip()


def test_the_conversation_is_what_the_readme_shows(tmp_path: Path) -> None:
    assert len(EXCHANGES) == 5
    with running_service(tmp_path) as service:
        for command, shown in EXCHANGES:
            printed = run(command, service)
            assert without_time(printed) == without_time(shown), command


def test_the_answers_that_the_readme_shows_are_json() -> None:
    for command, shown in EXCHANGES:
        if command.startswith("curl"):
            assert isinstance(json.loads(shown), dict)
