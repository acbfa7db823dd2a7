"""The service from outside: POST /check and /record under load, beside what could stand there.

One worker. Load generator, service and Redis share the machine, and contenders take turns.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import redis

from bench.load import Load, paced_pairs, wrk
from bench.plain import ANSWER_VARIABLE, REDIS_URL_VARIABLE
from bench.processes import (
    children,
    environment_with,
    free_port,
    listening,
    pin,
    processor_us,
    service_command,
    uvicorn_command,
)
from bench.report import AtLeast, AtMost, Results, Row, median_row, quantile, ratios
from bench.roundtrip import round_trip_ms
from bench.scene import (
    COST_MICROS,
    LIMITER_DB,
    LIMITS,
    PLAIN_DB,
    RESTING_DB,
    chat_bodies,
    check_body,
    put_workspace,
)
from bench.servers import catch_up, redis_name
from limiter.models import WorkspaceUsage
from limiter.redis.embedded import EmbeddedServer

NAME = "http"

CONNECTIONS = 64
SECONDS = 4
IDLE_SECONDS = 2
WORKSPACES = 64
NEVER_MS = 3_600_000

LIMITER = "the limiter"
RESTING = "the limiter, its snapshot pass at rest"
EMPTY = "an empty ASGI app"
PLAIN = "FastAPI and redis-py's pool"
SPREAD = f"the limiter, {WORKSPACES} workspaces in turn"


@dataclass(frozen=True, slots=True)
class Site:
    """The contenders by name, each on its port. `client` and `plain` look after their Redis.

    `core`: what contenders run on. `beside`: what else works for the limiter, by name.
    """

    core: int
    socket_path: Path
    ports: dict[str, int]
    pids: dict[str, int]
    beside: dict[str, int]
    client: redis.Redis
    plain: redis.Redis
    software: Sequence[str]

    def url(self, name: str, path: str = "/check") -> str:
        return f"http://127.0.0.1:{self.ports[name]}{path}"


def measure(rounds: int) -> Results:
    """Raises Missing without wrk."""
    checks: dict[str, list[float]] = {name: [] for name in (LIMITER, RESTING, EMPTY, PLAIN)}
    idle_ms: dict[str, list[float]] = {name: [] for name in (LIMITER, EMPTY)}
    used_us: dict[str, list[float]] = {name: [] for name in checks}
    beside_us: dict[str, list[float]] = {}
    spread: list[float] = []
    spread_us: list[float] = []
    script_ms: list[float] = []
    pairs: list[float] = []
    behind_s: list[float] = []
    paced_ms: dict[str, list[list[float]]] = {LIMITER: [], RESTING: []}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, _site(Path(folder)) as site:
        for number in range(rounds):
            for name, rates in checks.items():
                body = _prepared(site, name, f"check-{number}")
                before_us = processor_us(site.pids[name])
                beside = {each: processor_us(pid) for each, pid in site.beside.items()}
                load = wrk(site.url(name), "check", body, connections=CONNECTIONS, seconds=SECONDS)
                rates.append(load.per_s)
                used_us[name].append((processor_us(site.pids[name]) - before_us) / load.requests)
                if name == LIMITER:
                    for each, pid in site.beside.items():
                        spent_us = (processor_us(pid) - beside[each]) / load.requests
                        beside_us.setdefault(each, []).append(spent_us)
                    beside_us.setdefault("wrk", []).append(load.processor_us / load.requests)
                catch_up(site.client)
            load, redis_us = _spread(site, f"spread-{number}")
            spread.append(load.per_s)
            spread_us.append(redis_us)
            catch_up(site.client)
            for name, latencies in idle_ms.items():
                body = _prepared(site, name, f"idle-{number}")
                load = wrk(site.url(name), "check", body, connections=1, seconds=IDLE_SECONDS)
                latencies.append(load.p50_us / 1_000)
                catch_up(site.client)
            put_workspace(site.plain, f"idle-{number}")
            script_ms.append(round_trip_ms(site.socket_path, PLAIN_DB, f"idle-{number}", site.core))
            pairs.append(_pairs_per_s(site, f"pairs-{number}"))
            behind_s.append(catch_up(site.client))
        half = round(statistics.median(pairs) / 2)
        for number in range(rounds):
            for name, paced in paced_ms.items():
                paced.append(_paced_ms(site, name, f"paced-{number}", half))
                catch_up(site.client)
        software = site.software
    return Results(
        name=NAME,
        title="The service over HTTP",
        rows=[
            *_check_rows(checks),
            *(
                median_row(f"processor time a check, {name}", used_us[name], "µs")
                for name in checks
            ),
            *(
                median_row(f"the same on the other core, {each}", values, "µs")
                for each, values in beside_us.items()
            ),
            median_row(f"POST /check, {SPREAD}", spread, "calls/s"),
            median_row(f"{SPREAD} / {EMPTY}", ratios(spread, checks[EMPTY]), "×"),
            median_row(f"the other core, Redis, {SPREAD}", spread_us, "µs"),
            median_row("check + record over HTTP", pairs, "pairs/s", bar=AtLeast(5_000)),
            median_row(
                f"its calls / {EMPTY}",
                ratios([2 * rate for rate in pairs], checks[EMPTY]),
                "×",
            ),
            median_row(f"until the ledger has what {SECONDS} s of that left", behind_s, "s"),
            *_paced_rows(paced_ms, half),
            *(median_row(f"{name}, one idle caller, p50", idle_ms[name], "ms") for name in idle_ms),
            median_row("the script alone, one idle caller on Redis' socket, p50", script_ms, "ms"),
            median_row(
                f"one idle caller's p50: {LIMITER} / {EMPTY}",
                ratios(idle_ms[LIMITER], idle_ms[EMPTY]),
                "×",
                bar=AtMost(3),
            ),
        ],
        rounds=rounds,
        conditions=_CONDITIONS,
        software=software,
    )


_CONDITIONS = (
    "POST /check with four windows and a chat tree two deep, holding; all answered with 200.",
    "One worker, every setting at its default; Redis on a unix socket, beside the load generator.",
    "Each contender has a core for itself; Redis, the keeper and the load share the others.",
    f"Load by wrk in one thread with {CONNECTIONS} connections, {SECONDS} s a round.",
    f"The idle caller is one connection for {IDLE_SECONDS} s.",
    "All run behind the same uvicorn (uvloop, httptools), and take turns.",
    f"All checks are of one workspace, but where there are {WORKSPACES} in turn.",
    "The empty app parses the same body by msgspec, and answers as many bytes.",
    "The plain route runs the same script on the same Redis.",
    "In pairs the caller chooses the reservation's id, which the record names: retries are safe.",
    f"Half of that load comes at a steady pace on {CONNECTIONS} connections, from our own client.",
    "A check counts from when it was due, a record from when it was sent.",
    "The snapshot pass of every second runs along; before the next contender it has caught up.",
)


def _check_rows(checks: dict[str, list[float]]) -> list[Row]:
    rows = [median_row(f"POST /check, {name}", rates, "calls/s") for name, rates in checks.items()]
    for name, base, bar in (
        (LIMITER, EMPTY, AtLeast(0.55)),
        (LIMITER, PLAIN, AtLeast(3)),
        (RESTING, EMPTY, None),
        (RESTING, PLAIN, None),
    ):
        rows.append(
            median_row(f"{name} / {base}", ratios(checks[name], checks[base]), "×", bar=bar)
        )
    return rows


def _spread(site: Site, prefix: str) -> tuple[Load, float]:
    """Checks of many workspaces, and what Redis has to do for one. Hardly any can be joined."""
    for number in range(1, WORKSPACES + 1):
        _prepared(site, LIMITER, f"{prefix}-{number}")
    before_us = processor_us(site.beside["Redis"])
    load = wrk(
        site.url(LIMITER),
        *("some", json.dumps(check_body(f"{prefix}-ID")), str(WORKSPACES)),
        connections=CONNECTIONS,
        seconds=SECONDS,
    )
    return load, (processor_us(site.beside["Redis"]) - before_us) / load.requests


def _paced_rows(paced_ms: dict[str, list[list[float]]], half: int) -> Iterator[Row]:
    for name, rounds in paced_ms.items():
        suffix = "" if name == LIMITER else ", the snapshot pass at rest"
        pace = f"{half:,} pairs/s, half of that{suffix}"
        for share, bar in ((0.50, None), (0.99, AtMost(5) if name == LIMITER else None)):
            values = [quantile(latencies, share) for latencies in rounds]
            yield median_row(f"a call's p{share * 100:.0f} at {pace}", values, "ms", bar=bar)


def _pairs_per_s(site: Site, workspace_id: str) -> float:
    _prepared(site, LIMITER, workspace_id)
    check, record = _pair(workspace_id)
    prefix = f"{workspace_id}-"
    load = wrk(
        site.url(LIMITER),
        *("pairs", check, record, prefix),
        connections=CONNECTIONS,
        seconds=SECONDS,
    )
    return load.pairs_per_s


def _paced_ms(site: Site, name: str, workspace_id: str, pairs_per_s: int) -> list[float]:
    """How long each call took. Every micro of every pair is counted then, and nothing held."""
    _prepared(site, name, workspace_id)
    check, record = _pair(workspace_id)

    def made(body: str, number: int) -> bytes:
        return body.replace("ID", f"{workspace_id}-{number}").encode()

    latencies_ms = paced_pairs(
        site.ports[name],
        lambda number: made(check, number),
        lambda number: made(record, number),
        pairs_per_s=pairs_per_s,
        seconds=SECONDS,
        connections=CONNECTIONS,
    )
    with urllib.request.urlopen(  # noqa: S310  # loopback only
        site.url(name, f"/usage/workspaces/{workspace_id}"), timeout=10
    ) as answer:
        usage = msgspec.json.decode(answer.read(), type=WorkspaceUsage)
    spent_micros = pairs_per_s * SECONDS * COST_MICROS
    assert usage.held_micros == 0, usage
    assert all(period.spent_micros == spent_micros for period in usage.periods.values()), usage
    return latencies_ms


def _pair(workspace_id: str) -> tuple[str, str]:
    """The two bodies of a pair; "ID" stands for the reservation's id."""
    record = {"workspace_id": workspace_id, "reservation_id": "ID", "cost_micros": COST_MICROS}
    return json.dumps({**check_body(workspace_id), "reservation_id": "ID"}), json.dumps(record)


