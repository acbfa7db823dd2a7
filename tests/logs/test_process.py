"""A process that logs: also what the interpreter would say by itself is a line like the others."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import logging, sys, warnings
from limiter.logs import set_up
from limiter.settings import Settings

set_up(Settings(log_format=sys.argv[1], log_level=sys.argv[2]))
logging.getLogger("limiter.tests").info("ours")
logging.getLogger("others").info("theirs")
warnings.warn("old and\\ngone", DeprecationWarning, stacklevel=1)
raise RuntimeError("the\\nend")
"""


def run(*arguments: str) -> list[str]:
    """What the program writes on standard error, line by line."""
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", PROGRAM, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr.splitlines()


def test_warnings_and_the_error_that_ends_it_are_objects_too() -> None:
    ours, warning, end = [json.loads(line) for line in run("json", "info")]
    assert (ours["logger"], ours["message"]) == ("limiter.tests", "ours")
    assert (warning["logger"], warning["level"]) == ("py.warnings", "warning")
    assert "old and\ngone" in warning["message"]
    assert (end["logger"], end["level"]) == ("limiter.logs", "critical")
    assert end["exception"].endswith("RuntimeError: the\nend")


def test_in_text_they_are_lines_of_the_same_form() -> None:
    ours, warning, end, *traceback = run("text", "info")
    assert ours.endswith("limiter.tests: ours")
    assert "old and\\ngone" in warning
    assert end.endswith("limiter.logs: the process ends")
    assert traceback[-2:] == ["  | RuntimeError: the", "  | end"]


@pytest.mark.parametrize(("level", "lines"), [("debug", 3), ("warning", 2), ("error", 1)])
def test_others_are_heard_from_warning_on_and_never_below_ours(level: str, lines: int) -> None:
    assert len(run("json", level)) == lines
