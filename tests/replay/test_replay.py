"""Whole replays against a service in miniature: what they find, survive, and refuse to start."""

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from rich.console import Console

from limiter.periods import HOUR_MS, Period
from limiter.replay import audit
from limiter.replay.command import ReplayOptions, replay
from tests.replay.service import MiniatureService
from tests.replay.traces import small_trace, write_trace

# Long enough for every repeat that a test brings about, too short to wait for nothing.
PATIENCE_S = 20.0


class Replayed:
    """One replay: its exit status, its report, and what it printed."""

    def __init__(self, status: int, report: dict[str, Any], text: str) -> None:
        self.status = status
        self.report = report
        self.text = text


@pytest.fixture
def options(tmp_path: Path) -> ReplayOptions:
    return ReplayOptions(
        trace=small_trace(tmp_path),
        workspaces=4,
        concurrency=8,
        patience_s=PATIENCE_S,
        json_path=tmp_path / "report.json",
    )


async def run(service: httpx2.AsyncBaseTransport, options: ReplayOptions) -> Replayed:
    output = io.StringIO()
    status = await replay(options, Console(file=output, width=160), transport=service)
    assert options.json_path is not None
    text = options.json_path.read_text(encoding="utf-8") if status != 2 else "{}"
    return Replayed(status, json.loads(text), output.getvalue())


# ---------------------------------------------------------------------- a right service


async def test_a_right_service_passes_and_everything_is_reported(options: ReplayOptions) -> None:
    service = MiniatureService()
    replayed = await run(service, options)
    report = replayed.report
    assert (replayed.status, report["ok"]) == (0, True)
    assert report["requests"] == report["settled"] == 400
    assert report["admitted"] == report["recorded"] == 400 - report["denied"]
    assert report["denied"] == sum(report["denied_by"].values())
    # Both kinds of limits bind: 402 and 409.
    assert report["denied_by"]["hourly"] > 0
    assert report["denied_by"]["daily"] > 0
    assert report["denied_by"]["chat_lifetime"] > 0
    spent = sum(workspace.spent for workspace in service.workspaces.values())
    assert report["spent_micros"] == report["counters_micros"] == spent > 0
    assert report["overshoot_micros"] == report["unexplained_overshoot_micros"] == 0
    assert report["repeats"] == report["duplicates"] == report["unsettled"] == 0
    assert sum(row["requests"] for row in report["workspaces"]) == 400
    assert sum(row["spent_micros"] for row in report["trees"]) == spent
    assert 0 < report["check_latency"]["p50_us"] <= report["check_latency"]["p99_us"]
    assert "Every counter equals the tally" in replayed.text
    for name in ("by hourly", "by chat_lifetime", "overshoot", "requests/s", "check p50, p99"):
        assert name in replayed.text


async def test_the_tables_show_the_top_rows_and_a_total_of_the_rest(options: ReplayOptions) -> None:
    replayed = await run(MiniatureService(), dataclasses.replace(options, workspaces=30, chats=7))
    assert replayed.status == 0
    assert "18 more" in replayed.text
    assert "48 more" in replayed.text
    assert len(replayed.text.splitlines()) < 80
    assert len(replayed.report["workspaces"]) == 30
    assert len(replayed.report["trees"]) == 60


async def test_two_runs_have_workspaces_of_their_own(options: ReplayOptions) -> None:
    service = MiniatureService()
    first, second = await run(service, options), await run(service, options)
    assert (first.status, second.status) == (0, 0)
    assert len(service.workspaces) == 8


