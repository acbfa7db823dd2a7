"""docs/howto/tracing.md names the attributes that spans have, and no others."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_has_every_attribute_and_no_other() -> None:
    page = (ROOT / "docs" / "howto" / "tracing.md").read_text(encoding="utf-8")
    source = (ROOT / "limiter" / "traced.py").read_text(encoding="utf-8")
    named = re.findall(r"^\| `([a-z._]+)` \|", page, flags=re.MULTILINE)
    assert named == sorted(set(named), key=named.index)
    assert set(named) == set(re.findall(r'"((?:limiter|error)\.[a-z_]+)"', source))


def test_the_variables_of_the_page_are_those_that_are_looked_at() -> None:
    page = (ROOT / "docs" / "howto" / "tracing.md").read_text(encoding="utf-8")
    source = (ROOT / "limiter" / "worker.py").read_text(encoding="utf-8")
    looked_at = set(re.findall(r'"(OTEL_[A-Z_]+)"', source))
    assert len(looked_at) == 4
    for name in looked_at:
        assert f"`{name}`" in page
