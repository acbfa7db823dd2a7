"""Ways in and out of a call that the table of the page has no room for."""

from __future__ import annotations

import asyncio
from typing import Any

import litellm
import openai
import pytest

from limiter.client import AsyncClient, CallDenied, NoAnswer
from limiter.client.integrations import Payer, paid_by
from limiter.client.integrations.anthropic import AsyncAnthropicTransport
from limiter.client.integrations.openai import AsyncOpenAITransport
from tests.integrations.packages.faces import (
    FACES,
    KEY,
    AnthropicMessages,
    LiteLLM,
    OpenAIChat,
    OpenAISync,
)
from tests.integrations.packages.model import (
    ANSWER,
    BREAKS,
    FAILS,
    OPENAI_MICROS,
    OPENAI_MODEL,
    STOPS,
)
from tests.integrations.packages.scene import (
    PLENTY_MICROS,
    PROMPT,
    TOO_LITTLE_MICROS,
    Face,
    Scene,
    cancelled_in,
    until,
)
from tests.support.service import free_port

# What LiteLLM does with pydantic while calls are under way, pydantic warns of.
pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.filterwarnings("ignore:Items? .* on TypedDict class:UserWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince211"),
]

MESSAGES: Any = [{"role": "user", "content": PROMPT}]
IN_SDK_AND_LITELLM = ["OpenAI SDK, chat completions", "Anthropic SDK", "LiteLLM, library"]


@pytest.mark.parametrize("face_name", [*IN_SDK_AND_LITELLM, "pydantic-ai, OpenAI"])
async def test_cancelled_before_the_answer_is_charged(scene: Scene, face_name: str) -> None:
    scene.limit(PLENTY_MICROS)
    task = asyncio.create_task(FACES[face_name](scene).answer(f"{PROMPT} {STOPS}"))
    await until(lambda: bool(scene.held_micros))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [await scene.settled()] == scene.held_micros


@pytest.mark.parametrize("face_name", sorted(FACES))
async def test_a_stream_that_breaks_is_charged(scene: Scene, face_name: str) -> None:
    scene.limit(PLENTY_MICROS)
    with pytest.raises(Exception, match=r"(?i)peer|closed|connection|disconnected|read"):
        [piece async for piece in FACES[face_name](scene).stream(f"{PROMPT} {BREAKS}")]
    assert len(scene.model.requests) == 1
    assert [await scene.settled()] == scene.held_micros


async def test_what_never_reached_the_model_is_given_back(scene: Scene) -> None:
    scene.limit(PLENTY_MICROS)
    transport = AsyncOpenAITransport(scene.async_client(), scene.workspace_id)
    http = openai.DefaultAsyncHttpxClient(transport=transport)
    async with openai.AsyncOpenAI(
        api_key=KEY,
        base_url=f"http://127.0.0.1:{free_port()}/v1",
        http_client=http,
        max_retries=1,
    ) as client:
        with pytest.raises(openai.APIConnectionError):
            await client.chat.completions.create(model=OPENAI_MODEL, messages=MESSAGES)
    assert scene.checks == 2, "each attempt is a call of its own"
    assert await scene.settled() == 0


async def test_released_on_error_is_what_was_told_so_far(scene: Scene) -> None:
    scene.limit(PLENTY_MICROS)
    face = AnthropicMessages(scene, on_error="release")
    await cancelled_in(face.stream(f"{PROMPT} {STOPS}"))
    # Twelve tokens of input, and the one of output that the beginning of a stream tells.
    assert await scene.settled() == 12 + 5


async def test_usage_that_was_asked_for_comes_through(scene: Scene) -> None:
    scene.limit(PLENTY_MICROS)
    stream = await OpenAIChat(scene).client.chat.completions.create(
        model=OPENAI_MODEL,
        messages=MESSAGES,
        max_tokens=100,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].usage is not None
    assert chunks[-1].choices == []
    assert await scene.settled() == OPENAI_MICROS


async def test_without_being_asked_usage_is_asked_for_and_kept(scene: Scene) -> None:
    scene.limit(PLENTY_MICROS)
    stream = await OpenAIChat(scene).client.chat.completions.create(
        model=OPENAI_MODEL, messages=MESSAGES, max_tokens=100, stream=True
    )
    assert all([chunk.choices async for chunk in stream])
    ((_, body),) = scene.model.requests
    assert body["stream_options"] == {"include_usage": True}
    assert await scene.settled() == OPENAI_MICROS


