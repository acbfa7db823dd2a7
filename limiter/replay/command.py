"""The command: checks what it was given, runs the parts in their order, gives the exit status."""

from __future__ import annotations

import math
import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

import httpx2
import msgspec
from rich.console import Console

from limiter.access import split_key
from limiter.errors import LimiterError
from limiter.pricing import Prices
from limiter.replay.api import Api
from limiter.replay.audit import audit_run, places
from limiter.replay.plan import Plan, Spread, make_plan
from limiter.replay.progress import shown
from limiter.replay.report import Report, make_report
from limiter.replay.run import Run
from limiter.replay.tables import show
from limiter.replay.trace import UnusableInput, read_trace

_WORKSPACES_MAX = 10_000
_CHATS_MAX = 1_000_000
_CONCURRENCY_MAX = 1_000
_PROGRESS_LINES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """What to replay, how, and against which service.

    `chats`: of each workspace, in trees up to three deep. `speed`: 1 as the trace, 60 an hour in a
    minute, 0 as fast as `concurrency` calls at once allow. `withhold_estimates`: the fraction of
    checks without one. `limit_percent`: limits, in percent of what the requests below them would
    cost. `patience_s`: how long a call without an answer is repeated. `requests_max`: only so many
    requests of the trace. `json_path`: where the report goes as JSON. `key`: an admin's, where the
    service asks for keys.
    """

    trace: Path
    url: str = "http://127.0.0.1:8080"
    workspaces: int = 8
    chats: int = 12
    speed: float = 0.0
    model: str = "gpt-4o"
    seed: int = 1
    concurrency: int = 32
    withhold_estimates: float = 0.0
    limit_percent: int = 60
    patience_s: float = 60.0
    requests_max: int | None = None
    json_path: Path | None = None
    key: str | None = field(default=None, repr=False)


async def replay(
    options: ReplayOptions,
    console: Console,
    *,
    transport: httpx2.AsyncBaseTransport | None = None,
) -> int:
    """Replays the trace and prints the report on `console`; progress and errors go to stderr.

    Returns the exit status: 0 all is as the tally says; 1 a counter differs, a limit was exceeded,
    or the run has no end; 2 nothing was replayed, because the input is of no use or no service
    answers. `transport` stands in for the network.
    """
    notes = Console(stderr=True)
    try:
        report = await _replay(options, notes, transport)
        show(report, console)
        if options.json_path is not None:
            text = msgspec.json.format(msgspec.json.encode(report), indent=2)
            options.json_path.write_bytes(text + b"\n")
    except (UnusableInput, OSError) as error:
        notes.print(f"limiter: {error}", markup=False, highlight=False, soft_wrap=True)
        return 2
    return 0 if report.ok else 1


async def _replay(
    options: ReplayOptions, notes: Console, transport: httpx2.AsyncBaseTransport | None
) -> Report:
    _require_usable(options)
    plan = _plan(options)
    run_id = f"replay-{secrets.token_hex(4)}"
    concurrency = options.concurrency
    try:
        connections = Api(
            options.url,
            connections=concurrency,
            patience_s=options.patience_s,
            key=options.key,
            transport=transport,
        )
    except httpx2.InvalidURL as error:
        raise UnusableInput(f"--url: {error}") from None
    async with connections as api:
        await _require_service(api, options.url)
        run = Run(api, plan, run_id, speed=options.speed)
        with shown(notes, "limits", len(plan.workspaces), lines=1) as step:
            await run.configure(concurrency, step)
        started_s = time.monotonic()
        with shown(notes, "requests", len(plan.requests), lines=_PROGRESS_LINES) as step:
            await run.send(concurrency, step)
        with shown(notes, "counters", sum(1 for _ in places(plan)), lines=1) as step:
            audit = await audit_run(
                api,
                plan,
                run,
                started_s=started_s,
                patience_s=options.patience_s,
                concurrency=concurrency,
                progress=step,
            )
    return make_report(run_id, plan, run, audit, repeats=api.repeats)


def _require_usable(options: ReplayOptions) -> None:
    """Raises UnusableInput naming the first option that is out of range."""
    for name, value, least, most in (
        ("--workspaces", options.workspaces, 1, _WORKSPACES_MAX),
        ("--chats", options.chats, 1, _CHATS_MAX // max(1, options.workspaces)),
        ("--speed", options.speed, 0, math.inf),
        ("--concurrency", options.concurrency, 1, _CONCURRENCY_MAX),
        ("--withhold-estimates", options.withhold_estimates, 0, 1),
        ("--limit-percent", options.limit_percent, 1, 1_000),
        ("--patience", options.patience_s, 0, math.inf),
        ("--requests", 1 if options.requests_max is None else options.requests_max, 1, math.inf),
    ):
        # Written so that not-a-number fails.
        if not least <= value <= most or value == math.inf:
            bounds = f"at least {least}" if most == math.inf else f"from {least} to {most:,}"
            raise UnusableInput(f"{name} must be {bounds}, not {value}")
    if options.key is not None and split_key(options.key) is None:
        raise UnusableInput("--key: not an API key: one reads lim_<id>_<secret>")
    if options.json_path is not None:
        try:
            # An hour's run must not end in a report that cannot be written.
            options.json_path.open("a").close()
        except OSError as error:
            raise UnusableInput(f"--json: {options.json_path}: {error.strerror}") from None


def _plan(options: ReplayOptions) -> Plan:
    arrivals = read_trace(options.trace, options.requests_max)
    spread = Spread(
        workspaces=options.workspaces,
        chats=options.chats,
        seed=options.seed,
        withheld_fraction=options.withhold_estimates,
        limit_percent=options.limit_percent,
    )
    try:
        return make_plan(arrivals, spread, Prices("deny"), options.model, datetime.now(UTC))
    except LimiterError as error:
        raise UnusableInput(f"--model: {error}") from None


async def _require_service(api: Api, url: str) -> None:
    """Raises UnusableInput when nothing at `url` says that it lives. It is asked once."""
    try:
        reply = await api.once("GET", "/healthz")
    except httpx2.RequestError as error:
        raise UnusableInput(
            f"no service answers at {url}: {type(error).__name__}: {error}"
        ) from None
    if reply.status != HTTPStatus.OK:
        raise UnusableInput(f"{url}/healthz: status {reply.status}: not this service?")
