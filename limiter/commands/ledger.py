"""`limiter ledger`: a workspace's charges as CSV or as a JSON object a line, as they come."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, TextIO

import msgspec

from limiter.commands.data import open_storage
from limiter.durable import LedgerRow
from limiter.errors import StartupError, WorkspaceNotFound
from limiter.models import iso_ms
from limiter.redis.keys import require_id
from limiter.settings import Settings

COLUMNS = (
    "at",
    "at_ms",
    "event_id",
    "charged_micros",
    "chat_id",
    "reservation_id",
    "reservation_state",
    "late",
    "expiry",
    "source",
    "total_micros",
    "sequence",
    "priced",
    "applied",
    "data",
)

_encode = msgspec.json.Encoder().encode


def moment_ms(text: str, option: str) -> int:
    """Milliseconds since 1970 of an ISO 8601 date or time, in UTC unless it says otherwise, or of
    such a number itself. Raises StartupError naming the option.
    """
    if text.isascii() and text.isdigit() and len(text) > 8:
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise StartupError(
            f"{option} must be a date or time such as 2026-11-22 or 2026-11-22T08:00:00Z, or "
            "milliseconds since 1970"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


async def ledger(
    settings: Settings,
    workspace_id: str,
    out: TextIO,
    *,
    since_ms: int,
    until_ms: int | None,
    as_json: bool,
) -> None:
    """Writes the charges from `since_ms` to before `until_ms`, oldest first, to `out`.

    What still lies in Redis' stream is not in the ledger yet. Raises WorkspaceNotFound,
    StartupError, StoreUnavailable.
    """
    require_id(workspace_id, "workspace_id")
    async with open_storage(settings) as storage:
        if not await storage.has_workspace(workspace_id):
            raise WorkspaceNotFound(workspace_id)
        write = _json_writer(out) if as_json else _csv_writer(out)
        async for row in storage.ledger_rows(workspace_id, since_ms, until_ms):
            write(row)


def _json_writer(out: TextIO) -> Callable[[LedgerRow], None]:
    def write(row: LedgerRow) -> None:
        fields = _fields(row)
        if row.data is not None:
            fields["data"] = msgspec.Raw(row.data.encode())
        out.write(_encode(fields).decode() + "\n")

    return write


def _csv_writer(out: TextIO) -> Callable[[LedgerRow], None]:
    rows = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    rows.writeheader()

    def write(row: LedgerRow) -> None:
        rows.writerow({name: _csv_text(value) for name, value in _fields(row).items()})

    return write


def _fields(row: LedgerRow) -> dict[str, Any]:
    values: Iterable[Any] = (
        iso_ms(row.at_ms),
        row.at_ms,
        row.event_id,
        row.charged_micros,
        row.chat_id,
        row.reservation_id,
        row.reservation_state,
        row.late,
        row.is_expiry,
        row.source,
        row.total_micros,
        row.sequence,
        row.priced,
        row.applied,
        row.data,
    )
    return dict(zip(COLUMNS, values, strict=True))


def _csv_text(value: Any) -> Any:
    """Booleans as JSON has them; None is an empty field."""
    return str(value).lower() if isinstance(value, bool) else value
