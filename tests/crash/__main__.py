"""`python -m tests.crash`: the kill table, as long as one likes. Exit status 1: something is wrong.

python -m tests.crash --rounds 100 --seed 7 --modes sync,wiped --modes postgresql,workers
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shlex
import sys
import tempfile
import time
import traceback
from pathlib import Path

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from tests.crash.kill_table import INTERVAL_MS, ROWS, Outcome, Row, run_row
from tests.support.postgres import PostgresCluster, postgres_cluster

FAULTS_SHOWN_MAX = 20
TABLE_WIDTH = 240

READING = f"""\
Counts are of records, but for `doubled` (micros), `drift` (counters) and `held` (micros).
`lost`: acknowledged and not in the ledger, over all kills; `at once`: the most by one kill;
`an interval`: the most acknowledged in any {INTERVAL_MS} ms, the peak rate times the interval.
A pass begins an interval after the one before it was complete and takes time itself, so with a
wiped Redis may be lost what was acknowledged since the last complete pass began: `allowed`, over
all kills; `unsaved ms`: how long that was at most, by /metrics right before each kill."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="kills of each row")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--modes",
        action="append",
        help="only rows with all of these words: snapshot, sync; sqlite, postgresql; separate, "
        "embedded; service, redis, both, mixed; kept, wiped; workers. Repeated: or all of those",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=240,
        help="in all; a row begins no round when its share of them is used up",
    )
    options = parser.parse_args()
    if not (1 <= options.rounds <= 10_000 and 0 < options.minutes <= 1_440):
        parser.error("--rounds must be 1 to 10,000, --minutes up to 1,440")
    wanted = [set(filter(None, words.split(","))) for words in options.modes or [""]]
    rows = [row for row in ROWS if any(words <= set(str(row).split("-")) for words in wanted)]
    if not rows:
        parser.error(f"no row has all of {' or '.join(options.modes)}")

    outcomes = run(rows, rounds=options.rounds, seed=options.seed, minutes=options.minutes)
    output = Console(width=TABLE_WIDTH, highlight=False, markup=False)
    output.print(shlex.join(["python", "-m", "tests.crash", *sys.argv[1:]]), READING, sep="\n\n")
    output.print(table(outcomes))
    return 1 if any(outcome.faults() for outcome in outcomes) else 0


def run(rows: list[Row], *, rounds: int, seed: int, minutes: float) -> list[Outcome]:
    """One row after the other, each in at most an equal share of the time that is left."""
    deadline_s = time.monotonic() + minutes * 60
    notes = Console(stderr=True)
    outcomes = []
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="crash-"))
        cluster: PostgresCluster | None = None
        for number, row in enumerate(rows):
            notes.print(f"{row}: {rounds} rounds", highlight=False)
            if row.store == "postgresql" and cluster is None:
                cluster = stack.enter_context(postgres_cluster())
            now_s = time.monotonic()
            running = run_row(
                row,
                Path(scratch) / str(number),
                rounds=rounds,
                seed=seed,
                database_url=(
                    cluster.create_database() if cluster and row.store == "postgresql" else None
                ),
                deadline_s=now_s + (deadline_s - now_s) / (len(rows) - number),
            )
            try:
                outcome = asyncio.run(running)
            except Exception:  # noqa: BLE001
                # A row that cannot be run to its end is a fault of its own; the others go on.
                outcome = Outcome(row, surprises=[traceback.format_exc()])
            outcomes.append(outcome)
            for fault in outcome.faults()[:FAULTS_SHOWN_MAX]:
                notes.print(f"{row}: {fault}", markup=False, highlight=False, soft_wrap=True)
    return outcomes


def table(outcomes: list[Outcome]) -> Table:
    shown = Table(box=MARKDOWN)
    for name in ("durability", "store", "Redis", "workers", "kill -9 of", "its data"):
        shown.add_column(name)
    for name in (
        *("kills", "acknowledged", "repeated", "degraded", "queued"),
        *("lost", "at once", "an interval", "allowed", "unsaved ms", "doubled", "drift", "held"),
    ):
        shown.add_column(name, justify="right")
    for outcome in outcomes:
        row = outcome.row
        numbers = [
            *(outcome.kills, outcome.acknowledged, outcome.repeats, outcome.degraded),
            *(outcome.queued, outcome.lost, outcome.lost_at_once, outcome.interval_max),
            *(outcome.lost_max, outcome.unsaved_ms, outcome.doubled, len(outcome.drift)),
            outcome.held,
        ]
        shown.add_row(
            *(row.durability, row.store, row.server, str(row.workers), row.victim, row.kept),
            *(f"{number:,}" for number in numbers),
        )
    return shown


if __name__ == "__main__":
    sys.exit(main())
