"""`.ci/run` with stand-ins for make and the servers: what it sets, what it keeps out, what it runs.

It is run where nothing is lacking. Installing packages is the business of a machine of its own.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.repo.tree import ROOT

MAKE = """#!/bin/sh
echo "make $*" >> calls
env >> calls
cat >> calls
case " $FAILING " in *" $1 "*) exit 2;; esac
echo "summary of $1"
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with `.ci/run` and with stand-ins in `bin`."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "make").write_text(MAKE, encoding="utf-8")
    for name in ["redis-server", "initdb", "wrk", "chromium", "promtool"]:
        (programs / name).write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    for program in programs.iterdir():
        program.chmod(0o755)
    return tmp_path


def ci(clone: Path, **inherited: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [clone / ".ci" / "run"],
        cwd="/",
        env={"PATH": f"{clone / 'bin'}:{os.environ['PATH']}", "HOME": "/", **inherited},
        input="something on standard input",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_is_a_valid_executable_script() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True, timeout=60)


def test_lints_then_tests_and_ends_with_what_the_tests_say(clone: Path) -> None:
    done = ci(clone, CI="true")
    assert done.returncode == 0, done.stderr
    calls = (clone / "calls").read_text(encoding="utf-8").splitlines()
    steps = ["make lint", "make integrations", "make test"]
    assert [line for line in calls if line.startswith("make ")] == steps
    required = "TESTS_REQUIRE=redis,postgres,embedded,cluster,browser,integrations,promtool"
    assert calls.count(required) == len(steps)
    assert done.stdout.splitlines()[-1] == "summary of test"


def test_keeps_out_what_the_caller_has_set(clone: Path) -> None:
    foreign = {
        "VIRTUAL_ENV": "/elsewhere",
        "PYTHONPATH": "/elsewhere",
        "PYTEST_ADDOPTS": "-k elsewhere",
        "LIMITER_REDIS_URL": "redis://elsewhere",
        "MAKEFLAGS": "-n elsewhere",
    }
    assert ci(clone, **foreign).returncode == 0
    seen = (clone / "calls").read_text(encoding="utf-8")
    assert "elsewhere" not in seen
    assert "something on standard input" not in seen


@pytest.mark.parametrize(
    ("failing", "ran"),
    [
        ("lint", ["lint"]),
        ("integrations", ["lint", "integrations"]),
        ("test", ["lint", "integrations", "test"]),
    ],
)
def test_fails_as_soon_as_a_step_fails(clone: Path, failing: str, ran: list[str]) -> None:
    assert ci(clone, FAILING=failing).returncode != 0
    calls = (clone / "calls").read_text(encoding="utf-8").splitlines()
    assert [line for line in calls if line.startswith("make ")] == [f"make {step}" for step in ran]


def test_says_what_is_lacking_where_it_cannot_install(clone: Path) -> None:
    # A PATH of just what the script itself calls: there is neither a wrk nor an apt-get.
    (clone / "bin" / "wrk").unlink()
    python = clone / "bin" / "python3"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    for name in ["bash", "dirname", "env", "find", "grep", "sort", "tail"]:
        program = shutil.which(name)
        assert program is not None
        (clone / "bin" / name).symlink_to(program)
    done = ci(clone, PATH=str(clone / "bin"))
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: these are lacking, and there is no apt-get to install them: wrk"
    ]
    assert not (clone / "calls").exists()