async def test_progress_without_a_terminal_is_a_few_lines(
    options: ReplayOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    await run(MiniatureService(), options)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["limits: 4 of 4", "requests: 40 of 400"]
    assert lines[-2:] == ["requests: 400 of 400", "counters: 52 of 52"]
    assert len(lines) == 12


async def test_speed_keeps_the_order_and_the_gaps_of_the_trace(options: ReplayOptions) -> None:
    # 400 requests in 39.9 s, a hundred times as fast.
    service = MiniatureService()
    sent = []

    def note(_: int, request: httpx2.Request) -> None:
        if request.url.path == "/check":
            sent.append(json.loads(request.content)["reservation_id"])

    service.before = note
    replayed = await run(service, dataclasses.replace(options, speed=100.0))
    assert replayed.status == 0
    assert replayed.report["elapsed_us"] >= 399_000
    assert [int(name.rpartition("-r")[2]) for name in sent] == list(range(400))


# ---------------------------------------------------------------------- what must be found


async def test_one_counter_that_is_off_by_a_micro_fails(options: ReplayOptions) -> None:
    service = MiniatureService()
    extra_micros = iter([0, 1])
    service.shown_spent = lambda spent: spent + next(extra_micros, 0)
    replayed = await run(service, options)
    assert replayed.status == 1
    differences = replayed.report["differences"]
    assert [d["counter"].split()[1] for d in differences] == [
        "hourly",
        "daily",
        "weekly",
        "monthly",
    ]
    assert {d["found"] - d["expected"] for d in differences} == {1}
    assert "the tally says" in replayed.text
    assert "Every counter equals" not in replayed.text


async def test_one_record_that_is_charged_twice_fails(options: ReplayOptions) -> None:
    service = MiniatureService()
    service.forgets_ids = True
    records = 0

    def lose_the_tenth(_: int, request: httpx2.Request) -> None:
        nonlocal records
        records += request.url.path == "/record"
        if request.url.path == "/record" and records == 10:
            raise httpx2.ReadError("the reply was lost", request=request)

    service.after = lose_the_tenth
    replayed = await run(service, options)
    assert replayed.status == 1
    assert replayed.report["repeats"] == 1
    counters = {d["counter"].split()[1] for d in replayed.report["differences"]}
    assert {"hourly", "spent_micros", "own_spent_micros"} <= counters


async def test_a_wrong_price_fails(options: ReplayOptions) -> None:
    service = MiniatureService()
    service.charges_extra = 1
    replayed = await run(service, options)
    assert replayed.status == 1
    assert replayed.report["findings"] == replayed.report["recorded"]
    assert "was charged as" in replayed.text
    assert "more like these" in replayed.text


async def test_a_limit_that_is_exceeded_fails(options: ReplayOptions) -> None:
    service = MiniatureService()
    service.enforces_limits = False
    replayed = await run(service, options)
    report = replayed.report
    assert replayed.status == 1
    assert report["denied"] == 0
    assert report["differences"] == []
    assert report["overshoot_micros"] == report["unexplained_overshoot_micros"] > 0
    assert "Over a limit by" in replayed.text


async def test_a_hold_that_stays_fails(options: ReplayOptions) -> None:
    service = MiniatureService()

    def hold_one(number: int, _: httpx2.Request) -> None:
        if number == 300:
            workspace = next(iter(service.workspaces.values()))
            workspace.held += 1
            workspace.holds["stale"] = 1

    service.before = hold_one
    replayed = await run(service, options)
    assert replayed.status == 1
    counters = {d["counter"].split()[1]: d["found"] for d in replayed.report["differences"]}
    assert counters["held_micros"] == 1
    assert counters["live_holds"] == 1


async def test_an_answer_that_is_none_of_the_known_ones_fails(options: ReplayOptions) -> None:
    service = MiniatureService()
    sent = 0

    def refuse_one(_: int, request: httpx2.Request) -> httpx2.Response | None:
        nonlocal sent
        sent += request.url.path == "/check"
        refuses = request.url.path == "/check" and sent == 5
        return httpx2.Response(400, content=b"\x1b[2J[bold]no") if refuses else None

    service.before = refuse_one
    replayed = await run(service, options)
    assert replayed.status == 1
    assert replayed.report["unexpected"] == 1
    assert r"/check: status 400: b'\x1b[2J[bold]no'" in replayed.text


@pytest.mark.parametrize("body", [b"{}", b"[", b'"\xff"'])
async def test_an_answer_that_cannot_be_read_fails(options: ReplayOptions, body: bytes) -> None:
    service = MiniatureService()
    garbled = iter([True])

    def garble(_: int, request: httpx2.Request) -> httpx2.Response | None:
        if request.url.path == "/record" and next(garbled, False):
            return httpx2.Response(200, content=body)
        return None

    service.after = garble
    replayed = await run(service, options)
    assert replayed.status == 1
    assert replayed.report["unexpected"] == 1
    assert replayed.report["differences"]


# ---------------------------------------------------------------------- what must be survived


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("fault", [httpx2.ReadError, httpx2.ReadTimeout, httpx2.ConnectError, None])
async def test_calls_without_an_answer_are_repeated_and_count_once(
    options: ReplayOptions, when: str, fault: type[httpx2.RequestError] | None
) -> None:
    service = MiniatureService()
    faults = 0

    def fail_some(number: int, request: httpx2.Request) -> httpx2.Response | None:
        nonlocal faults
        if request.url.path == "/healthz" or number % 20:
            return None
        faults += 1
        if fault is None:
            return httpx2.Response(503)
        raise fault("gone", request=request)

    setattr(service, when, fail_some)
    replayed = await run(service, options)
    assert replayed.status == 0
    assert replayed.report["repeats"] == faults > 20
    assert (replayed.report["duplicates"] > 0) == (when == "after")


async def test_records_that_are_queued_are_waited_for(options: ReplayOptions) -> None:
    service = MiniatureService()
    questions = 0

    def queue_for_a_while(number: int, request: httpx2.Request) -> None:
        nonlocal questions
        service.queues_records = 100 < number < 130
        questions += request.url.path.startswith("/usage")
        # The counters of all 4 workspaces and 48 chats are asked for once before it is applied.
        if questions > 60:
            service.apply_queue()

    service.before = queue_for_a_while
    replayed = await run(service, options)
    assert replayed.status == 0
    assert 0 < replayed.report["queued"] < 30
    assert replayed.report["unheld_micros"] > 0
    assert questions > 60


async def test_checks_that_are_let_pass_uncounted_are_charged_all_the_same(
    options: ReplayOptions,
) -> None:
    service = MiniatureService()

    def degrade_for_a_while(number: int, _: httpx2.Request) -> None:
        service.degraded = number > 500

    service.before = degrade_for_a_while
    replayed = await run(service, options)
    report = replayed.report
    assert replayed.status == 0
    assert 0 < report["degraded"] < report["admitted"]
    # Nothing was denied any more, which is what the overshoot has to be explained by.
    assert 0 < report["overshoot_micros"] <= report["unheld_micros"]
    assert report["unexplained_overshoot_micros"] == 0


async def test_withheld_estimates_explain_an_overshoot_up_to_their_charges(
    options: ReplayOptions,
) -> None:
    replayed = await run(MiniatureService(), dataclasses.replace(options, withhold_estimates=0.5))
    report = replayed.report
    assert replayed.status == 0
    assert 150 < report["estimates_withheld"] < 250
    assert 0 < report["overshoot_micros"] <= report["unheld_micros"]
    assert "not explained by that" in replayed.text


async def test_a_service_that_never_comes_back_ends_the_run(options: ReplayOptions) -> None:
    service = MiniatureService()

    def die(number: int, request: httpx2.Request) -> None:
        if number > 200:
            raise httpx2.ConnectError("refused", request=request)

    service.before = die
    replayed = await run(service, dataclasses.replace(options, patience_s=0.2))
    report = replayed.report
    assert replayed.status == 1
    assert "ConnectError: refused" in report["gave_up"]
    assert report["unsettled"] > 0
    assert report["settled"] + report["unsettled"] < 400
    assert report["counters_micros"] is None
    assert "the counters could not be read" in report["not_compared"][0]
    assert "not read" in replayed.text


async def test_a_window_that_does_not_cover_the_run_is_left_out_with_its_reason(
    options: ReplayOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = Period("hourly", window_ms=1, bucket_ms=1)
    monkeypatch.setattr(audit, "PERIODS", (short, Period("daily", 24 * HOUR_MS, HOUR_MS)))
    replayed = await run(MiniatureService(), options)
    assert replayed.status == 0
    assert len(replayed.report["not_compared"]) == 1
    assert "hourly spend is not compared: its window is" in replayed.text


# ---------------------------------------------------------------------- what must not start


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trace": Path("nowhere.csv")}, "nowhere.csv: there is no such file"),
        ({"workspaces": 0}, "--workspaces must be from 1 to 10,000, not 0"),
        ({"workspaces": 10_000, "chats": 101}, "--chats must be from 1 to 100, not 101"),
        ({"speed": -1.0}, "--speed must be at least 0, not -1.0"),
        ({"speed": float("nan")}, "--speed must be at least 0, not nan"),
        ({"speed": float("inf")}, "--speed must be at least 0, not inf"),
        ({"concurrency": 0}, "--concurrency"),
        ({"withhold_estimates": 1.1}, "--withhold-estimates must be from 0 to 1, not 1.1"),
        ({"limit_percent": 0}, "--limit-percent"),
        ({"patience_s": -1.0}, "--patience"),
        ({"requests_max": 0}, "--requests"),
        ({"model": "no-such-model"}, "--model: model 'no-such-model' has no known price"),
        ({"json_path": Path("no/such/folder/report.json")}, "--json: no/such/folder/report.json"),
    ],
)
async def test_unusable_input_is_named_before_anything_is_sent(
    options: ReplayOptions,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    words: str,
) -> None:
    service = MiniatureService()
    replayed = await run(service, dataclasses.replace(options, **changes))
    assert (replayed.status, service.calls) == (2, 0)
    assert words in capsys.readouterr().err
    assert replayed.text == ""


