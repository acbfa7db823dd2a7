"""The page of faults names a test for every case, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from functools import lru_cache

import pytest

from tests.repo.tree import ROOT

PAGE = ROOT / "docs" / "reference" / "faults.md"
CASES = 34

_ROW = re.compile(r"^\| (\d+) \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)
_NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def rows() -> dict[int, tuple[str, ...]]:
    text = PAGE.read_text(encoding="utf-8")
    return {int(number): tuple(cells) for number, *cells in _ROW.findall(text)}


@lru_cache
def names_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    )


def test_every_case_has_a_row() -> None:
    assert list(rows()) == list(range(1, CASES + 1))


@pytest.mark.parametrize("number", range(1, CASES + 1))
def test_a_row_names_tests_that_exist(number: int) -> None:
    *_, shown_by = rows()[number]
    named = _NAMED.findall(shown_by)
    assert named
    assert [(path, name) for path, name in named if name not in names_in(path)] == []
