"""A module run as a process of its own, which a test talks to and may kill."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from tests.repo.tree import ROOT


@contextlib.contextmanager
def running_module(name: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Runs `python -m name`; kills it at the end if it is still there."""
    process = subprocess.Popen(
        [sys.executable, "-m", name, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()