async def test_a_trace_with_another_header_is_unusable(
    options: ReplayOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = write_trace(tmp_path / "other.csv", ["1,2,3"], "a,b,c")
    replayed = await run(MiniatureService(), dataclasses.replace(options, trace=trace))
    assert replayed.status == 2
    assert "other.csv, line 1" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "127.0.0.1", "ftp://x", "http://[", ""])
async def test_without_a_service_nothing_is_replayed(
    options: ReplayOptions, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    status = await replay(dataclasses.replace(options, url=url), Console(file=io.StringIO()))
    assert status == 2
    assert capsys.readouterr().err.startswith("limiter: ")


def refusing(status: int, path: str) -> Callable[[int, httpx2.Request], httpx2.Response | None]:
    """A fault: this path and what is below it answers with that status."""

    def fault(_: int, request: httpx2.Request) -> httpx2.Response | None:
        return httpx2.Response(status) if request.url.path.startswith(path) else None

    return fault


@pytest.mark.parametrize(
    ("path", "answer", "words"),
    [
        ("/healthz", 404, "/healthz: status 404"),
        ("/config", 403, "refuses to be configured"),
        ("/config", 503, "does not answer"),
    ],
)
async def test_a_service_that_cannot_be_set_up_is_not_used(
    options: ReplayOptions,
    capsys: pytest.CaptureFixture[str],
    path: str,
    answer: int,
    words: str,
) -> None:
    service = MiniatureService()
    service.before = refusing(answer, path)
    replayed = await run(service, dataclasses.replace(options, patience_s=0.1))
    assert replayed.status == 2
    assert words in capsys.readouterr().err
