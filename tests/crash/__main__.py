"""`python -m tests.crash`: the kill table, as long as one likes. Exit status 1: something is wrong.

python -m tests.crash --rounds 100 --seed 7 --modes sync,wiped
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.crash.kill_table import ROWS, Outcome, run_row

LOG_CHARACTERS = 2_000
FAULTS_SHOWN_MAX = 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="kills of each row")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--modes",
        default="",
        help="only rows with all of these words: snapshot, sync; separate, embedded; service, "
        "redis, both; kept, wiped",
    )
    parser.add_argument("--minutes", type=float, default=120, help="no round begins after that")
    options = parser.parse_args()
    if not (1 <= options.rounds <= 10_000 and 0 < options.minutes <= 1_440):
        parser.error("--rounds must be 1 to 10,000, --minutes up to 1,440")
    wanted = set(filter(None, options.modes.split(",")))
    rows = [row for row in ROWS if wanted <= set(str(row).split("-"))]
    if not rows:
        parser.error(f"no row has all of {', '.join(sorted(wanted))}")

    deadline_s = time.monotonic() + options.minutes * 60
    notes = Console(stderr=True)
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="crash-") as scratch:
        for number, row in enumerate(rows):
            notes.print(f"{row}: {options.rounds} rounds", highlight=False)
            outcome = asyncio.run(
                run_row(
                    row,
                    Path(scratch) / str(number),
                    rounds=options.rounds,
                    seed=options.seed,
                    deadline_s=deadline_s,
                )
            )
            outcomes.append(outcome)
            for fault in outcome.faults()[:FAULTS_SHOWN_MAX]:
                notes.print(f"{row}: {fault}", markup=False, highlight=False, soft_wrap=True)
    Console(width=150).print(table(outcomes, options.seed))
    return 1 if any(outcome.faults() for outcome in outcomes) else 0


def table(outcomes: list[Outcome], seed: int) -> Table:
    shown = Table(title=f"Kill table, seed {seed}")
    for name in ("durability", "Redis", "kill -9 of", "its data"):
        shown.add_column(name)
    for name in (
        *("kills", "acknowledged", "repeated", "degraded", "queued"),
        *("lost", "may be", "doubled", "drift", "held", "seconds"),
    ):
        shown.add_column(name, justify="right")
    for outcome in outcomes:
        row = outcome.row
        numbers = [
            *(outcome.kills, outcome.acknowledged, outcome.repeats, outcome.degraded),
            *(outcome.queued, outcome.lost, outcome.lost_max, outcome.doubled),
            *(len(outcome.drift), outcome.held, int(outcome.elapsed_s)),
        ]
        shown.add_row(
            *(row.durability, row.server, row.victim, "wiped" if row.wipe else "kept"),
            *(f"{number:,}" for number in numbers),
        )
    return shown


if __name__ == "__main__":
    sys.exit(main())
