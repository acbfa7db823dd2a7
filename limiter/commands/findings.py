"""What `limiter doctor` makes of what it saw: a finding each, with advice. It looks at nothing.

`fail`: limits may not hold, or calls are not answered. `warn`: they do and are, but somebody should
know.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

from limiter.commands.output import duration
from limiter.durable.examine import ExaminedContents, ExaminedStore
from limiter.periods import SECOND_MS
from limiter.redis.examine import Examined

Status = Literal["ok", "warn", "fail"]

_MEMORY_WARN_PERCENT, _MEMORY_FAIL_PERCENT = 75, 90
_DISK_WARN_BYTES, _DISK_FAIL_BYTES = 1 << 30, 100 << 20
_CLOCKS_APART_MS = 5 * SECOND_MS
_STEP_WARN_MS, _STEP_FAIL_MS = 1 * SECOND_MS, 60 * SECOND_MS
# An entry may wait for a pass or two; a busy moment is no backlog.
_WAIT_INTERVALS, _WAIT_MS_MIN = 10, 10 * SECOND_MS


class Finding(Struct, frozen=True, kw_only=True):
    """`advice` null where there is nothing to do."""

    check: str
    status: Status
    detail: str
    advice: str | None = None


def server_findings(name: str, seen: Examined, newest_stored_ms: int | None) -> Iterator[Finding]:
    """Of one server. `newest_stored_ms`: the latest moment of its clock that the ledger knows."""
    engine = f"{seen.info.engine.capitalize()} {seen.info.version}"
    yield Finding(check=name, status="ok", detail=f"{engine}, {seen.info.role}, noeviction")
    yield _persistence(name, seen)
    yield _memory(name, seen)
    yield _clock(name, seen, newest_stored_ms)


def _persistence(name: str, seen: Examined) -> Finding:
    check = f"{name} persistence"
    if seen.info.aof_enabled:
        if seen.append_only_file_ok:
            return Finding(check=check, status="ok", detail="append-only file")
        return Finding(
            check=check,
            status="fail",
            detail="the append-only file cannot be written",
            advice="free space on the server's disk, and look at its log",
        )
    if not seen.dump_ok:
        return Finding(
            check=check,
            status="fail",
            detail="the last dump failed, and the server may refuse to write for it",
            advice="free space on the server's disk, and look at its log",
        )
    return Finding(
        check=check,
        status="warn",
        detail="no append-only file",
        advice="after a restart counters are loaded from durable storage, which may lack the last "
        "snapshot interval: set `appendonly yes`, or LIMITER_DURABILITY=sync",
    )


def _memory(name: str, seen: Examined) -> Finding:
    check = f"{name} memory"
    bound = seen.bytes_max or seen.system_bytes
    if not bound:
        return Finding(check=check, status="ok", detail=f"{_size(seen.bytes_used)} used")
    percent = seen.bytes_used * 100 // bound
    of_what = "maxmemory" if seen.bytes_max else "the machine's memory"
    detail = f"{_size(seen.bytes_used)} used, {percent} % of {of_what} ({_size(bound)})"
    if percent < _MEMORY_WARN_PERCENT:
        return Finding(check=check, status="ok", detail=detail)
    return Finding(
        check=check,
        status="fail" if percent >= _MEMORY_FAIL_PERCENT else "warn",
        detail=detail,
        advice="when it is full, calls are answered by the outage policy: give it more, or let "
        "idle workspaces leave with LIMITER_IDLE_WORKSPACE_MS",
    )


def _clock(name: str, seen: Examined, newest_stored_ms: int | None) -> Finding:
    check = f"{name} clock"
    behind_ms = (newest_stored_ms or 0) - seen.clock_ms
    if behind_ms > _STEP_WARN_MS:
        return Finding(
            check=check,
            status="fail" if behind_ms > _STEP_FAIL_MS else "warn",
            detail=f"{duration(behind_ms)} behind the latest record: it has stepped back",
            advice="until it has caught up, no spend leaves a window: set the server's clock right",
        )
    apart_ms = abs(seen.ahead_ms)
    if apart_ms > _CLOCKS_APART_MS:
        side = "ahead of" if seen.ahead_ms > 0 else "behind"
        return Finding(
            check=check,
            status="warn",
            detail=f"{duration(apart_ms)} {side} this machine's",
            advice="the audit and records made while Redis is away are dated by this machine: let "
            "both follow the same time server",
        )
    return Finding(check=check, status="ok", detail="it agrees with this machine's")


# --------------------------------------------------------------------------- durable storage


def store_findings(seen: ExaminedStore) -> Iterator[Finding]:
    yield Finding(check="store", status="ok", detail=seen.engine)
    yield _migrations(seen)
    if seen.contents is not None:
        yield _dead_letters(seen.contents)
        yield _queued(seen.contents)
        yield _untold(seen.contents)


def _migrations(seen: ExaminedStore) -> Finding:
    if seen.is_newer:
        return Finding(
            check="migrations",
            status="fail",
            detail=f"at {seen.revision}, of a newer version of the program",
            advice="install that version: this one will not start on it",
        )
    if seen.revision != seen.expected:
        return Finding(
            check="migrations",
            status="warn",
            detail=f"at {seen.revision or 'nothing'}, {seen.expected} is expected",
            advice="make a backup; the service brings it there when it starts",
        )
    return Finding(check="migrations", status="ok", detail=f"at {seen.revision}")


def _dead_letters(seen: ExaminedContents) -> Finding:
    letter = seen.last_dead_letter
    if letter is None:
        return Finding(check="dead letters", status="ok", detail="none")
    return Finding(
        check="dead letters",
        status="warn",
        detail=f"{seen.dead_letters:,}, the latest for: {letter.reason[:200]}",
        advice="look into the table dead_letters, run `limiter verify`, and delete what is settled",
    )


def _queued(seen: ExaminedContents) -> Finding:
    if not seen.queued_records:
        return Finding(check="queued records", status="ok", detail="none")
    return Finding(
        check="queued records",
        status="warn",
        detail=f"{seen.queued_records:,} were taken while Redis was away, and it has not got them",
        advice="a running service tells Redis of them as soon as it is back",
    )


def _untold(seen: ExaminedContents) -> Finding:
    if not seen.untold_scopes:
        return Finding(check="limits", status="ok", detail="Redis was told of every change")
    return Finding(
        check="limits",
        status="warn",
        detail=f"Redis was not told of {seen.untold_scopes:,} that were changed",
        advice="a running service tells it at its next snapshot pass, or when it is back",
    )


def disk_finding(folder: str, free_bytes: int) -> Finding:
    detail = f"{_size(free_bytes)} free in {folder}"
    if free_bytes >= _DISK_WARN_BYTES:
        return Finding(check="disk", status="ok", detail=detail)
    return Finding(
        check="disk",
        status="fail" if free_bytes < _DISK_FAIL_BYTES else "warn",
        detail=detail,
        advice="durable storage and the append-only file grow here: make room",
    )


# --------------------------------------------------------------------------- the service


def backlog_finding(waiting: int, oldest_wait_ms: int | None, interval_ms: int) -> Finding:
    """Entries of the streams that durable storage does not have yet."""
    if oldest_wait_ms is None:
        return Finding(check="stream", status="ok", detail="durable storage has everything")
    detail = f"{waiting:,} not durable yet, the oldest for {duration(oldest_wait_ms)}"
    if oldest_wait_ms <= max(_WAIT_INTERVALS * interval_ms, _WAIT_MS_MIN):
        return Finding(check="stream", status="ok", detail=detail)
    return Finding(
        check="stream",
        status="warn",
        detail=detail,
        advice="start the service and look at its log, or run `limiter snapshot`",
    )


def service_finding(address: str, ready: dict[str, object] | None, interval_ms: int) -> Finding:
    """`ready`: what `GET /readyz` said; None: nobody answered there."""
    if ready is None:
        return Finding(
            check="service",
            status="warn",
            detail=f"nobody answers at {address}",
            advice="start it with `limiter serve`, or name its LIMITER_HOST and LIMITER_PORT",
        )
    age_ms = ready.get("snapshot_age_ms")
    detail = f"at {address}"
    if isinstance(age_ms, int):
        detail += f", last snapshot {duration(age_ms)} ago"
    if ready.get("ready") is not True:
        return Finding(
            check="service",
            status="fail",
            detail=f"{detail}: it is not ready",
            advice="it does not reach Redis or durable storage: look at its log",
        )
    if isinstance(age_ms, int) and age_ms > max(_WAIT_INTERVALS * interval_ms, _WAIT_MS_MIN):
        return Finding(
            check="service",
            status="warn",
            detail=detail,
            advice="snapshot passes fail or take long: look at its log",
        )
    return Finding(check="service", status="ok", detail=detail)


def access_finding(
    host: str, *, is_local: bool, demands_keys: bool, has_admin_key: bool | None
) -> Finding:
    """Who may call. `has_admin_key` None: durable storage does not say."""
    if demands_keys and has_admin_key is False:
        return Finding(
            check="access",
            status="fail",
            detail=f"callers on {host} need a key, and there is no admin key",
            advice="the service does not start: run `limiter keys create --role admin`",
        )
    if demands_keys:
        return Finding(check="access", status="ok", detail=f"callers on {host} need a key")
    if is_local:
        return Finding(check="access", status="ok", detail=f"no keys, on {host} alone")
    return Finding(
        check="access",
        status="warn",
        detail=f"callers on {host} need no key",
        advice="whoever reaches it may set every limit: take LIMITER_AUTH=off away",
    )


def _size(count: int) -> str:
    """In the largest unit of which there is at least one, rounded down."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count >= 1 << (10 * power):
            return f"{count >> (10 * power):,} {unit}"
    return f"{count} bytes"
