"""The `redis-cli` line of every header, run as it stands in a real shell with the real program.

`limiter lua` is replaced by the text that it prints, as starting it takes longer than all the rest.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from limiter.redis.scripts import bundled_scripts, lua_folder
from tests.lua.test_source import ENTRY_POINTS, header
from tests.support.parts import need
from tests.support.servers import Server

RUN_MS_MAX = 20_000

# One after the other, each finds what it needs from the ones before.
STORY = {
    "load_workspace": "loaded",
    "load_chat": "loaded",
    "configure": "configured",
    "check": "admitted",
    "record": "recorded",
    "usage": "usage",
    "release": "released",
    "inspect": "inspected",
    "glance": "glanced",
    "list_holds": "holds",
    "explain": "explained",
    "retract": "gone",
    "forget": "forgotten",
    "sweep": "swept",
    "trim": "trimmed",
}


def example(name: str) -> str:
    """The header's line, without its comment signs."""
    found = re.search(rf"^-- (limiter lua {name} >.*(?:\n-- .*)*)", header(name), re.MULTILINE)
    assert found is not None
    return found[1].replace("\n-- ", "\n")


@pytest.fixture
def programs(real_server: Server, tmp_path: Path) -> Path:
    """A folder for PATH in which `redis-cli` knows the server and `limiter` prints the scripts."""
    redis_cli = need("redis", shutil.which("redis-cli"), "redis-cli")
    commands = {
        "redis-cli": f'{redis_cli} -s {real_server.socket_path} "$@"',
        "limiter": f'cat {tmp_path}/joined/"$2".lua',
    }
    (tmp_path / "joined").mkdir()
    for name in ENTRY_POINTS:
        (tmp_path / "joined" / f"{name}.lua").write_text(bundled_scripts()[name].text)
    for name, command in commands.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\nexec {command}\n")
        program.chmod(0o755)
    return tmp_path


def test_the_examples_run_as_printed(programs: Path, tmp_path: Path) -> None:
    assert set(STORY) == set(ENTRY_POINTS)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    answered = {}
    for name in STORY:
        finished = subprocess.run(
            ["sh", "-c", example(name)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=RUN_MS_MAX / 1000,
            check=False,
        )
        assert finished.stderr == ""
        answered[name] = finished.stdout.split("\n")[0]
    assert answered == STORY


def test_limiter_lua_prints_what_the_examples_run(tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", "from limiter.cli import main; main()", "lua", "check"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(lua_folder().parent)},
        capture_output=True,
        text=True,
        timeout=RUN_MS_MAX / 1000,
        check=True,
    )
    assert finished.stdout == bundled_scripts()["check"].text
