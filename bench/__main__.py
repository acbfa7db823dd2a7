"""`make bench`: runs the sections that are named, or all; prints and writes what they measured.

Each section is a module `bench.<name>` with `NAME` and `measure(rounds) -> Results`. One that
needs what this machine lacks is told of at the end, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib import import_module

from bench.peers import PEERS_PYTHON, ROOT
from bench.report import Missing, load_average, write, write_overview

SECTIONS = (
    "scripts",
    "steps",
    "drain",
    "http",
    "replay",
    "inprocess",
    "memory",
    "start",
    "durable",
)
ROUNDS = 5


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("section", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default {ROUNDS}")
    options = parser.parse_args()
    unknown = sorted(set(options.section) - set(SECTIONS))
    if unknown:
        parser.error(f"no such section: {', '.join(unknown)}")
    if options.rounds < 1:
        parser.error("--rounds is at least 1")

    lacking = []
    for name in SECTIONS:
        if options.section and name not in options.section:
            continue
        section = import_module(f"bench.{name}")
        load_before = load_average()
        try:
            results = section.measure(options.rounds)
        except Missing as error:
            lacking.append(f"{name}: {error}")
            continue
        rounds = "" if options.rounds == ROUNDS else f" --rounds {options.rounds}"
        command = f'make bench ARGS="{name}{rounds}"'
        print(write(results, command=command, load_before=load_before), flush=True)
        write_overview(SECTIONS)
    if PEERS_PYTHON.exists():
        subprocess.run([PEERS_PYTHON, "-m", "bench.plots"], check=True, cwd=ROOT)
    for line in lacking:
        print(f"not measured: {line}", file=sys.stderr)
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
