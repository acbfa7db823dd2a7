"""The Lua scripts: found, joined from their pieces, and traced back to them when they fail.

`lua/<name>.lua` is an entry point, `lua/lib/<piece>.lua` a shared piece. A line
`-- include "piece"` puts a piece in its place, once, before its first use. An indented one stands
in a block and serves that block alone: Redis makes every function of a script anew for every call,
and what is rarely needed is made when it is. A missing or circular include is an error that
names file and line. Some pieces are made from the period table. It must not talk to Redis.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from limiter.errors import ScriptError, StartupError
from limiter.redis.periods_lua import period_pieces

_INCLUDE = re.compile(r'^( *)-- include "([a-z_]+)"$')
_ERROR_LINE = re.compile(r"user_script:(\d+)")


@dataclass(frozen=True, slots=True)
class Script:
    """One joined script. `origins[n]` is the file and line of its line n + 1."""

    name: str
    text: str
    origins: tuple[tuple[str, int], ...]

    @property
    def sha(self) -> str:
        """The digest by which `EVALSHA` names it."""
        return hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def locate(self, message: str) -> ScriptError:
        """An error of this script, with the file and line of the piece that it came from."""
        match = _ERROR_LINE.search(message)
        if match is None:
            return ScriptError(f"{self.name}: {message}")
        file, line = self.origins[int(match[1]) - 1]
        return ScriptError(f"{file}:{line}: {message}")


def lua_folder() -> Path:
    """Where the scripts are: inside the installed package, or beside it in a source checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "lua", package.parent / "lua"):
        if (folder / "check.lua").is_file():
            return folder
    raise StartupError("the Lua scripts are missing from this installation")


class ScriptSet:
    """All entry points of a folder, joined.

    `pieces` replaces library pieces by name: tests drive the clock by replacing `now`.
    """

    def __init__(
        self, folder: Path | None = None, *, pieces: Mapping[str, str] | None = None
    ) -> None:
        folder = folder or lua_folder()
        self._folder = folder
        self._pieces = {**period_pieces(), **(pieces or {})}
        self._scripts = {path.stem: self._join(path) for path in sorted(folder.glob("*.lua"))}

    def __getitem__(self, name: str) -> Script:
        return self._scripts[name]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._scripts)

    def _join(self, path: Path) -> Script:
        lines: list[str] = []
        origins: list[tuple[str, int]] = []

        def add(name: str, text: str, open_pieces: tuple[str, ...], known: set[str]) -> None:
            for number, line in enumerate(text.splitlines(), start=1):
                match = _INCLUDE.match(line)
                if match is None:
                    lines.append(line)
                    origins.append((name, number))
                    continue
                indent, piece = match.groups()
                if piece in open_pieces:
                    chain = " -> ".join((*open_pieces, piece))
                    raise ScriptError(f"{name}:{number}: circular include: {chain}")
                if piece not in known:
                    body = self._piece(piece, f"{name}:{number}")
                    within = set(known) if indent else known
                    add(f"lib/{piece}.lua", body, (*open_pieces, piece), within)
                    within.add(piece)

        add(path.name, path.read_text(encoding="utf-8"), (), set())
        return Script(path.stem, "\n".join(lines) + "\n", tuple(origins))

    def _piece(self, piece: str, where: str) -> str:
        if piece in self._pieces:
            return self._pieces[piece]
        path = self._folder / "lib" / f"{piece}.lua"
        if not path.is_file():
            raise ScriptError(f"{where}: no such include: {piece!r}")
        return path.read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def bundled_scripts() -> ScriptSet:
    """The scripts of this installation, joined once a process."""
    return ScriptSet()
