"""Runs the tests of the integrations in the environment that has the packages they connect to."""

from __future__ import annotations

import os
import subprocess

from tests.repo.tree import ROOT
from tests.support.parts import missing

PYTHON = ROOT / ".venv-integrations" / "bin" / "python"
TIMEOUT_S = 900


def test_the_integrations_with_their_real_packages() -> None:
    if not PYTHON.exists():
        missing("integrations", "the environment that `make integrations` makes")
    done = subprocess.run(
        [PYTHON, "-m", "pytest", "-q", "tests/integrations/packages"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if "PYTEST" not in name},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:]
