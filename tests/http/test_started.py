"""What was started may be there already; otherwise it is waited for like anything else."""

from __future__ import annotations

import asyncio

import pytest

from limiter.http.started import Started


async def at_once() -> str:
    return "there"


async def test_what_is_there_needs_no_waiting() -> None:
    started = Started(at_once())
    assert (started.is_done, started.result) == (True, "there")


async def test_what_has_to_wait_goes_on_where_it_stood() -> None:
    steps: list[str] = []

    async def in_steps() -> str:
        steps.append("first")
        await asyncio.sleep(0)
        steps.append("second")
        await asyncio.sleep(0)
        return "there"

    started = Started(in_steps())
    assert (started.is_done, steps) == (False, ["first"])
    assert await started == "there"
    assert steps == ["first", "second"]


async def test_a_future_can_be_started_too() -> None:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    started = Started(future)
    assert not started.is_done
    future.set_result("there")
    assert await started == "there"


async def test_an_error_comes_when_it_is_raised() -> None:
    async def fails(*, later: bool) -> None:
        if later:
            await asyncio.sleep(0)
        raise LookupError

    with pytest.raises(LookupError):
        Started(fails(later=False))
    started = Started(fails(later=True))
    with pytest.raises(LookupError):
        await started


@pytest.mark.parametrize("answers", [False, True])
async def test_who_waits_is_told_of_a_cancellation(answers: bool) -> None:
    cleaned_up = asyncio.Event()

    async def waits() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cleaned_up.set()
            if answers:
                return "there all the same"
            raise
        return "never"

    async def run() -> str:
        return await Started(waits())

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    task.cancel()
    if answers:
        assert await task == "there all the same"
    else:
        with pytest.raises(asyncio.CancelledError):
            await task
    assert cleaned_up.is_set()
