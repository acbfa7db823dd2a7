"""Cells that processes share: each writes its own, all read all, and a dead one's stay."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from limiter.cells import Cells
from limiter.metrics import Metrics
from tests.metrics.scrape import Watch

DYING = """
import os, signal, sys
from pathlib import Path
from limiter.cells import Cells
cells = Cells(3, Path(sys.argv[1]))
cells.values[0] += 5
os.kill(os.getpid(), signal.SIGKILL)
"""


def seen(cells: Cells) -> list[tuple[list[int], bool]]:
    return list(cells.others())


def test_alone_they_are_zero_and_see_nobody() -> None:
    cells = Cells(3)
    assert cells.values.tolist() == [0, 0, 0]
    assert seen(cells) == []
    cells.close()
    cells.close()


def test_each_sees_what_the_others_say_at_once(tmp_path: Path) -> None:
    first, second = Cells(2, tmp_path), Cells(2, tmp_path)
    first.values[0] += 7
    second.values[1] = 2**64 - 1
    assert seen(first) == [([0, 2**64 - 1], True)]
    assert seen(second) == [([7, 0], True)]
    first.close()
    assert seen(second) == [([7, 0], False)]
    second.close()


def test_who_comes_in_the_place_of_a_killed_one_goes_on_with_its_numbers(tmp_path: Path) -> None:
    for _ in range(2):
        dying = subprocess.run([sys.executable, "-c", DYING, tmp_path], check=False)
        assert dying.returncode == -9
    watching = Cells(3, tmp_path)
    assert watching.values.tolist() == [10, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["0.cells"]
    watching.close()


def test_a_file_that_is_only_just_being_made_is_passed_over(tmp_path: Path) -> None:
    cells = Cells(3, tmp_path)
    (tmp_path / "1.cells").touch()
    assert seen(cells) == []
    cells.close()


@pytest.mark.parametrize("leaves", [True, False])
def test_what_a_worker_said_of_itself_goes_with_it_and_what_it_counted_stays(
    tmp_path: Path, leaves: bool
) -> None:
    first, second = Metrics(tmp_path), Metrics(tmp_path)
    for metrics in (first, second):
        metrics.breaker_opened()
    second.entries_waiting(9)
    second.drift_found(7)
    assert Watch(first).now()["limiter_breaker_open"] == 2
    assert Watch(first).now()["limiter_snapshot_waiting_entries"] == 9
    assert Watch(first).now()["limiter_drift_micros"] == 7
    second.close()
    third = None if leaves else Metrics(tmp_path)
    now = Watch(first).now()
    assert now["limiter_breaker_open"] == 1
    assert now["limiter_snapshot_waiting_entries"] == 0
    assert now["limiter_drift_micros"] == 0
    assert now["limiter_breaker_openings_total"] == 2
    first.close()
    if third is not None:
        third.close()
