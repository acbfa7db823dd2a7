"""The Grafana board: every metric is on it, its expressions are true, and it fits anywhere."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from limiter.metrics import FAMILIES
from tests.deploy.promql import VARIABLES, faults, metrics_of

PATH = Path(__file__).parents[2] / "deploy" / "grafana" / "limiter.json"
BOARD: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24


@pytest.mark.parametrize("expression", sorted(set(EXPRESSIONS)))
def test_an_expression_asks_for_what_there_is(expression: str) -> None:
    assert faults(expression) == []
    # Of the service that was chosen, and no other.
    assert expression.count('{job="$job", instance=~"$instance"') == len(
        re.findall(r"\b(?:limiter_\w+|up)\b", expression)
    )


def test_every_metric_is_on_it() -> None:
    asked = set().union(*(metrics_of(expression) for expression in EXPRESSIONS))
    assert asked == {"up", *(family.name for family in FAMILIES)}


def test_the_data_source_and_the_service_are_chosen_at_the_top() -> None:
    variables = {each["name"]: each for each in BOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance"]
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == (
        "datasource",
        "prometheus",
    )
    for name in ("job", "instance"):
        query = variables[name]["query"]["query"]
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert found is not None
        assert found[2] == name
        assert faults(found[1]) == []
    used = set(re.findall(r"\$\w+", " ".join(EXPRESSIONS)))
    assert used == set(VARIABLES)
    # It belongs to no installation: neither an id of a database nor the name of a data source.
    assert BOARD["id"] is None
    assert [
        each["datasource"] for each in (*PANELS, *variables.values()) if "datasource" in each
    ] == [SOURCE] * (len(PANELS) + 2)
    assert {str(target["datasource"]) for panel in PANELS for target in panel["targets"]} == {
        str(SOURCE)
    }


def test_panels_have_their_own_places() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= WIDTH
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies on {taken[x, y]}"
                taken[x, y] = panel["title"]
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(ids) == len(set(ids))
    for panel in PANELS:
        letters = [target["refId"] for target in panel["targets"]]
        assert len(letters) == len(set(letters))
