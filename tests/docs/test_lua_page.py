"""docs/reference/lua.md has the header of every script, word for word."""

from __future__ import annotations

import re
from itertools import takewhile

from tests.repo.tree import ROOT

PAGE = (ROOT / "docs" / "reference" / "lua.md").read_text(encoding="utf-8")
SHOWN = dict(
    re.findall(r"^### `(\w+)`\n\n```lua\n(.*?)\n```$", PAGE, flags=re.DOTALL | re.MULTILINE)
)


def header(text: str) -> str:
    lines = takewhile(
        lambda line: line.startswith("--") and not line.startswith("-- include"), text.splitlines()
    )
    return "\n".join(lines).rstrip("-\n ")


def test_every_script_is_there_with_its_header() -> None:
    scripts = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "lua").glob("*.lua")}
    assert {name: header(text) for name, text in scripts.items()} == SHOWN
