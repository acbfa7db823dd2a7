"""Commands as typed, run within the test: a process of their own takes longer than what they do."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest

from limiter.cli import main


@dataclass(frozen=True, slots=True)
class Finished:
    returncode: int
    stdout: str
    stderr: str

    def succeeded(self) -> str:
        assert self.returncode == 0, self
        return self.stdout

    def as_json(self) -> Any:
        """Of a command with --json: one value on one line."""
        assert self.succeeded().count("\n") == 1
        return msgspec.json.decode(self.stdout)


class Typed(Protocol):
    def __call__(self, folder: Path, *arguments: str, **settings: object) -> Finished:
        """`limiter …` on the data of the service in this folder, which need not run."""


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Typed:
    def typed(folder: Path, *arguments: str, **settings: object) -> Finished:
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if "LIMITER" in name]:
                patch.delenv(name)
            for name, value in {"data_dir": folder / "data", **settings}.items():
                patch.setenv(f"LIMITER_{name.upper()}", str(value))
            patch.setattr(sys, "argv", ["limiter", *arguments])
            patch.chdir(folder)
            capsys.readouterr()
            status: object = 0
            try:
                main()
            except SystemExit as end:
                status = end.code or 0
            printed = capsys.readouterr()
        assert isinstance(status, int)
        return Finished(status, printed.out, printed.err)

    return typed
