"""`limiter doctor`: looks at every part that the service stands on, and says what to do.

It repairs nothing and applies no migration. Where the embedded server does not run, it is started
for the look and ended again, as all commands do.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import shutil
from collections.abc import AsyncIterator

from rich.console import Console
from rich.text import Text

from limiter.commands import findings
from limiter.commands.data import DEADLINE_MS
from limiter.commands.findings import Finding
from limiter.commands.output import Cell, print_table
from limiter.durable.examine import ExaminedStore
from limiter.durable.examine import examine as examine_store
from limiter.errors import LimiterError, RedisUnavailable, StartupError
from limiter.metrics import Metrics
from limiter.redis.cluster import open_link
from limiter.redis.embedded import EmbeddedServer, embedded_url, running_url
from limiter.redis.examine import examine as examine_server
from limiter.redis.keys import Keys
from limiter.redis.scripts import bundled_scripts
from limiter.redis.server import Link
from limiter.redis.stream import LedgerStreams
from limiter.runtime import database_path, database_url
from limiter.settings import Settings

_SERVICE_MS_MAX = 2_000
_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


async def doctor(settings: Settings) -> list[Finding]:
    """Every finding, in the order in which things depend on each other. It raises nothing."""
    found: list[Finding] = []
    store = await _store(settings, found)
    contents = None if store is None else store.contents
    await _redis(settings, found, None if contents is None else contents.clock_ms)
    if settings.database_url is None or settings.redis_url is None:
        with contextlib.suppress(FileNotFoundError):
            free_bytes = shutil.disk_usage(settings.data_dir).free
            found.append(findings.disk_finding(str(settings.data_dir), free_bytes))
    address = f"{_host_to_ask(settings.host)}:{settings.port}"
    ready = await asyncio.to_thread(_ready, _host_to_ask(settings.host), settings.port)
    found.append(findings.service_finding(address, ready, settings.snapshot_interval_ms))
    found.append(
        findings.access_finding(
            settings.host,
            is_local=settings.is_local,
            demands_keys=settings.demands_keys,
            has_admin_key=None if contents is None else contents.has_admin_key,
        )
    )
    return found


def is_healthy(found: list[Finding]) -> bool:
    return all(finding.status != "fail" for finding in found)


def show_findings(console: Console, found: list[Finding]) -> None:
    """On a terminal the advice follows what it is about."""
    if not console.is_terminal:
        lines = [[one.status, one.check, one.detail, one.advice or ""] for one in found]
        print_table(console, ["status", "check", "detail", "advice"], lines)
        return
    rows: list[list[Cell]] = [
        [
            Text(one.status, style=_STYLES[one.status]),
            one.check,
            Text(one.detail) if one.advice is None else Text(f"{one.detail}: {one.advice}"),
        ]
        for one in found
    ]
    print_table(console, ["status", "check", "detail"], rows)


async def _store(settings: Settings, found: list[Finding]) -> ExaminedStore | None:
    path = database_path(settings)
    if path is not None and not path.is_file():
        advice = "it is made when the service starts; is LIMITER_DATA_DIR the service's own?"
        detail = f"there is none yet in {settings.data_dir}"
        found.append(Finding(check="store", status="warn", detail=detail, advice=advice))
        return None
    try:
        seen = await examine_store(database_url(settings))
    except LimiterError as error:
        advice = "records wait in Redis meanwhile: look at the database and its disk"
        found.append(Finding(check="store", status="fail", detail=str(error), advice=advice))
        return None
    found.extend(findings.store_findings(seen))
    return seen


async def _redis(settings: Settings, found: list[Finding], newest_stored_ms: int | None) -> None:
    if settings.redis_url is None and embedded_url(settings.data_dir) is None:
        detail = f"no embedded server ever ran in {settings.data_dir}"
        advice = "`limiter serve` starts one; is LIMITER_DATA_DIR the service's own?"
        found.append(Finding(check="redis", status="warn", detail=detail, advice=advice))
        return
    try:
        async with _open_redis(settings) as link:
            await _servers(link, found, newest_stored_ms)
            await _backlog(link, settings, found)
    except RedisUnavailable as error:
        advice = "calls are answered by the outage policy until it is back"
        found.append(Finding(check="redis", status="fail", detail=str(error), advice=advice))
    except StartupError as error:
        advice = "the service refuses to start, or to count on it, like this"
        found.append(Finding(check="redis", status="fail", detail=str(error), advice=advice))


async def _servers(link: Link, found: list[Finding], newest_stored_ms: int | None) -> None:
    clients = link.clients()
    for number, client in enumerate(clients, start=1):
        name = "redis" if len(clients) == 1 else f"redis {number} of {len(clients)}"
        seen = await examine_server(client)
        found.extend(findings.server_findings(name, seen, newest_stored_ms))


async def _backlog(link: Link, settings: Settings, found: list[Finding]) -> None:
    streams = LedgerStreams(link.client, Keys(settings.partitions), deadline_ms=DEADLINE_MS)
    waiting = {part: count for part, count in (await streams.waiting()).items() if count}
    oldest = [at for part in waiting if (at := await streams.oldest_ms(part)) is not None]
    oldest_wait_ms = None
    if oldest:
        # By the same clock that dated them.
        seen = await examine_server(link.clients()[0])
        oldest_wait_ms = max(0, seen.clock_ms - min(oldest))
    found.append(
        findings.backlog_finding(
            sum(waiting.values()), oldest_wait_ms, settings.snapshot_interval_ms
        )
    )


@contextlib.asynccontextmanager
async def _open_redis(settings: Settings) -> AsyncIterator[Link]:
    """The server that is set, the embedded one that runs, or one that is started for this."""
    patient = settings.model_copy(
        update={"redis_deadline_ms": DEADLINE_MS, "redis_connect_ms": DEADLINE_MS}
    )
    async with contextlib.AsyncExitStack() as stack:
        if settings.redis_url is not None:
            url = settings.redis_url.get_secret_value()
        else:
            running = await asyncio.to_thread(running_url, settings.data_dir)
            if running is None:
                server = EmbeddedServer(settings.data_dir, settings.redis_binary)
                running = await asyncio.to_thread(server.start)
                stack.push_async_callback(asyncio.to_thread, server.stop)
            url = running
        link = open_link(url, patient, bundled_scripts(), Metrics())
        stack.push_async_callback(link.close)
        await link.verify()
        yield link


def _ready(host: str, port: int) -> dict[str, object] | None:
    """What the service says of itself; None if nobody does."""
    connection = http.client.HTTPConnection(host, port, timeout=_SERVICE_MS_MAX / 1_000)
    try:
        connection.request("GET", "/readyz")
        body = json.loads(connection.getresponse().read(65_536))
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return body if isinstance(body, dict) else None


def _host_to_ask(host: str) -> str:
    """A service that listens everywhere is asked on this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
