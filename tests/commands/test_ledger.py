"""`limiter ledger`: a workspace's charges, all of them, in two shapes, and between two moments."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from limiter.commands.ledger import COLUMNS, ledger, moment_ms
from limiter.commands.snapshot import snapshot
from limiter.durable.storage import PAGE_ROWS
from limiter.errors import InvalidRequest, StartupError, WorkspaceNotFound
from limiter.models import RecordRequest, RecordUsage, iso_ms
from limiter.runtime import open_parts
from limiter.settings import Settings
from tests.commands.scene import build


async def printed(
    settings: Settings,
    workspace_id: str = "acme",
    *,
    since_ms: int = 0,
    until_ms: int | None = None,
    as_json: bool,
) -> str:
    out = io.StringIO()
    await ledger(settings, workspace_id, out, since_ms=since_ms, until_ms=until_ms, as_json=as_json)
    return out.getvalue()


async def json_rows(settings: Settings, **between: Any) -> list[dict[str, Any]]:
    text = await printed(settings, as_json=True, **between)
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
async def data(settings: Settings) -> Settings:
    async with open_parts(settings) as parts:
        await build(parts.limiter)
        await parts.limiter.record(
            RecordRequest(
                workspace_id="acme",
                event_id="priced",
                usage=RecordUsage(model="gpt-4o", input_tokens=1_000, output_tokens=10),
            )
        )
    await snapshot(settings)
    return settings


async def test_json_is_an_object_a_line_with_every_field(data: Settings) -> None:
    rows = await json_rows(data)
    assert [row["event_id"] for row in rows][:3] == ["e0", "e1", "e2"]
    assert {tuple(row) for row in rows} == {COLUMNS}
    first = rows[0]
    assert first == {
        "at": iso_ms(first["at_ms"]),
        "at_ms": first["at_ms"],
        "event_id": "e0",
        "charged_micros": 10,
        "chat_id": "c1",
        "reservation_id": None,
        "reservation_state": None,
        "late": False,
        "expiry": False,
        "source": None,
        "total_micros": None,
        "sequence": None,
        "priced": True,
        "applied": True,
        "data": None,
    }
    by_id = {row["event_id"]: row for row in rows}
    assert by_id["late"]["reservation_id"] == "r3"
    assert by_id["late"]["reservation_state"] == "held"
    assert by_id["priced"]["data"]["model"] == "gpt-4o"
    (reported,) = [row for row in rows if row["source"] == "worker"]
    assert (reported["total_micros"], reported["charged_micros"]) == (3, 3)


async def test_csv_says_the_same(data: Settings) -> None:
    rows = list(csv.DictReader(io.StringIO(await printed(data, as_json=False))))
    assert tuple(rows[0]) == COLUMNS
    for row, other in zip(rows, await json_rows(data), strict=True):
        for name, text in row.items():
            value = other[name]
            if name == "data" and text:
                assert json.loads(text) == value
            elif isinstance(value, bool):
                assert text == str(value).lower()
            else:
                assert text == ("" if value is None else str(value))


async def test_since_is_within_and_until_is_not(data: Settings) -> None:
    rows = await json_rows(data)
    moments = [row["at_ms"] for row in rows]
    since_ms, until_ms = moments[2], moments[-1]
    between = await json_rows(data, since_ms=since_ms, until_ms=until_ms)
    wanted = [row for row in rows if since_ms <= row["at_ms"] < until_ms]
    assert between == wanted
    assert len(wanted) < len(rows)


async def test_more_rows_than_a_page_come_once_each(settings: Settings) -> None:
    count = PAGE_ROWS + 5
    async with open_parts(settings) as parts:
        for number in range(count):
            await parts.limiter.record(
                RecordRequest(workspace_id="acme", event_id=f"e{number}", cost_micros=1)
            )
    await snapshot(settings)
    assert [row["event_id"] for row in await json_rows(settings)] == [
        f"e{number}" for number in range(count)
    ]


async def test_an_unknown_workspace_and_a_bad_id_are_errors(data: Settings) -> None:
    with pytest.raises(WorkspaceNotFound):
        await printed(data, "nobody", as_json=True)
    with pytest.raises(InvalidRequest):
        await printed(data, "a:b", as_json=True)


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [
        ("2026-11-22", 1_795_305_600_000),
        ("2026-11-22T08:00", 1_795_334_400_000),
        ("2026-11-22T08:00:00Z", 1_795_334_400_000),
        ("2026-11-22T09:00:00.250+01:00", 1_795_334_400_250),
        ("1795334400250", 1_795_334_400_250),
        ("1970-01-01", 0),
    ],
)
def test_moments(text: str, at_ms: int) -> None:
    assert moment_ms(text, "--since") == at_ms


@pytest.mark.parametrize("text", ["", "yesterday", "-5", "2026-13-01", "١٧٩٥٣٣٤٤٠٠٢٥٠"])
def test_what_is_no_moment_is_refused_by_name(text: str) -> None:
    with pytest.raises(StartupError, match=r"^--since must be"):
        moment_ms(text, "--since")
