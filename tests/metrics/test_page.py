"""docs/reference/metrics.md against the metrics that there are, both ways, and their names."""

from __future__ import annotations

import re
from pathlib import Path

import prometheus_client

from limiter.metrics import FAMILIES, Metrics

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"


def rows() -> list[tuple[str, ...]]:
    """The cells of the page's table: name, type, labels, meaning."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return [
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in lines
        if line.startswith("| `limiter_")
    ]


def test_the_page_has_every_metric_and_no_other() -> None:
    assert rows() == [
        (
            f"`{family.name}`",
            family.kind,
            "<br>".join(
                f"`{name}`: {', '.join(dict.fromkeys(values))}"
                for name, values in zip(family.labels, zip(*family.cells, strict=True), strict=True)
            ),
            family.help,
        )
        for family in FAMILIES
    ]


def test_names_are_as_prometheus_wants_them() -> None:
    for family in FAMILIES:
        assert re.fullmatch(r"limiter(_[a-z]+)+", family.name)
        assert family.name.endswith("_total") == (family.kind == "counter")
        assert family.help.endswith(".")
        for word in ("_ms", "_us", "_ns", "_millis"):
            assert word not in family.name
        assert not {"workspace", "workspace_id", "chat", "chat_id"} & set(family.labels)


def test_they_can_stand_beside_those_of_another_program() -> None:
    registry = prometheus_client.CollectorRegistry(auto_describe=True)
    prometheus_client.Counter("other_things", "Of the program.", registry=registry).inc()
    metrics = Metrics()
    registry.register(metrics)
    metrics.breaker_opened()
    assert registry.get_sample_value("other_things_total") == 1
    assert registry.get_sample_value("limiter_breaker_open") == 1
    assert {family.name.removesuffix("_total") for family in FAMILIES} == {
        family.name for family in registry.collect() if family.name != "other_things"
    }
