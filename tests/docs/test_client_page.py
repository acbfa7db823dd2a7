"""docs/howto/client.md is true: its examples run, one after another, and print what it shows."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.service import running_service

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "client.md").read_text(encoding="utf-8")
EXAMPLES: list[tuple[str, str]] = re.findall(
    r"^```python\n(.*?)^```\n\n^```text\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE
)
ADDRESS = "http://127.0.0.1:8080"


@dataclass
class ModelAnswer:
    input_tokens: int = 200
    output_tokens: int = 50


async def model(prompt: str) -> ModelAnswer:
    assert prompt
    return ModelAnswer()


async def broken_stream() -> AsyncIterator[int]:
    yield 10
    yield 20
    raise ConnectionError("the stream broke")


def test_every_example_says_what_it_prints() -> None:
    assert len(EXAMPLES) == PAGE.count("```python") == 6


async def test_the_examples_print_what_the_page_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The last example opens a limiter of its own, in the folder that a new user has.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "service").mkdir()
    with running_service(tmp_path / "service", redis_deadline_ms=10_000) as service:
        limits = {"budget_limits": {"hourly": 2_000_000}}
        assert service.patch("/config/workspaces/acme", limits).status == 200
        names: dict[str, object] = {"model": model, "broken_stream": broken_stream}
        for example, shown in EXAMPLES:
            source = example.replace(ADDRESS, service.url)
            code = compile(source, "client.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            running = eval(code, names)  # noqa: S307  # our own page
            if inspect.isawaitable(running):
                await running
            assert capsys.readouterr().out == shown, example
