"""The kill table, a few kills a row: nothing lost beyond what is promised, nothing twice, no drift.

`python -m tests.crash` runs as many as one likes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from limiter.redis.binaries import bundled_binary
from tests.crash.kill_table import ROWS, Row, run_row
from tests.support.parts import need
from tests.support.postgres import PostgresCluster

SEED = 16
# A start of the service takes seconds, one of Redis does not.
ROUNDS = {"redis": 5, "service": 1, "both": 2, "mixed": 3}
SHORT_ROWS = [
    *(row for row in ROWS if row.server == "separate" and row.victim != "mixed"),
    *(row for row in ROWS if row.server == "embedded" and row.victim == "both" and not row.wipe),
    Row("sync", "separate", "mixed", wipe=True, store="postgresql", workers=2),
]


@pytest.mark.parametrize("row", SHORT_ROWS, ids=str)
async def test_a_row_of_the_kill_table(
    tmp_path: Path, row: Row, request: pytest.FixtureRequest
) -> None:
    if row.server == "embedded":
        need("embedded", bundled_binary(), "the embedded server's binary")
    database_url = None
    if row.store == "postgresql":
        cluster: PostgresCluster = request.getfixturevalue("postgres")
        database_url = cluster.create_database()
    outcome = await run_row(
        row, tmp_path / "site", rounds=ROUNDS[row.victim], seed=SEED, database_url=database_url
    )
    assert outcome.faults() == []
    assert outcome.kills == ROUNDS[row.victim]
    # There was something to be lost, and some of it was under way.
    assert outcome.acknowledged > 0
    assert outcome.repeats + outcome.queued + outcome.degraded > 0
