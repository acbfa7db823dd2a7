"""The Makefile, run by the real make in a copy, with stand-ins for the programs in `.venv`.

What it installs from the network is not tested here; `.ci/run` does that on every run.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.repo.tree import ROOT, make_targets

SERVICE = """
import pathlib, signal, sys
signal.signal(signal.SIGINT, lambda *_: (pathlib.Path("stopped").write_text("clean"), sys.exit(0)))
signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path("stopped").write_text("clean"), sys.exit(0)))
pathlib.Path("arguments.part").write_text(" ".join(sys.argv[1:]))
pathlib.Path("arguments.part").rename("arguments")
while True:
    signal.pause()
"""
# By way of a shell, because a path with a blank in it cannot stand in a first line.
THIS_PYTHON = f'#!/bin/sh\nexec "{sys.executable}"'
STEP_S = 0.01
DEADLINE_STEPS = 2_000


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the Makefile and what its stamps depend on; nothing is installed yet."""
    for name in ["Makefile", "pyproject.toml", "requirements.lock", "requirements-dev.lock"]:
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def environment() -> dict[str, str]:
    """Return an environment that does not tell this make of the one that runs the tests."""
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}


def make(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments],
        cwd=checkout,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def install_by_hand(checkout: Path) -> None:
    """Make the stamps say that everything is installed."""
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / ".installed-run").touch()
    (checkout / ".venv" / ".installed-dev").touch()


def wait_for(path: Path) -> None:
    for _ in range(DEADLINE_STEPS):
        if path.exists():
            return
        time.sleep(STEP_S)
    pytest.fail(f"{path.name} did not appear")


def test_make_alone_lists_every_target(checkout: Path) -> None:
    done = make(checkout)
    assert done.returncode == 0
    assert {line.split()[1] for line in done.stdout.splitlines()} == make_targets()
    assert {"help", "run", "test", "lint", "bench", "lock", "clean"} <= make_targets()


@pytest.mark.parametrize("target", ["run", "test", "lock"])
def test_an_old_python_is_one_clear_line(checkout: Path, target: str) -> None:
    # An old interpreter exits with 1 when it is asked whether it is at least 3.11.
    program(checkout / "old-python", "#!/bin/sh\nexit 1\n")
    done = make(checkout, target, "PYTHON=./old-python")
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert lines == ["error: Python 3.11 or newer is needed, and none of these is: ./old-python"]
    assert not (checkout / ".venv").exists()


def test_a_new_enough_python_makes_the_environment(checkout: Path) -> None:
    # This interpreter is new enough. The empty lock file keeps pip off the network, and the project
    # cannot be installed, so make fails once the environment is there, and leaves no stamp.
    (checkout / "requirements.lock").write_text("", encoding="utf-8")
    (checkout / "pyproject.toml").write_text("not toml", encoding="utf-8")
    program(checkout / "new-python", f'{THIS_PYTHON} "$@"\n')
    done = make(checkout, "run", "PYTHON=./new-python")
    assert done.returncode == 2
    assert "Creating .venv with ./new-python" in done.stdout
    assert (checkout / ".venv" / "bin" / "python").exists()
    assert not (checkout / ".venv" / ".installed-run").exists()


@pytest.mark.parametrize(
    ("changed", "stamp"),
    [
        ("requirements.lock", ".installed-run"),
        ("pyproject.toml", ".installed-run"),
        ("requirements-dev.lock", ".installed-dev"),
        ("pyproject.toml", ".installed-dev"),
    ],
)
def test_installs_again_only_after_a_change(checkout: Path, changed: str, stamp: str) -> None:
    install_by_hand(checkout)
    assert make(checkout, "--question", f".venv/{stamp}").returncode == 0
    later_s = (checkout / ".venv" / stamp).stat().st_mtime + 1
    os.utime(checkout / changed, (later_s, later_s))
    assert make(checkout, "--question", f".venv/{stamp}").returncode == 1


def test_options_are_passed_on(checkout: Path) -> None:
    install_by_hand(checkout)
    program(checkout / ".venv" / "bin" / "python", '#!/bin/sh\necho "python $*"\nexit 3\n')
    done = make(checkout, "test", "PYTEST_ARGS=-k retry -x")
    assert done.stdout == "python -m pytest -k retry -x\n"
    assert done.returncode == 2


def test_what_an_activated_environment_exports_stays_outside(checkout: Path) -> None:
    install_by_hand(checkout)
    program(checkout / ".venv" / "bin" / "python", "#!/bin/sh\nexec env\n")
    inherited = {
        "PYTHONPATH": "/elsewhere",
        "PYTHONHOME": "/elsewhere",
        "VIRTUAL_ENV": "/elsewhere",
    }
    done = subprocess.run(
        ["make", "test"],
        cwd=checkout,
        env=environment() | inherited,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "PATH=" in done.stdout
    assert "/elsewhere" not in done.stdout


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_run_stops_cleanly(checkout: Path, stop: signal.Signals) -> None:
    install_by_hand(checkout)
    (checkout / "service.py").write_text(SERVICE, encoding="utf-8")
    program(checkout / ".venv" / "bin" / "limiter", f'{THIS_PYTHON} service.py "$@"\n')
    run = subprocess.Popen(
        ["make", "run", "ARGS=--port 9000"],
        cwd=checkout,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
    )
    try:
        wait_for(checkout / "arguments")
        assert (checkout / "arguments").read_text(encoding="utf-8") == "serve --port 9000"
        # Ctrl-C reaches the whole group, a process manager's SIGTERM only the process it started.
        if stop is signal.SIGINT:
            os.killpg(run.pid, stop)
        else:
            run.send_signal(stop)
        run.wait(timeout=20)
        assert (checkout / "stopped").read_text(encoding="utf-8") == "clean"
        with pytest.raises(ProcessLookupError):
            os.killpg(run.pid, 0)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait(timeout=20)


def test_clean_keeps_data(checkout: Path) -> None:
    install_by_hand(checkout)
    (checkout / "limiter-data").mkdir()
    (checkout / "limiter-data" / "limiter.db").touch()
    (checkout / "limiter" / "__pycache__").mkdir(parents=True)
    assert make(checkout, "clean").returncode == 0
    assert not (checkout / ".venv").exists()
    assert not (checkout / "limiter" / "__pycache__").exists()
    assert (checkout / "limiter-data" / "limiter.db").exists()