@pytest.mark.parametrize("face", [OpenAIChat, OpenAISync, LiteLLM])
async def test_paid_by_names_the_chat_of_a_block(scene: Scene, face: Any) -> None:
    scene.limit(PLENTY_MICROS)
    asks = face(scene)
    with paid_by(scene.workspace_id, "root"):
        await asks.answer(PROMPT)
    with paid_by(scene.workspace_id, "sub", parent_chat_id="root"):
        await asyncio.create_task(asks.answer(PROMPT))
    await asks.answer(PROMPT)
    assert await scene.settled() == 3 * OPENAI_MICROS
    root = scene.service.get(f"/usage/workspaces/{scene.workspace_id}/chats/root").body
    assert (root["spent_micros"], root["own_spent_micros"]) == (2 * OPENAI_MICROS, OPENAI_MICROS)
    assert root["children"] == ["sub"]


async def test_a_limiter_that_is_away_is_not_taken_for_the_model(scene: Scene) -> None:
    async with AsyncClient(
        f"http://127.0.0.1:{free_port()}", outage_policy="deny", check_deadline_ms=300
    ) as limiter:
        faces: list[Face] = [
            OpenAIChat(scene, AsyncOpenAITransport(limiter, scene.workspace_id)),
            AnthropicMessages(scene, AsyncAnthropicTransport(limiter, scene.workspace_id)),
        ]
        for face in faces:
            with pytest.raises(NoAnswer):
                await face.answer(PROMPT)
    assert scene.model.requests == []


# --------------------------------------------------------------------- LiteLLM's own repeats


async def test_litellm_repeats_no_denial(scene: Scene) -> None:
    scene.limit(TOO_LITTLE_MICROS)
    face = LiteLLM(scene, num_retries=3)
    with pytest.raises(CallDenied):
        await face.answer(PROMPT)
    assert (scene.checks, scene.model.requests) == (1, [])


async def test_litellm_repeats_no_call_past_the_limiter(scene: Scene) -> None:
    scene.limit(PLENTY_MICROS)
    with pytest.raises(litellm.InternalServerError, match="the model is ill"):
        await LiteLLM(scene, num_retries=3).answer(f"{PROMPT} {FAILS}")
    assert scene.checks == len(scene.model.requests) == 1
    assert await scene.settled() == 0


async def test_litellms_router_takes_a_denial_to_no_other_model(scene: Scene) -> None:
    scene.limit(TOO_LITTLE_MICROS)
    options = LiteLLM(scene).options
    deployments: Any = [
        {"model_name": name, "litellm_params": dict(options)} for name in ("first", "second")
    ]
    router = litellm.Router(
        model_list=deployments, fallbacks=[{"first": ["second"]}], num_retries=3
    )
    for _ in range(2):
        with pytest.raises(CallDenied):
            await router.acompletion(model="first", messages=MESSAGES)
    assert (scene.checks, scene.model.requests) == (2, [])
    # A denial is no reason to leave a deployment alone for a while, either.
    scene.limit(PLENTY_MICROS)
    answer = await router.acompletion(model="first", messages=MESSAGES)
    assert answer.choices[0].message.content == ANSWER
    assert await scene.settled() == OPENAI_MICROS


async def test_litellms_payer_may_come_from_the_metadata(scene: Scene) -> None:
    scene.limit(PLENTY_MICROS)

    def payer_of(metadata: Any) -> Payer:
        return Payer(metadata["team"], "c1")

    face = LiteLLM(scene, payer_of=payer_of, workspace_id="nobody")
    await litellm.acompletion(
        messages=MESSAGES, metadata={"team": scene.workspace_id}, **face.options
    )
    assert await scene.settled() == OPENAI_MICROS
    assert scene.service.get("/usage/workspaces/nobody").status == 404


async def test_a_sync_call_of_litellm_is_not_limited_and_says_so(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.limit(TOO_LITTLE_MICROS)
    litellm.completion(messages=MESSAGES, **LiteLLM(scene).options)
    await until(lambda: "a sync call of LiteLLM was not limited" in caplog.text)
    assert scene.checks == 0


async def test_messages_that_are_litellms_own_are_bounded_as_text(scene: Scene) -> None:
    scene.limit(PLENTY_MICROS)
    options = LiteLLM(scene).options
    for content in ["short", "long " * 1_000]:
        message = litellm.Message(role="assistant", content=content)
        await litellm.acompletion(messages=[*MESSAGES, message], **options)
    # A dollar buys less than seven million tokens of this model's input.
    assert scene.held_micros[1] - scene.held_micros[0] >= 5_000 // 7
