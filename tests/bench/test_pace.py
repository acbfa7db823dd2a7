"""The steady pace: every call once, in its turn, and none begins before it is due."""

from __future__ import annotations

import time

from bench.pace import steady_pace


async def test_every_call_is_made_once_and_followed_by_its_second() -> None:
    began: list[float] = []
    calls: list[tuple[str, int]] = []

    async def first(number: int) -> None:
        began.append(time.perf_counter())
        calls.append(("first", number))

    async def then(number: int) -> None:
        calls.append(("then", number))

    started_at = time.perf_counter()
    latencies_ms = await steady_pace(first, then, per_second=1_000, count=50, callers=4)
    assert len(latencies_ms) == 50
    assert sorted(calls) == [(kind, n) for kind in ("first", "then") for n in range(50)]
    assert all(calls.index(("first", n)) < calls.index(("then", n)) for n in range(50))
    # The last is due after 49 ms; timers may be early by what their clock rounds away.
    assert max(began) - started_at >= 0.047


async def test_a_call_that_a_busy_loop_held_up_counts_from_when_it_was_due() -> None:
    async def hogs(number: int) -> None:
        if number == 0:
            time.sleep(0.05)  # noqa: ASYNC251 - the loop is to be held up

    async def nothing(number: int) -> None:
        pass

    latencies_ms = await steady_pace(hogs, nothing, per_second=1_000, count=2, callers=2)
    assert min(latencies_ms) >= 40
