"""`make bench`: measures, prints one table, and writes it to bench/results/."""

from __future__ import annotations

import platform
import tempfile
from pathlib import Path

import redis

from bench.scripts import CALLS, ROUNDS, measure
from limiter.redis.embedded import EmbeddedServer

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedServer(Path(folder)) as server,
        redis.Redis(unix_socket_path=str(server.socket_path), protocol=2) as client,
    ):
        info = client.info("server")
        costs = measure(client)
    engine = info.get("valkey_version", info["redis_version"])
    conditions = (
        f"`make bench`: {ROUNDS} rounds of {CALLS:,} calls each, medians; server {engine}, "
        f"{platform.machine()}. Quote the multiples: microseconds are this machine's, that day."
    )
    lines = [
        "# What a script costs inside Redis",
        "",
        conditions,
        "",
        "| script | µs a call | × an empty script |",
        "|---|---|---|",
        *(f"| {cost.name} | {cost.microseconds:.2f} | {cost.multiple:.1f} |" for cost in costs),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "scripts.md").write_text(text, encoding="utf-8")


main()
