"""What a section measured, as figures: written as Markdown and JSON, and gathered in one table.

It owns the shape of a result, its files, and the description of the machine. It must not measure.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import Struct

RESULTS = Path(__file__).parent / "results"

_CPU_INFO = Path("/proc/cpuinfo")
_GIB_BYTES = 2**30


class Missing(Exception):
    """Something that a section needs is not on this machine; `str(error)` says what."""


class AtLeast(Struct, frozen=True, tag=True):
    """A bar that a figure has to reach."""

    value: float

    def __str__(self) -> str:
        return f"≥ {number(self.value)}"

    def holds(self, value: float) -> bool:
        return value >= self.value


class AtMost(Struct, frozen=True, tag=True):
    """A bar that a figure must not pass."""

    value: float

    def __str__(self) -> str:
        return f"≤ {number(self.value)}"

    def holds(self, value: float) -> bool:
        return value <= self.value


class Row(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One figure. `low` and `high`: the rounds it is the median of, if there were several.

    A bar is in the same unit. `unit` is written behind the value: `ms`, `events/s`, `×`, `B`.
    """

    figure: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    bar: AtLeast | AtMost | None = None


class Plot(Struct, frozen=True, kw_only=True):
    """A picture. `name` is a file name without its ending; `svg` the whole file."""

    name: str
    title: str
    svg: str


class Results(Struct, frozen=True, kw_only=True):
    """All figures of one section.

    `software`: what was measured with, such as `Valkey 9.1.2`. `conditions`: sentences that say
    what was done, so that a reader could do it again. `rounds`: how many the medians are of.
    """

    name: str
    title: str
    rows: Sequence[Row]
    rounds: int
    conditions: Sequence[str] = ()
    software: Sequence[str] = ()
    plots: Sequence[Plot] = ()


class Machine(Struct, frozen=True, kw_only=True):
    """Where figures come from. No names and no paths: they mean nothing elsewhere."""

    system: str
    cpu: str
    cores: int
    memory_gib: float
    python: str

    def __str__(self) -> str:
        return (
            f"{self.cores} cores ({self.cpu}), {self.memory_gib:.0f} GiB, {self.system}, "
            f"Python {self.python}"
        )


class Report(Struct, frozen=True, kw_only=True):
    """A section's file. `load_before`: the load average of the minute before it began."""

    results: Results
    machine: Machine
    command: str
    measured_at: str
    load_before: float


# ------------------------------------------------------------------ figures


def median_row(
    figure: str, values: Sequence[float], unit: str, *, bar: AtLeast | AtMost | None = None
) -> Row:
    """The median of one value a round, with the least and the greatest."""
    several = len(values) > 1
    return Row(
        figure=figure,
        value=statistics.median(values),
        unit=unit,
        low=min(values) if several else None,
        high=max(values) if several else None,
        bar=bar,
    )


def ratios(values: Sequence[float], bases: Sequence[float]) -> list[float]:
    """Round by round: what lay side by side in time is compared, and nothing else."""
    return [value / base for value, base in zip(values, bases, strict=True)]


def quantile(values: Sequence[float], share: float) -> float:
    """The least value that at least this share of the values does not exceed."""
    if not values:
        raise ValueError("no values")
    rank = math.ceil(share * len(values))
    return sorted(values)[max(rank, 1) - 1]


def number(value: float) -> str:
    """Three digits say all that a benchmark knows."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")


# ------------------------------------------------------------------ files


def load_average() -> float:
    """How many processes wanted a core, on average of the last minute."""
    return os.getloadavg()[0]


def this_machine() -> Machine:
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=_cpu_model(),
        cores=os.cpu_count() or 1,
        memory_gib=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _GIB_BYTES,
        python=platform.python_version(),
    )


def write(results: Results, *, command: str, load_before: float, folder: Path = RESULTS) -> str:
    """Writes `<name>.md`, `<name>.json` and the plots; returns what is in the first."""
    report = Report(
        results=results,
        machine=this_machine(),
        command=command,
        measured_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        load_before=round(load_before, 2),
    )
    folder.mkdir(parents=True, exist_ok=True)
    for plot in results.plots:
        (folder / f"{plot.name}.svg").write_text(plot.svg, encoding="utf-8")
    # A plot is a file of its own; here is only where it lies.
    bare = [msgspec.structs.replace(plot, svg=f"{plot.name}.svg") for plot in results.plots]
    kept = msgspec.structs.replace(report, results=msgspec.structs.replace(results, plots=bare))
    document = msgspec.json.format(msgspec.json.encode(kept), indent=2)
    (folder / f"{results.name}.json").write_bytes(document + b"\n")
    text = _page(report)
    (folder / f"{results.name}.md").write_text(text, encoding="utf-8")
    return text


def write_overview(order: Sequence[str], *, folder: Path = RESULTS) -> None:
    """Rebuilds `README.md`: every figure of every section that has results, in that order."""
    found = [_read(folder / f"{name}.json") for name in order if (folder / f"{name}.json").exists()]
    if not found:
        return
    lines = [
        "# Figures",
        "",
        "Written by `make bench`. Quote the ratios: absolute figures are one machine's, one day's.",
        "",
        "| section | figure | value | bar | command |",
        "|---|---|---:|---|---|",
    ]
    for report in found:
        results = report.results
        lines += [
            f"| [{results.name}]({results.name}.md) | {row.figure} | {_value(row)} | {_bar(row)} "
            f"| `{report.command}` |"
            for row in results.rows
        ]
    lines += ["", "## Where and when", ""]
    lines += [
        f"- {report.results.name}: {report.machine}; {_software(report)}"
        f"{report.measured_at}, load average before {report.load_before:.2f}"
        for report in found
    ]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _page(report: Report) -> str:
    results = report.results
    rounds = f"medians of {results.rounds} rounds, with the least and the greatest"
    lines = [
        f"# {results.title}",
        "",
        f"`{report.command}`, {report.measured_at}; {rounds}.",
        "",
        "| figure | value | rounds | bar |",
        "|---|---:|---:|---|",
        *(
            f"| {row.figure} | {_value(row)} | {_spread(row)} | {_bar(row)} |"
            for row in results.rows
        ),
        "",
    ]
    lines += [f"- {condition}" for condition in results.conditions]
    lines += [
        f"- {report.machine}; {_software(report)}load average before {report.load_before:.2f}.",
    ]
    for plot in results.plots:
        lines += ["", f"![{plot.title}]({plot.name}.svg)"]
    return "\n".join(lines) + "\n"


def _value(row: Row) -> str:
    return f"{number(row.value)} {row.unit}".rstrip()


def _spread(row: Row) -> str:
    if row.low is None or row.high is None:
        return ""
    return f"{number(row.low)} to {number(row.high)}"


def _bar(row: Row) -> str:
    if row.bar is None:
        return ""
    return f"{row.bar} {'✓' if row.bar.holds(row.value) else '✗'}"


def _software(report: Report) -> str:
    return "".join(f"{name}, " for name in report.results.software)


def _read(path: Path) -> Report:
    return msgspec.json.decode(path.read_bytes(), type=Report)


def _cpu_model() -> str:
    """As the system calls it; the bare architecture where it does not say."""
    if _CPU_INFO.exists():
        for line in _CPU_INFO.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
