"""A model call with the async client, over HTTP and in process: all ways in and out of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from limiter.client import CallDenied, OnError
from limiter.errors import (
    ChatParentUnknown,
    InvalidRequest,
    ModelUnpriced,
    WorkspaceNotFound,
)
from limiter.models import CheckRequest, Denied, EstimateUsage, Recorded, Released
from tests.client.scene import Scene

MODEL = "gpt-4o-mini"


class Broken(Exception):
    """What a model's client raises when its stream breaks."""


async def test_what_is_admitted_is_held_and_then_recorded(scene: Scene) -> None:
    await scene.limit(1_000)
    async with scene.client.call(scene.workspace_id, "c1", 300) as call:
        assert await scene.spent_and_held() == (0, 300)
        assert not call.degraded
        assert call.admitted.reservation is not None
        assert call.admitted.reservation.id == call.reservation_id
        assert call.admitted.periods["hourly"].remaining_micros == 700
        call.cost(120)
    assert await scene.spent_and_held() == (120, 0)
    assert isinstance(call.settled, Recorded)
    assert (call.settled.charged_micros, call.settled.reservation_state) == (120, "held")
    assert call.unconfirmed is None
    assert (await scene.client.chat_usage(scene.workspace_id, "c1")).own_spent_micros == 120


async def test_tokens_are_held_and_recorded_by_the_model_of_the_estimate(scene: Scene) -> None:
    estimate = EstimateUsage(model=MODEL, input_tokens=10_000, max_output_tokens=10_000)
    async with scene.client.call(scene.workspace_id, usage=estimate) as call:
        _, held_micros = await scene.spent_and_held()
        assert call.admitted.reservation is not None
        assert call.admitted.reservation.held_micros == held_micros > 0
        call.usage(input_tokens=5_000, output_tokens=5_000)
    spent_micros, held_after_micros = await scene.spent_and_held()
    assert (spent_micros * 2, held_after_micros) == (held_micros, 0)


@pytest.mark.parametrize("said", ["cost", "usage"])
async def test_what_was_said_last_counts(scene: Scene, said: str) -> None:
    async with scene.client.call(scene.workspace_id, None, 100) as call:
        call.cost(10)
        call.usage(model=MODEL, input_tokens=1_000_000)
        if said == "cost":
            call.cost(30)
    spent_micros, held_micros = await scene.spent_and_held()
    assert held_micros == 0
    assert spent_micros == 30 if said == "cost" else spent_micros > 1_000


async def test_without_an_estimate_the_record_is_not_late(scene: Scene) -> None:
    async with scene.client.call(scene.workspace_id) as call:
        assert call.admitted.reservation is None
        call.cost(70)
    assert isinstance(call.settled, Recorded)
    assert not call.settled.late
    assert call.settled.event_id == call.reservation_id
    assert await scene.spent_and_held() == (70, 0)


async def test_a_denial_by_a_period_has_every_violation_and_when_it_fits(scene: Scene) -> None:
    await scene.limit(100)
    async with scene.client.call(scene.workspace_id, None, 80) as first:
        first.cost(60)
    with pytest.raises(CallDenied) as caught:
        async with scene.client.call(scene.workspace_id, None, 50):
            pytest.fail("the body of a denied call ran")
    error = caught.value
    (violation,) = error.violations
    assert (violation.period, violation.limit_micros, violation.spent_micros) == ("hourly", 100, 60)
    assert (error.scope, error.reason) == ("account_period", "limit_exceeded")
    assert error.retry_after_ms is not None
    assert 3_500_000 < error.retry_after_ms <= 3_630_000
    assert str(error) == (
        "a call of $0.00005 is denied: hourly limit $0.0001, spent $0.00006, held $0.00"
        f" (limit_exceeded); it fits from {error.denied.resets_at} on"
    )
    assert await scene.spent_and_held() == (60, 0)


async def test_a_denial_by_the_chats_tree_never_fits_by_waiting(scene: Scene) -> None:
    async with scene.client.call(scene.workspace_id, "root", 10, spend_limit_micros=100) as call:
        call.cost(10)
    with pytest.raises(CallDenied) as caught:
        async with scene.client.call(scene.workspace_id, "agent", 95, parent_chat_id="root"):
            pytest.fail("the body of a denied call ran")
    assert [(v.scope, v.chat_id) for v in caught.value.violations] == [("chat_lifetime", "root")]
    assert caught.value.retry_after_ms is None
    assert "chat root limit $0.0001" in str(caught.value)


async def test_a_denial_is_a_value_where_only_a_check_is_asked(scene: Scene) -> None:
    await scene.limit(0)
    request = CheckRequest(workspace_id=scene.workspace_id, estimate_micros=1)
    answer = await scene.client.check(request)
    assert isinstance(answer, Denied)
    assert answer.reason == "blocked"


@pytest.mark.parametrize("estimate_micros", [300, None])
async def test_a_body_that_raises_before_usage_gives_the_hold_back(
    scene: Scene, estimate_micros: int | None
) -> None:
    with pytest.raises(Broken):
        async with scene.client.call(scene.workspace_id, "c1", estimate_micros) as call:
            raise Broken
    assert await scene.spent_and_held() == (0, 0)
    if estimate_micros is None:
        assert call.settled is None
    else:
        assert isinstance(call.settled, Released)
        assert call.settled.released_micros == 300


