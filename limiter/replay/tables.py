"""A report as tables and sentences, readable however many workspaces there were.

It must not compute anything that the report does not say.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from limiter.money import format_dollars
from limiter.replay.report import Latency, Report, TreeRow, WorkspaceRow

_ROWS_MAX = 12
_DIFFERENCES_MAX = 20
_MICROSECONDS = 1_000_000


def show(report: Report, console: Console) -> None:
    """Prints the tables. Of many rows those with the most spend, and a total of the rest."""
    console.print(_summary(report))
    rows = sorted(report.workspaces, key=lambda row: -row.spent_micros)
    console.print(
        _scopes(
            "Workspaces",
            rows,
            [(row.workspace_id.removeprefix(f"{report.run_id}-"), row.requests) for row in rows],
            "requests",
        )
    )
    trees = sorted(report.trees, key=lambda row: -row.spent_micros)
    names = [
        f"{row.workspace_id.removeprefix(f'{report.run_id}-')}/{row.root_chat_id}" for row in trees
    ]
    sizes = [row.chats for row in trees]
    console.print(_scopes("Chat trees", trees, list(zip(names, sizes, strict=True)), "chats"))
    for sentence in _verdict(report):
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def _summary(report: Report) -> Table:
    table = Table(title=f"Replay {report.run_id}", show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_row("requests of the trace", f"{report.requests:,}")
    table.add_row("admitted", f"{report.admitted:,}")
    table.add_row("denied", f"{report.denied:,}")
    for name, count in report.denied_by.items():
        table.add_row(f"  by {name}", f"{count:,}")
    for name, count in (
        ("unsettled", report.unsettled),
        ("unexpected answers", report.unexpected),
        ("estimates withheld", report.estimates_withheld),
        ("degraded checks", report.degraded),
        ("queued records", report.queued),
        ("late records", report.late),
        ("repeated calls", report.repeats),
        ("duplicate records", report.duplicates),
    ):
        if count:
            table.add_row(name, f"{count:,}")
    table.add_section()
    table.add_row("spent, by the tally", f"{report.spent_micros:,} µ$")
    table.add_row("spent, by the counters", _micros(report.counters_micros))
    table.add_row("overshoot", f"{report.overshoot_micros:,} µ$")
    if report.unheld_micros:
        table.add_row("  charged without a hold", f"{report.unheld_micros:,} µ$")
        table.add_row("  not explained by that", f"{report.unexplained_overshoot_micros:,} µ$")
    table.add_section()
    table.add_row("duration", f"{report.elapsed_us / _MICROSECONDS:,.1f} s")
    table.add_row("requests/s", f"{report.calls_per_second:,.1f}")
    table.add_row("pairs/s", f"{report.pairs_per_second:,.1f}")
    table.add_row("check p50, p99", _milliseconds(report.check_latency))
    table.add_row("record p50, p99", _milliseconds(report.record_latency))
    if report.lag_us_max:
        table.add_row("latest behind the trace", f"{report.lag_us_max / 1_000:,.1f} ms")
    return table


def _scopes(
    title: str,
    rows: Sequence[WorkspaceRow | TreeRow],
    labels: Sequence[tuple[str, int]],
    size_name: str,
) -> Table:
    table = Table(title=f"{title}, in micros", title_justify="left")
    table.add_column("", no_wrap=True)
    for name in (size_name, "tally", "counter", "difference", "held"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("limits")
    for row, (name, size) in list(zip(rows, labels, strict=True))[:_ROWS_MAX]:
        limits = ", ".join(f"{limit} {micros:,}" for limit, micros in row.limits.items())
        table.add_row(name, *_sums([row], [size]), limits)
    rest = len(rows) - _ROWS_MAX
    if rest > 0:
        sizes = [size for _, size in labels[_ROWS_MAX:]]
        table.add_row(f"{rest} more", *_sums(rows[_ROWS_MAX:], sizes))
    table.add_section()
    table.add_row("total", *_sums(rows, [size for _, size in labels]))
    return table


def _sums(rows: Sequence[WorkspaceRow | TreeRow], sizes: Sequence[int]) -> list[str]:
    spent_micros = sum(row.spent_micros for row in rows)
    cells = [f"{sum(sizes):,}", f"{spent_micros:,}"]
    counters = [row.counter_micros for row in rows if row.counter_micros is not None]
    held = [row.held_micros for row in rows if row.held_micros is not None]
    if len(counters) < len(rows) or len(held) < len(rows):
        return [*cells, "?", "?", "?"]
    difference = sum(counters) - spent_micros
    return [
        *cells,
        f"{sum(counters):,}",
        f"{difference:+,}" if difference else "0",
        f"{sum(held):,}",
    ]


def _verdict(report: Report) -> list[str]:
    sentences = list(report.not_compared)
    if report.gave_up is not None:
        sentences.append(f"Gave up: {report.gave_up}")
    sentences += [
        f"Differs: {difference.counter} is {difference.found:,}, the tally says "
        f"{difference.expected:,}"
        for difference in report.differences[:_DIFFERENCES_MAX]
    ]
    if len(report.differences) > _DIFFERENCES_MAX:
        sentences.append(f"… and {len(report.differences) - _DIFFERENCES_MAX} more counters differ")
    sentences += [f"Wrong: {sentence}" for sentence in report.finding_samples]
    if report.findings > len(report.finding_samples):
        sentences.append(f"… and {report.findings - len(report.finding_samples)} more like these")
    if report.unexplained_overshoot_micros:
        sentences.append(f"Over a limit by {report.unexplained_overshoot_micros:,} micros")
    if report.ok:
        dollars = format_dollars(report.spent_micros)
        beyond = " beyond what was charged without a hold" if report.overshoot_micros else ""
        sentences.append(
            f"Every counter equals the tally ({dollars}), and no limit was exceeded{beyond}."
        )
    return sentences


def _milliseconds(latency: Latency) -> str:
    if latency.p50_us is None or latency.p99_us is None:
        return "-"
    return f"{latency.p50_us / 1_000:,.2f}, {latency.p99_us / 1_000:,.2f} ms"


def _micros(micros: int | None) -> str:
    return "not read" if micros is None else f"{micros:,} µ$"
