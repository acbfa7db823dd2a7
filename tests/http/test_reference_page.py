"""docs/reference/http.md against the service: routes, statuses, codes and examples."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from limiter.http import examples
from limiter.http.operations import OPERATIONS
from limiter.http.problems import KINDS, DeniedProblem, Problem, kind_of, problem_of
from tests.http.support import ToldLimiter, app_of

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "http.md").read_text(encoding="utf-8")


def rows(columns: int) -> list[list[str]]:
    """The cells of every table row with that many columns."""
    found = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.splitlines()
        if line.startswith("| ") and not line.startswith("|-")
    ]
    return [cells for cells in found if len(cells) == columns]


def test_the_routes_and_their_statuses_are_those_of_the_document() -> None:
    documented = {
        f"`{method.upper()} {path}`": ", ".join(operation["responses"])
        for path, operations in app_of(ToldLimiter()).openapi()["paths"].items()
        for method, operation in operations.items()
    }
    on_the_page = {route: statuses for route, _, statuses in rows(3) if route.startswith("`")}
    assert on_the_page == documented


def test_the_codes_are_those_that_there_are() -> None:
    errors = {problem_of(error).code: error for op in OPERATIONS for error in op.errors}
    on_the_page = {
        code.strip("`"): (status, retry)
        for status, code, retry, _ in rows(4)
        if re.fullmatch(r"`\w+`", code) and status[0].isdigit()
    }
    denials = {
        problem.code
        for problem in examples.DECISIONS.values()
        if isinstance(problem, DeniedProblem)
    }
    routers = {"not_found", "method_not_allowed", "head_too_large"}
    assert set(on_the_page) - routers - denials == set(errors)
    assert denials | routers <= set(on_the_page)
    for code, error in errors.items():
        kind = kind_of(type(error))
        assert on_the_page[code] == (str(kind.status), str(kind.should_retry).lower())
    assert {str(kind.status) for kind in KINDS.values()} <= {
        status for status, _ in on_the_page.values()
    }


def test_the_examples_are_those_of_the_document() -> None:
    denial, problem = re.findall(r"```json\n(.*?)```", PAGE, flags=re.DOTALL)
    decoded = msgspec.json.decode(denial, type=DeniedProblem)
    assert decoded == examples.DENIED_BY_PERIOD["two periods are exceeded"]
    shown = msgspec.json.decode(problem, type=Problem)
    assert shown in [problem_of(error) for op in OPERATIONS for error in op.errors]
