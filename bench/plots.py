"""Pictures of what was measured: `python -m bench.plots`, in the peers' environment.

It reads bench/results/*.json and writes one SVG file a picture. It must not measure.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot  # The backend has to be chosen first.

RESULTS = Path(__file__).parent / "results"
OURS, OTHERS, BASE = "#2563eb", "#94a3b8", "#cbd5e1"
# Without these the same picture would be another file each time.
REPRODUCIBLE = {"svg.hashsalt": "bench", "font.size": 10, "axes.spines.top": False}


def rows_of(section: str) -> list[dict[str, Any]]:
    """The figures of a section; none if it was not measured."""
    path = RESULTS / f"{section}.json"
    if not path.is_file():
        return []
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["results"]["rows"]
    return rows


def bars(name: str, title: str, rows: Sequence[dict[str, Any]], unit: str) -> None:
    """A bar for each figure, with the rounds that it is the median of."""
    figure, axes = pyplot.subplots(figsize=(7.2, 0.5 + 0.42 * len(rows)))
    labels = [row["figure"].removeprefix("POST /check, ") for row in rows]
    values = [row["value"] for row in rows]
    errors = [
        [row["value"] - row.get("low", row["value"]) for row in rows],
        [row.get("high", row["value"]) - row["value"] for row in rows],
    ]
    colours = [OURS if "imiter" in label and "LiteLLM" not in label else OTHERS for label in labels]
    axes.barh(labels, values, xerr=errors, color=colours, ecolor="#475569", height=0.62)
    axes.invert_yaxis()
    axes.set_title(f"{title} ({unit})", loc="left")
    axes.spines["right"].set_visible(False)
    _save(figure, name)


def line(name: str, title: str, points: Sequence[tuple[float, float]], labels: str) -> None:
    """A cost as something grows."""
    figure, axes = pyplot.subplots(figsize=(7.2, 3))
    axes.plot(*zip(*points, strict=True), marker="o", color=OURS)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(labels)
    axes.set_title(title, loc="left")
    axes.spines["right"].set_visible(False)
    _save(figure, name)


def _save(figure: Any, name: str) -> None:
    figure.savefig(RESULTS / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    mpl.rcParams.update(REPRODUCIBLE)
    rate = [row for row in rows_of("http") if row["unit"] == "calls/s"]
    if rate:
        bars("http", "POST /check over HTTP, one worker, 64 connections", rate, "calls/s")
    rate = [row for row in rows_of("inprocess") if row["unit"] == "calls/s"]
    if rate:
        bars("inprocess", "In process, 64 callers, one core", rate, "calls/s")
    depth = {
        int(row["figure"].rpartition(" ")[2]): row["value"]
        for row in rows_of("scripts")
        if row["figure"].startswith("check holding, tree of depth ")
    }
    if depth:
        title = "check holding, inside Redis (µs)"
        bare = sorted(depth.items())
        line("depth", title, bare, "depth of the chat tree")


if __name__ == "__main__":
    main()
