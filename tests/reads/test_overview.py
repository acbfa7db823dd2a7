"""The list of all workspaces: in which order, with which figures, in which pages."""

from __future__ import annotations

import pytest

from limiter import overview
from limiter.models import CheckRequest, RecordRequest, WorkspacePatch
from limiter.overview import Overview
from limiter.periods import DAY_MS, HOUR_MS
from limiter.reads import Reads
from limiter.runtime import Parts
from limiter.views import WorkspaceRow
from tests.support.clock import START_MS, DrivenClock
from tests.support.keyspace import dump
from tests.support.redis_process import RedisProcess


async def workspace(parts: Parts, name: str, micros: int, **limits: int | None) -> None:
    await parts.limiter.configure(name, WorkspacePatch(budget_limits=dict(limits)))
    if micros:
        await parts.limiter.record(RecordRequest(workspace_id=name, cost_micros=micros))


async def build(parts: Parts) -> None:
    """One workspace of each kind; their order by closeness is `ORDER`."""
    await workspace(parts, "near", 89, hourly=1_000, monthly=100)
    await workspace(parts, "over", 150, hourly=100, daily=120)
    await workspace(parts, "free", 10**6)
    await workspace(parts, "shut", 0, weekly=0)
    await workspace(parts, "Idle", 0, daily=5)
    await workspace(parts, "held", 10, hourly=100)
    await parts.limiter.check(CheckRequest(workspace_id="held", estimate_micros=81))


ORDER = ["over", "shut", "held", "near", "Idle", "free"]


async def everything(
    source: Overview | Reads, limit: int, **how: object
) -> tuple[list[WorkspaceRow], bool]:
    """All rows, page by page, and whether every page was complete."""
    rows: list[WorkspaceRow] = []
    after, complete = None, True
    while True:
        if isinstance(source, Reads):
            page = await source.workspaces(limit=limit, after=after, **how)  # type: ignore[arg-type]
        else:
            page = await source.page(search=None, sort="closeness", limit=limit, after=after)
        assert len(page.rows) <= limit
        rows += page.rows
        complete = complete and page.complete
        if page.next is None:
            return rows, complete
        assert len(page.rows) == limit
        after = page.next


async def test_the_closest_come_first(parts: Parts, reads: Reads) -> None:
    await build(parts)
    page = await reads.workspaces()
    assert (page.next, page.complete) == (None, True)
    assert [row.workspace_id for row in page.rows] == ORDER
    by_id = {row.workspace_id: row for row in page.rows}
    assert by_id["over"] == WorkspaceRow(
        workspace_id="over",
        period="hourly",
        limit_micros=100,
        spent_micros=150,
        held_micros=0,
        share_percent=150,
        blocked=False,
        live=True,
    )
    near, shut, free, held = (by_id[name] for name in ("near", "shut", "free", "held"))
    assert (near.period, near.limit_micros, near.share_percent) == ("monthly", 100, 89)
    assert (shut.period, shut.limit_micros, shut.blocked) == ("weekly", 0, True)
    assert (free.period, free.limit_micros, free.share_percent) == ("monthly", None, None)
    assert free.spent_micros == 10**6
    assert (held.spent_micros, held.held_micros, held.share_percent) == (10, 81, 91)


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 6, 7])
async def test_pages_have_every_workspace_once(parts: Parts, reads: Reads, limit: int) -> None:
    await build(parts)
    rows, complete = await everything(reads, limit)
    assert ([row.workspace_id for row in rows], complete) == (ORDER, True)
    rows, complete = await everything(reads, limit, sort="name")
    assert ([row.workspace_id for row in rows], complete) == (sorted(ORDER), True)


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("e", ["over", "held", "near", "Idle", "free"]),
        ("ID", ["Idle"]),
        ("%", []),
        ("_", []),
        ("no one's", []),
        ("", ORDER),
    ],
)
async def test_a_search_finds_parts_of_ids(
    parts: Parts, reads: Reads, search: str, found: list[str]
) -> None:
    await build(parts)
    rows, complete = await everything(reads, 2, search=search)
    assert ([row.workspace_id for row in rows], complete) == (found, True)
    rows, _ = await everything(reads, 2, search=search, sort="name")
    assert [row.workspace_id for row in rows] == sorted(found)