def _prepared(site: Site, name: str, workspace_id: str) -> str:
    """The body of a check in a workspace that is ready for it."""
    if name == PLAIN:
        put_workspace(site.plain, workspace_id)
    elif name in (LIMITER, RESTING):
        for body in chat_bodies(workspace_id):
            _post(site.url(name), body)
    return json.dumps(check_body(workspace_id))


def _post(url: str, body: dict[str, object]) -> bytes:
    request = urllib.request.Request(  # noqa: S310  # loopback only
        url, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        answered: bytes = answer.read()
        return answered


@contextlib.contextmanager
def _site(folder: Path) -> Iterator[Site]:
    """One Redis, and every contender in a process of its own."""
    ports = {name: free_port() for name in (LIMITER, RESTING, EMPTY, PLAIN)}
    pids: dict[str, int] = {}
    own, *rest = sorted(os.sched_getaffinity(0))
    others = set(rest) or {own}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer(folder / "data"))
        url = f"unix://{server.socket_path}?db="

        def start(name: str, command: list[str], **variables: object) -> None:
            environment = environment_with(**variables)
            log_path = folder / f"{ports[name]}.log"
            pinned = ["taskset", "-c", str(own), *command]
            pids[name] = stack.enter_context(listening(pinned, environment, log_path, ports[name]))
            for keeper in children(pids[name]):
                pin(keeper, others)

        for name, database, interval in (
            (LIMITER, LIMITER_DB, {}),
            (RESTING, RESTING_DB, {"LIMITER_SNAPSHOT_INTERVAL_MS": NEVER_MS}),
        ):
            start(
                name,
                service_command(),
                LIMITER_PORT=ports[name],
                LIMITER_DATA_DIR=folder / str(database),
                LIMITER_REDIS_URL=f"{url}{database}",
                LIMITER_DEFAULT_LIMITS=json.dumps(LIMITS),
                **interval,
            )
        clients = {}
        for database in (LIMITER_DB, PLAIN_DB):
            clients[database] = redis.Redis(
                unix_socket_path=str(server.socket_path), db=database, protocol=2
            )
            stack.callback(clients[database].close)
        plain = uvicorn_command("bench.plain:plain_app", ports[PLAIN])
        start(PLAIN, plain, **{REDIS_URL_VARIABLE: f"{url}{PLAIN_DB}"})

        # Only for as long as this section: others place their own.
        stack.callback(pin, os.getpid(), os.sched_getaffinity(0))
        client = clients[LIMITER_DB]
        info = client.info("server")
        for pid in (info["process_id"], os.getpid()):
            pin(pid, others)
        (keeper,) = children(pids[LIMITER])
        beside = {"Redis": info["process_id"], "the keeper": keeper}
        site = Site(
            own,
            server.socket_path,
            ports,
            pids,
            beside,
            client,
            clients[PLAIN_DB],
            [redis_name(info)],
        )
        answer = _post(site.url(LIMITER), json.loads(_prepared(site, LIMITER, "answer")))
        empty = uvicorn_command("bench.plain:empty_app", ports[EMPTY])
        start(EMPTY, empty, **{ANSWER_VARIABLE: answer.decode()})
        yield site
