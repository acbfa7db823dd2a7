"""What the integrations share, and needs no package of theirs: bounds, billing, reading."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pydantic
import pytest

from limiter.client.errors import NoAnswer
from limiter.client.integrations import Bounds, Payer, paid_by
from limiter.client.integrations.billing import is_billed, passed_on
from limiter.client.integrations.payer import current_payer
from limiter.client.integrations.wire import Planned, Reader, Told
from limiter.errors import ModelUnpriced
from limiter.models import EstimateUsage, RecordUsage


def user(content: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": content}]


class Refused(Exception):
    status_code = 429


class ConnectError(Exception):
    """Named as those of httpx, httpx2 and aiohttp are."""


class Dialect:
    """Tells usage as `{"usage": {"output": n}}`, and hides what says so."""

    def plan(self, path: str, body: Mapping[str, Any]) -> Planned | None:
        raise AssertionError("a reader plans nothing")

    def answer(self, planned: Planned, body: Any, before: RecordUsage | None) -> Told | None:
        so_far = 0 if before is None else before.output_tokens
        usage = RecordUsage(model="m", output_tokens=so_far + body["usage"]["output"])
        return Told(usage, hide=bool(body.get("hide")))


def reader(content_type: str) -> Reader:
    usage = EstimateUsage(model="m", input_tokens=1, max_output_tokens=1)
    return Reader(Dialect(), Planned(usage), content_type)


# ---------------------------------------------------------------------- bounds


@pytest.mark.parametrize("text", ["hello", "Ünïcödé", "日本語", "🙂🙂", '"quoted"\n', ""])
def test_a_token_of_text_is_at_least_a_byte(text: str) -> None:
    assert Bounds().input_tokens(user(text)) >= len(text.encode())
    assert Bounds().input_tokens(user([{"type": "text", "text": text}])) >= len(text.encode())


def test_more_text_has_a_higher_bound() -> None:
    assert Bounds().input_tokens(user("a" * 1_000)) - Bounds().input_tokens(user("")) == 1_000


def test_a_picture_counts_as_one_however_it_is_sent() -> None:
    link = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    inside = {"type": "image", "source": {"type": "base64", "data": "a" * 1_000_000}}
    assert Bounds().input_tokens(user([link])) == Bounds().input_tokens(user([inside]))
    assert Bounds().input_tokens(user([link])) > 48_169


@pytest.mark.parametrize("kind", ["input_audio", "file", "input_file", "document", "binary"])
def test_what_has_no_known_length_is_the_whole_context(kind: str) -> None:
    bounds = Bounds(input_tokens_max=200_000)
    assert bounds.input_tokens(user([{"type": kind, "id": "f-1"}])) == 200_000
    assert bounds.input_tokens(user("hello"), refers=True) == 200_000
    assert bounds.input_tokens(user("a" * 300_000)) == 200_000


def test_a_picture_in_a_file_counts_as_a_picture() -> None:
    picture = {"kind": "binary", "media_type": "image/png", "data": "a" * 1_000_000}
    assert 48_169 < Bounds().input_tokens(user([picture])) < 60_000


class Message(pydantic.BaseModel):
    role: str = "assistant"
    content: str = "a" * 500


def test_objects_count_as_what_they_are_sent_as() -> None:
    as_json = Bounds().input_tokens([Message().model_dump()])
    assert Bounds().input_tokens([Message()]) == as_json > 500
    schema = json.dumps(Message.model_json_schema(), separators=(",", ":"))
    assert len(schema) <= Bounds().input_tokens(Message) < 2 * len(schema)
    assert Bounds().input_tokens([object()]) >= len(repr(object()))


def test_output_is_what_the_request_names_for_each_answer() -> None:
    assert Bounds().output_tokens(100) == 100
    assert Bounds().output_tokens(100, answers=3) == 300
    assert Bounds(output_tokens_max=500).output_tokens(None) == 500
    assert Bounds(output_tokens_max=500).output_tokens(None, answers=2) == 1_000


@pytest.mark.parametrize("most", [0, -1, 1_000_000_001])
def test_a_bound_is_a_number_of_tokens(most: int) -> None:
    with pytest.raises(ValueError, match="a bound is between"):
        Bounds(input_tokens_max=most)
    with pytest.raises(ValueError, match="a bound is between"):
        Bounds(output_tokens_max=most)


# ---------------------------------------------------------------------- billing


def test_what_was_refused_or_never_sent_is_not_billed() -> None:
    wrapped = RuntimeError("the SDK's own")
    wrapped.__cause__ = ConnectError()
    assert not is_billed(Refused())
    assert not is_billed(ConnectError())
    assert not is_billed(wrapped)


def test_what_was_sent_may_be_billed() -> None:
    meanwhile = RuntimeError("raised while another error was handled")
    meanwhile.__context__ = ConnectError()
    errors: list[BaseException] = [TimeoutError(), KeyboardInterrupt(), ConnectionError("reset")]
    assert all(is_billed(error) for error in [*errors, meanwhile])


def test_a_cycle_of_causes_ends() -> None:
    error, other = RuntimeError(), RuntimeError()
    error.__cause__, other.__cause__ = other, error
    assert is_billed(error)


@pytest.mark.parametrize("theirs", [(Refused,), (Refused, ImportError)])
def test_an_error_that_is_passed_on_is_both(theirs: tuple[type[Exception], ...]) -> None:
    error = ModelUnpriced("mystery-1")
    passed = passed_on(error, *theirs)
    assert isinstance(passed, ModelUnpriced)
    assert all(isinstance(passed, kind) for kind in theirs)
    assert (str(passed), passed.model) == (str(error), "mystery-1")
    assert type(passed).__name__ == "ModelUnpriced"
    assert str(passed_on(NoAnswer("late"), *theirs)) == "late"


# ---------------------------------------------------------------------- payers


def test_the_innermost_payer_counts() -> None:
    given = Payer("acme")
    assert current_payer(given) is given
    with paid_by("acme", "c1") as outer:
        with paid_by("acme", "c2", parent_chat_id="c1", spend_limit_micros=5) as inner:
            assert current_payer(given) is inner
        assert current_payer(given) is outer
    assert current_payer(given) is given


# ---------------------------------------------------------------------- readers

STREAM = "text/event-stream; charset=utf-8"
EVENTS = [
    b'event: a\ndata: {"text": "x"}\n\n',
    b'data: {"usage": {"output": 2}}\r\n\r\n',
    b'data: {"usage": {"output": 3}, "hide": true}\n\n',
    b"data: [DONE]\n\n",
]


@pytest.mark.parametrize("size", [1, 2, 7, 1_000])
def test_a_stream_is_handed_on_without_what_is_hidden(size: int) -> None:
    content, watched = b"".join(EVENTS), reader(STREAM)
    chunks = [content[start : start + size] for start in range(0, len(content), size)]
    handed_on = b"".join(watched.feed(chunk) for chunk in chunks) + watched.finish()
    assert handed_on == EVENTS[0] + EVENTS[1] + EVENTS[3]
    assert watched.told is not None
    assert watched.told.usage.output_tokens == 5


def test_an_event_is_handed_on_as_soon_as_it_is_whole() -> None:
    watched = reader(STREAM)
    assert watched.feed(EVENTS[0][:-1]) == b""
    assert watched.feed(b"\n") == EVENTS[0]


def test_an_answer_is_handed_on_as_it_comes_and_read_at_its_end() -> None:
    body = json.dumps({"answer": 42, "usage": {"output": 7}}).encode()
    watched = reader("application/json")
    assert watched.feed(body[:10]) + watched.feed(body[10:]) == body
    told_before = watched.told
    assert watched.finish() == b""
    told = watched.told
    assert told_before is None
    assert told is not None
    assert told.usage.output_tokens == 7


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b'{"usage": null}',
        b'{"usage": {"output": "many"}}',
        b'["usage"]',
        b'{"usage": {}}',
    ],
)
def test_what_cannot_be_read_tells_nothing_and_is_handed_on(body: bytes) -> None:
    watched = reader("application/json")
    assert watched.feed(body) == body
    assert watched.finish() == b""
    assert watched.told is None
    watched = reader(STREAM)
    event = b"data: " + body + b"\n\n"
    assert watched.feed(event) + watched.finish() == event
    assert watched.told is None
