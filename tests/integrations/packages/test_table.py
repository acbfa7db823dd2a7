"""What every integration holds and records: the table of docs/howto/integrations.md, run."""

from __future__ import annotations

from pathlib import Path

import pytest

from limiter.client import CallDenied
from tests.integrations.packages.faces import FACES, SYNC
from tests.integrations.packages.model import ANSWER, FAILS, PIECES, STOPS
from tests.integrations.packages.scene import (
    PLENTY_MICROS,
    PROMPT,
    TOO_LITTLE_MICROS,
    Face,
    Scene,
    cancelled_in,
)

# What LiteLLM does with pydantic while calls are under way, pydantic warns of.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Items? .* on TypedDict class:UserWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince211"),
]

PAGE = Path(__file__).parents[3] / "docs" / "howto" / "integrations.md"
CASES = ["allowed", "denied", "streamed", "cancelled mid-stream", "model error"]


async def outcome(scene: Scene, face_name: str, case: str) -> str:
    """Makes the call, and says what came of it as the page does."""
    scene.limit(TOO_LITTLE_MICROS if case == "denied" else PLENTY_MICROS)
    face = FACES[face_name](scene)
    match case:
        case "allowed":
            assert await face.answer(PROMPT) == ANSWER
        case "denied":
            return await denied(scene, face)
        case "streamed":
            assert "".join([piece async for piece in face.stream(PROMPT)]) == ANSWER
        case "cancelled mid-stream":
            await cancelled(face, is_sync=face_name in SYNC)
        case "model error":
            with pytest.raises(Exception, match="the model is ill"):
                await face.answer(f"{PROMPT} {FAILS}")
    assert len(scene.model.requests) == scene.checks == 1
    (held_micros,) = scene.held_micros
    assert held_micros > 0
    spent_micros = await scene.settled()
    return f"held {held_micros}, " + (f"recorded {spent_micros}" if spent_micros else "given back")


async def denied(scene: Scene, face: Face) -> str:
    for attempt in (face.answer(PROMPT), anext(face.stream(PROMPT))):
        with pytest.raises(CallDenied) as caught:
            await attempt
        (violation,) = caught.value.violations
        assert (violation.period, violation.limit_micros) == ("hourly", TOO_LITTLE_MICROS)
    assert scene.model.requests == []
    assert scene.checks == 2, "a check was repeated"
    assert await scene.settled() == 0
    return "not called"


async def cancelled(face: Face, *, is_sync: bool) -> None:
    stream = face.stream(f"{PROMPT} {STOPS}")
    if is_sync:
        # What waits in a thread cannot be cancelled: it stops reading.
        assert await anext(stream) == PIECES[0]
        await stream.aclose()
    else:
        await cancelled_in(stream)


def row(face_name: str) -> dict[str, str]:
    """What the page says."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    head = next(row for row in rows if row[0] == "integration")
    (cells,) = (row for row in rows if row[0] == face_name and len(row) == len(head))
    return dict(zip(head[1:], cells[1:], strict=True))


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("face_name", FACES)
async def test_the_page_says_what_happens(scene: Scene, face_name: str, case: str) -> None:
    assert await outcome(scene, face_name, case) == row(face_name)[case]


def test_the_page_has_every_integration_and_case() -> None:
    assert all(list(row(face_name)) == CASES for face_name in FACES)