async def test_a_body_that_raises_after_usage_is_recorded(scene: Scene) -> None:
    async def work() -> None:
        async with scene.client.call(scene.workspace_id, "c1", 300) as call:
            call.cost(40)
            raise Broken

    with pytest.raises(Broken):
        await work()
    assert await scene.spent_and_held() == (40, 0)


@pytest.mark.parametrize("raises", [True, False])
async def test_charge_estimate_charges_what_was_held_when_nothing_is_known(
    scene: Scene, raises: bool
) -> None:
    call = scene.client.call(scene.workspace_id, None, 300, on_error="charge_estimate")
    if raises:
        with pytest.raises(Broken):
            async with call:
                raise Broken
    else:
        async with call:
            pass
    assert await scene.spent_and_held() == (300, 0)


async def test_a_body_that_says_nothing_gives_the_hold_back(scene: Scene) -> None:
    async with scene.client.call(scene.workspace_id, None, 300):
        pass
    assert await scene.spent_and_held() == (0, 0)


async def test_a_stream_that_is_closed_early_records_what_it_said_last(scene: Scene) -> None:
    async def tokens() -> AsyncIterator[int]:
        async with scene.client.call(scene.workspace_id, None, 300) as call:
            for number in range(1, 100):
                call.cost(number)
                yield number

    stream = tokens()
    assert [await anext(stream) for _ in range(3)] == [1, 2, 3]
    assert await scene.spent_and_held() == (0, 300)
    await stream.aclose()  # type: ignore[attr-defined]
    assert await scene.spent_and_held() == (3, 0)


async def test_calls_inside_of_calls_are_each_on_their_own(scene: Scene) -> None:
    async with scene.client.call(scene.workspace_id, "c1", 300) as outer:
        async with scene.client.call(scene.workspace_id, "c2", 50, parent_chat_id="c1") as inner:
            inner.cost(20)
        assert await scene.spent_and_held() == (20, 300)
        outer.cost(100)
    assert await scene.spent_and_held() == (120, 0)
    tree = await scene.client.chat_usage(scene.workspace_id, "c1")
    assert (tree.own_spent_micros, tree.spent_micros) == (100, 120)


async def test_errors_of_the_limiter_are_its_own_classes(scene: Scene) -> None:
    with pytest.raises(ChatParentUnknown):
        async with scene.client.call(scene.workspace_id, "c", 1, parent_chat_id="nobody"):
            pytest.fail("the body of an impossible call ran")
    with pytest.raises(WorkspaceNotFound) as caught:
        await scene.client.usage("nobody-at-all")
    assert caught.value.workspace_id == "nobody-at-all"
    with pytest.raises(ModelUnpriced) as unpriced:
        async with scene.client.call(scene.workspace_id, None, 10) as call:
            call.usage(model="no-such-model", input_tokens=1)
    assert unpriced.value.model == "no-such-model"
    assert call.unconfirmed is not None


async def test_wrong_fields_are_named_before_anything_is_asked(scene: Scene) -> None:
    wrong: list[tuple[str, dict[str, object]]] = [
        ("workspace_id", {"workspace_id": "a b"}),
        ("estimate_micros", {"estimate_micros": -1}),
        ("estimate_micros", {"estimate_micros": 0.5}),
        ("chat_id", {"chat_id": ""}),
        ("hold_ms", {"hold_ms": 0}),
    ]
    for field, fields in wrong:
        with pytest.raises(InvalidRequest) as caught:
            scene.client.call(**{"workspace_id": scene.workspace_id, **fields})  # type: ignore[arg-type]
        assert caught.value.field == field
    async with scene.client.call(scene.workspace_id) as call:
        with pytest.raises(InvalidRequest, match="model"):
            call.usage(input_tokens=1)
        with pytest.raises(InvalidRequest, match="cache tokens"):
            call.usage(model=MODEL, input_tokens=1, cache_read_tokens=2)
        with pytest.raises(InvalidRequest, match="cost_micros"):
            call.cost(-1)
    with pytest.raises(InvalidRequest):
        await scene.client.usage("../config")
    assert await scene.spent_and_held() == (0, 0)


async def test_a_call_is_made_once_and_told_of_inside_of_its_block(scene: Scene) -> None:
    call = scene.client.call(scene.workspace_id, None, 10)
    with pytest.raises(RuntimeError, match="inside"):
        call.cost(1)
    with pytest.raises(RuntimeError, match="not been admitted"):
        _ = call.admitted
    async with call:
        call.cost(1)
    with pytest.raises(RuntimeError, match="inside"):
        call.cost(2)
    with pytest.raises(RuntimeError, match="made once"):
        async with call:
            pytest.fail("a call ran twice")
    assert await scene.spent_and_held() == (1, 0)


@pytest.mark.parametrize("on_error", ["release", "charge_estimate"])
async def test_what_the_provider_does_not_bill_is_given_back(
    scene: Scene, on_error: OnError
) -> None:
    async with scene.client.call(scene.workspace_id, None, 300, on_error=on_error) as call:
        call.cost(40)
        call.not_billed()
    assert isinstance(call.settled, Released)
    assert await scene.spent_and_held() == (0, 0)
    with pytest.raises(RuntimeError, match="inside of its block"):
        call.not_billed()
