"""The source tree as the tests of this folder read it: its root, its files, its Makefile.

It reads files only and asks no version control, so the tests pass in an unpacked archive, too.
"""

import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pathspec

ROOT = Path(__file__).resolve().parents[2]
FILES_MAX = 10_000


def pyproject() -> dict[str, Any]:
    """Return `pyproject.toml`, parsed."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def project_files() -> list[Path]:
    """Return every file below the root that `.gitignore` does not exclude, in order."""
    ignored = pathspec.GitIgnoreSpec.from_lines(
        [".git", *(ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()]
    )
    files = sorted(_walk(ignored))
    assert len(files) < FILES_MAX, "something large lies in the tree that .gitignore does not name"
    return files


def _walk(ignored: pathspec.GitIgnoreSpec) -> Iterator[Path]:
    for folder, folder_names, file_names in os.walk(ROOT):
        relative = Path(folder).relative_to(ROOT)
        folder_names[:] = [
            name
            for name in folder_names
            if not ignored.match_file(f"{(relative / name).as_posix()}/")
        ]
        for name in file_names:
            if not ignored.match_file((relative / name).as_posix()):
                yield Path(folder) / name


def make_targets() -> set[str]:
    """Return the targets that the Makefile declares phony, that is, those a person calls."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return {
        target
        for line in re.findall(r"^\.PHONY:(.*)$", makefile, flags=re.MULTILINE)
        for target in line.split()
    }
