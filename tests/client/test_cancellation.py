"""Cancellation: the hold is recorded or given back, exactly once, and within bounds."""

from __future__ import annotations

import asyncio
import time

import pytest

from limiter.client import AsyncClient, NoAnswer, OnError
from limiter.models import CheckRequest, Released
from tests.client.scene import PATIENT, Gated, Scene, happened


@pytest.mark.parametrize(
    ("said_micros", "on_error", "spent_micros"),
    [(None, "release", 0), (40, "release", 40), (None, "charge_estimate", 300)],
)
async def test_in_its_body(
    scene: Scene, said_micros: int | None, on_error: OnError, spent_micros: int
) -> None:
    counted = Gated(scene.client)
    inside = asyncio.Event()

    async def work() -> None:
        client = AsyncClient(counted, **PATIENT)
        async with client.call(scene.workspace_id, "c1", 300, on_error=on_error) as call:
            if said_micros is not None:
                call.cost(said_micros)
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await happened(inside)
    assert await scene.spent_and_held() == (0, 300)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await scene.spent_and_held() == (spent_micros, 0)
    assert counted.calls == ["check", "release" if spent_micros == 0 else "record"]


async def test_by_a_timeout_around_it(scene: Scene) -> None:
    async def work() -> None:
        async with asyncio.timeout(None) as timeout:
            async with scene.client.call(scene.workspace_id, None, 300) as call:
                call.cost(25)
                timeout.reschedule(asyncio.get_running_loop().time())
                await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await work()
    assert await scene.spent_and_held() == (25, 0)


async def test_while_its_check_is_under_way_gives_back_what_it_holds(scene: Scene) -> None:
    gated = Gated(scene.client, "check")

    async def work() -> None:
        async with AsyncClient(gated, **PATIENT).call(
            scene.workspace_id, None, 300, on_error="charge_estimate"
        ):
            pytest.fail("the body of a cancelled call ran")

    task = asyncio.create_task(work())
    await happened(gated.reached)
    assert await scene.spent_and_held() == (0, 300)
    task.cancel()
    gated.open()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await scene.spent_and_held() == (0, 0)
    assert gated.calls == ["check", "release"]


async def test_while_a_check_that_is_denied_is_under_way_changes_nothing(scene: Scene) -> None:
    await scene.limit(0)
    gated = Gated(scene.client, "check")
    client = AsyncClient(gated, **PATIENT)
    task = asyncio.create_task(client.call(scene.workspace_id, None, 300).__aenter__())
    await happened(gated.reached)
    task.cancel()
    gated.open()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gated.calls == ["check"]


@pytest.mark.parametrize("outage_policy", ["allow", "deny"])
async def test_while_the_answer_to_its_check_is_lost_gives_back_what_it_holds(
    scene: Scene, outage_policy: str
) -> None:
    gated = Gated(scene.client, "check")
    client = AsyncClient(
        gated,
        outage_policy="allow" if outage_policy == "allow" else "deny",
        check_deadline_ms=1_000,
        settle_deadline_ms=20_000,
    )
    # The workspace is loaded, so that the check takes effect well before the deadline.
    await scene.client.check(CheckRequest(workspace_id=scene.workspace_id))
    task = asyncio.create_task(client.call(scene.workspace_id, None, 300).__aenter__())
    await happened(gated.reached)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await scene.spent_and_held() == (0, 0)
    assert gated.calls == ["check", "release"]


@pytest.mark.parametrize("said_micros", [40, None])
async def test_again_and_again_while_it_is_settled_changes_nothing(
    scene: Scene, said_micros: int | None
) -> None:
    gated = Gated(scene.client, "record", "release")
    inside = asyncio.Event()

    async def work() -> None:
        async with AsyncClient(gated, **PATIENT).call(scene.workspace_id, None, 300) as call:
            if said_micros is not None:
                call.cost(said_micros)
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await happened(inside)
    task.cancel()
    await happened(gated.reached)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    gated.open()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await scene.spent_and_held() == (said_micros or 0, 0)
    assert len(gated.calls) == 2


async def test_is_bounded_where_nobody_answers(scene: Scene) -> None:
    gated = Gated(scene.client, "release")
    client = AsyncClient(gated, check_deadline_ms=20_000, settle_deadline_ms=50)
    call = client.call(scene.workspace_id, None, 300)
    inside = asyncio.Event()

    async def work() -> None:
        async with call:
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await happened(inside)
    task.cancel()
    started_s = time.monotonic()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert time.monotonic() - started_s < 5
    assert call.unconfirmed is not None
    assert "not confirmed" in caught.value.__notes__[0]


async def test_after_the_body_keeps_the_error_of_the_record_as_its_cause(scene: Scene) -> None:
    gated = Gated(scene.client, "record")
    client = AsyncClient(
        gated, outage_policy="deny", check_deadline_ms=20_000, settle_deadline_ms=1_000
    )

    async def work() -> None:
        async with client.call(scene.workspace_id, None, 300) as call:
            call.cost(1)

    task = asyncio.create_task(work())
    await happened(gated.reached)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert isinstance(caught.value.__cause__, NoAnswer)


async def test_of_everything_at_the_end_of_a_program_gives_holds_back(scene: Scene) -> None:
    """As `asyncio.run` does on Ctrl-C: the main task is cancelled while the body waits."""
    answer = await scene.client.check(
        CheckRequest(workspace_id=scene.workspace_id, estimate_micros=1)
    )
    assert answer.allowed
    calls = [scene.client.call(scene.workspace_id, None, 10) for _ in range(20)]
    ready = asyncio.Semaphore(0)

    async def work(number: int) -> None:
        async with calls[number]:
            ready.release()
            await asyncio.Event().wait()

    async def program() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(len(calls)):
                group.create_task(work(number))

    task = asyncio.create_task(program())
    for _ in calls:
        await ready.acquire()
    assert await scene.spent_and_held() == (0, 201)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await scene.spent_and_held() == (0, 1)
    assert all(isinstance(call.settled, Released) for call in calls)
