"""The `limiter` command as an operator types it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

RUN_MS_MAX = 60_000


def run(folder: Path, *arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """`limiter …` on the data of the service in this folder, which need not run."""
    environment = {name: value for name, value in os.environ.items() if "LIMITER" not in name}
    for name, value in {"data_dir": folder / "data", **settings}.items():
        environment[f"LIMITER_{name.upper()}"] = str(value)
    return subprocess.run(
        [str(Path(sys.executable).with_name("limiter")), *arguments],
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_MS_MAX / 1_000,
        check=False,
    )


def succeeded(finished: subprocess.CompletedProcess[str]) -> str:
    assert finished.returncode == 0, finished
    return finished.stdout
