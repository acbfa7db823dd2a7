"""docs/howto/agent.md is true: its examples run, one after another, and print what it shows."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from tests.repo.tree import ROOT
from tests.support.service import running_service

PAGE = (ROOT / "docs" / "howto" / "agent.md").read_text(encoding="utf-8")
EXAMPLES: list[tuple[str, str]] = re.findall(
    r"^```python\n(.*?)^```\n\n^```text\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE
)
ADDRESS = "http://127.0.0.1:8080"


async def model(question: str) -> str:
    return f"I do not know: {question}"


async def test_the_examples_print_what_the_page_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(EXAMPLES) == PAGE.count("```python") == 2
    names: dict[str, object] = {"model": model}
    with running_service(tmp_path, redis_deadline_ms=10_000) as service:
        for example, shown in EXAMPLES:
            source = example.replace(ADDRESS, service.url)
            code = compile(source, "agent.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            running = eval(code, names)  # noqa: S307  # our own page
            if inspect.isawaitable(running):
                await running
            assert capsys.readouterr().out == shown, example
        limiter = names["limiter"]
        await limiter.aclose()  # type: ignore[attr-defined]