async def test_what_left_its_window_does_not_count_and_nothing_is_changed(
    parts: Parts, reads: Reads, clock: DrivenClock, redis_server: RedisProcess
) -> None:
    await build(parts)
    clock.advance(2 * HOUR_MS)
    before = dump(redis_server.client)
    rows = {row.workspace_id: row for row in (await reads.workspaces()).rows}
    assert (rows["over"].period, rows["over"].share_percent) == ("daily", 125)
    assert (rows["held"].spent_micros, rows["held"].held_micros) == (0, 0)
    assert dump(redis_server.client) == before


async def test_cold_workspaces_are_shown_as_durable_storage_has_them(
    parts: Parts, reads: Reads, clock: DrivenClock, redis_server: RedisProcess
) -> None:
    await build(parts)
    live = (await reads.workspaces()).rows
    await parts.snapshot.run_once()
    now_ms = clock.now_ms
    redis_server.client.flushall()
    clock.set(now_ms)
    (_, kept, *_) = live
    await parts.limiter.usage(kept.workspace_id)  # this one is in Redis again
    before = dump(redis_server.client)
    rows = (await reads.workspaces()).rows
    assert [row.workspace_id for row in rows if row.live] == [kept.workspace_id]
    unmarked = [{**as_dict(row), "live": None} for row in rows]
    assert unmarked == [{**as_dict(row), "live": None} for row in live]
    assert dump(redis_server.client) == before
    clock.advance(2 * HOUR_MS)
    later = {row.workspace_id: row for row in (await reads.workspaces()).rows}
    assert (later["over"].period, later["over"].spent_micros) == ("daily", 150)
    assert (later["held"].spent_micros, later["held"].held_micros) == (0, 0)
    assert now_ms - START_MS < DAY_MS


def as_dict(row: WorkspaceRow) -> dict[str, object]:
    return {name: getattr(row, name) for name in row.__struct_fields__}


class Stopwatch:
    """Time passes only when it is looked at."""

    def __init__(self, step_s: float) -> None:
        self.now_s = 100.0
        self.step_s = step_s

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if six workspaces were many."""
    monkeypatch.setattr(overview, "LIVE_MAX", 3)
    monkeypatch.setattr(overview, "LOOK_BATCH", 2)
    monkeypatch.setattr(overview, "RANKED_MAX", 100)


@pytest.mark.usefixtures("few")
async def test_where_there_are_many_the_order_is_kept_for_a_while(parts: Parts) -> None:
    await build(parts)
    stopwatch = Stopwatch(0.001)
    view = Overview(parts.redis, parts.storage, monotonic_s=stopwatch)
    for limit in (2, 4, 9):
        rows, complete = await everything(view, limit)
        assert ([row.workspace_id for row in rows], complete) == (ORDER, True)
    await parts.limiter.record(RecordRequest(workspace_id="free", cost_micros=5))
    await workspace(parts, "new", 99, hourly=10)
    rows, _ = await everything(view, 9)
    assert [row.workspace_id for row in rows] == ORDER
    assert rows[-1].spent_micros == 10**6 + 5  # the figures are those of this moment
    stopwatch.now_s += 60
    rows, complete = await everything(view, 9)
    assert ([row.workspace_id for row in rows], complete) == (["new", *ORDER], True)


@pytest.mark.usefixtures("few")
async def test_before_there_is_an_order_what_was_seen_is_shown(parts: Parts) -> None:
    await build(parts)
    view = Overview(parts.redis, parts.storage, monotonic_s=Stopwatch(overview.FIRST_S_MAX))
    seen = []
    for _ in range(4):
        page = await view.page(search=None, sort="closeness", limit=9, after=None)
        seen.append((len(page.rows), page.complete))
    assert seen == [(2, False), (4, False), (6, False), (6, True)]


@pytest.mark.usefixtures("few")
async def test_a_search_among_many_considers_the_first_ones(parts: Parts, reads: Reads) -> None:
    await build(parts)
    page = await reads.workspaces(search="e")
    assert [row.workspace_id for row in page.rows] == ["held", "Idle", "free"]
    assert not page.complete


async def test_only_the_closest_are_kept(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "LIVE_MAX", 1)
    monkeypatch.setattr(overview, "LOOK_BATCH", 2)
    monkeypatch.setattr(overview, "RANKED_MAX", 2)
    await build(parts)
    view = Overview(parts.redis, parts.storage)
    rows, _ = await everything(view, 1)
    assert [row.workspace_id for row in rows] == ORDER[:2]
