"""Reading traces: the real one in full, and everything that must be refused, by its line."""

from pathlib import Path

import pytest

from limiter.replay.trace import Arrival, UnusableInput, read_trace
from tests.replay.traces import REAL_TRACE_REQUESTS, real_trace, write_trace


def test_the_real_trace_is_read_whole() -> None:
    arrivals = read_trace(real_trace())
    assert len(arrivals) == REAL_TRACE_REQUESTS
    assert arrivals[:2] == [Arrival(0, 4_808, 10), Arrival(52_000, 3_180, 8)]
    assert arrivals[-1] == Arrival(3_435_948_056, 549, 173)
    assert sum(arrival.input_tokens for arrival in arrivals) == 18_059_974
    assert sum(arrival.output_tokens for arrival in arrivals) == 245_896


def test_only_the_first_requests_can_be_asked_for() -> None:
    assert read_trace(real_trace(), 3) == read_trace(real_trace())[:3]


@pytest.mark.parametrize(
    "rows",
    [
        ["2023-11-16 18:17:03.9799600,1,2", "2023-11-16 18:17:03.9799600,3,4"],
        ["2023-11-16 18:17:03,1,2", "2023-11-16 18:17:03+00:00,3,4"],
        ["2023-11-16 18:17:03,1,2", "2023-11-16 20:17:03+02:00,3,4"],
    ],
)
def test_moments_are_utc_unless_they_say_otherwise(tmp_path: Path, rows: list[str]) -> None:
    arrivals = read_trace(write_trace(tmp_path / "trace.csv", rows))
    assert arrivals == [Arrival(0, 1, 2), Arrival(0, 3, 4)]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere.csv"
    with pytest.raises(UnusableInput, match=r"nowhere\.csv: there is no such file"):
        read_trace(path)


def test_a_folder_is_no_trace(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match="directory"):
        read_trace(tmp_path)


@pytest.mark.parametrize(
    "header",
    ["", "TIMESTAMP,ContextTokens", "timestamp,contexttokens,generatedtokens", "a,b,c"],
)
def test_another_header_is_refused(tmp_path: Path, header: str) -> None:
    path = write_trace(tmp_path / "trace.csv", ["2023-11-16 18:17:03,1,2"], header)
    with pytest.raises(UnusableInput, match="line 1: the columns must be TIMESTAMP,ContextTokens"):
        read_trace(path)


def test_a_trace_without_requests_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match="no requests"):
        read_trace(write_trace(tmp_path / "trace.csv", []))


@pytest.mark.parametrize(
    "row",
    [
        "2023-11-16 18:17:04,1",
        "2023-11-16 18:17:04,1,2,3",
        "yesterday,1,2",
        "2023-11-16 18:17:04,-1,2",
        "2023-11-16 18:17:04,1.5,2",
        "2023-11-16 18:17:04, 1,2",
        "2023-11-16 18:17:04,1_000,2",
        "2023-11-16 18:17:04,,2",
        "2023-11-16 18:17:04,1,1000000001",
        "2023-11-16 18:17:04,1," + 5_000 * "9",
        "2023-11-16 18:17:04,1,٣",
        "2023-11-16 18:17:02,1,2",
    ],
)
def test_a_bad_row_is_refused_by_its_line(tmp_path: Path, row: str) -> None:
    path = write_trace(tmp_path / "trace.csv", ["2023-11-16 18:17:03,1,2", row])
    with pytest.raises(UnusableInput, match=r"trace\.csv, line 3: ") as caught:
        read_trace(path)
    assert len(str(caught.value)) < len(str(path)) + 200


def test_what_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(b"TIMESTAMP,ContextTokens,GeneratedTokens\n\xff\xfe\n")
    with pytest.raises(UnusableInput, match="not a CSV file"):
        read_trace(path)
