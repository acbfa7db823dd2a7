"""Pairs of check and record that `limiter replay` makes of a real trace, and what it then audits.

The embedded default under load, a data folder a round. The variable BENCH_TRACE names the trace,
which is no part of this repository.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import msgspec

from bench.processes import environment_with, free_port, listening, service_command
from bench.report import AtMost, Missing, Results, median_row
from limiter.redis.binaries import find_binary

NAME = "replay"

TRACE_VARIABLE = "BENCH_TRACE"
REPLAY_S_MAX = 300


class Latency(msgspec.Struct):
    p50_us: int
    p99_us: int


class Report(msgspec.Struct):
    """What is used of the report that `limiter replay --json` writes."""

    requests: int
    pairs_per_second: float
    overshoot_micros: int
    spent_micros: int
    counters_micros: int
    findings: int
    check_latency: Latency
    record_latency: Latency


def measure(rounds: int) -> Results:
    """Raises Missing without a trace."""
    name = os.environ.get(TRACE_VARIABLE, "")
    if not Path(name).is_file():
        raise Missing(f"a trace for `limiter replay`, named by {TRACE_VARIABLE}")
    reports = [_replayed(Path(name)) for _ in range(rounds)]
    checks = [report.check_latency for report in reports]
    records = [report.record_latency for report in reports]
    return Results(
        name=NAME,
        title="A real trace, replayed and audited",
        rows=[
            median_row("check + record", [r.pairs_per_second for r in reports], "pairs/s"),
            median_row("overshoot", [r.overshoot_micros for r in reports], "micros", bar=AtMost(0)),
            median_row(
                "counters beside the tally",
                [abs(r.counters_micros - r.spent_micros) for r in reports],
                "micros",
                bar=AtMost(0),
            ),
            median_row("findings", [r.findings for r in reports], "", bar=AtMost(0)),
            median_row("a check's p50", [each.p50_us / 1_000 for each in checks], "ms"),
            median_row("a check's p99", [each.p99_us / 1_000 for each in checks], "ms"),
            median_row("a record's p50", [each.p50_us / 1_000 for each in records], "ms"),
            median_row("a record's p99", [each.p99_us / 1_000 for each in records], "ms"),
        ],
        rounds=rounds,
        conditions=[
            f"{reports[0].requests:,} requests, 32 calls at once, as fast as they go.",
            "Eight workspaces, limits that some of the trace exceeds, and trees of chats.",
            "One worker, SQLite, the embedded server: all by default.",
            "The replayer, a Python client on the same cores, is what limits the rate.",
        ],
        software=[str(find_binary(None, None).release)],
    )


def _replayed(trace: Path) -> Report:
    """A round. The replayer's own status says whether a counter differed or a limit was passed."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        report = folder / "report.json"
        environment = environment_with(LIMITER_PORT=port, LIMITER_DATA_DIR=folder / "data")
        with listening(service_command(), environment, folder / "service.log", port):
            subprocess.run(
                [
                    *(service_command()[0], "replay", str(trace), "--json", str(report)),
                    *("--url", f"http://127.0.0.1:{port}"),
                ],
                capture_output=True,
                check=True,
                timeout=REPLAY_S_MAX,
            )
        return msgspec.json.decode(report.read_bytes(), type=Report)
