"""What a call may use at most, from its request: an upper bound, before the model is asked.

A token of text stands for at least one byte of it, so the bytes of a request bound its tokens. What
is not text is counted at the most that the providers count for it, and what a request only refers
to at the most that a model can take in. It must not know any price, nor which SDK made a request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from limiter.models import TOKENS_MAX

# The most that a provider counts for one picture is 48,169 (gpt-4o-mini, in high detail).
_IMAGE_TOKENS_MAX = 50_000
# Providers write tools out in a prompt of their own: some hundred tokens at the most.
_TOOLS_TOKENS_MAX = 2_000
# What the provider puts around a message, a part or a tool.
_PART_TOKENS_MAX = 8
_NUMBER_TOKENS_MAX = 24
# Tools and schemas reach the model as JSON: its signs are text, too.
_QUOTES = 2
_COLON_AND_COMMA = 2

_IMAGES = frozenset({"image", "image_url", "input_image", "image-url"})
# Sound, documents, and what lies at the provider: how long it is, nobody can tell from here.
_UNKNOWN_LENGTH = frozenset(
    {
        *("input_audio", "audio", "file", "input_file", "document", "item_reference"),
        *("container_upload", "audio-url", "video-url", "document-url", "binary", "uploaded-file"),
    }
)


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most that any call can use, where its request does not say.

    `input_tokens_max` is the context that the models take in; it also caps every other bound.
    `output_tokens_max` is held where a request names no maximum: better let it name one.
    """

    input_tokens_max: int = 1_000_000
    output_tokens_max: int = 128_000

    def __post_init__(self) -> None:
        for most in (self.input_tokens_max, self.output_tokens_max):
            if not 0 < most <= TOKENS_MAX:
                raise ValueError(f"a bound is between 1 and {TOKENS_MAX} tokens")

    def input_tokens(self, *parts: object, has_tools: bool = False, refers: bool = False) -> int:
        """The most input tokens of a request that is made of these JSON values.

        `refers`: whether the provider adds what is not in the request.
        """
        if refers:
            return self.input_tokens_max
        tokens = _TOOLS_TOKENS_MAX if has_tools else 0
        for part in parts:
            tokens += self._of(part)
        return min(tokens, self.input_tokens_max)

    def output_tokens(self, named: object, *, answers: object = 1) -> int:
        """The most output tokens: what the request names for each of its answers, or the bound."""
        most = _count(named, self.output_tokens_max)
        return min(most * _count(answers, 1), TOKENS_MAX)

    def _of(self, value: object) -> int:
        match value:
            case str():
                return len(value.encode("utf-8", "replace")) + _QUOTES
            case Mapping():
                kind = value.get("type") or value.get("kind")
                if kind in _IMAGES:
                    return _IMAGE_TOKENS_MAX
                if kind in _UNKNOWN_LENGTH:
                    is_picture = str(value.get("media_type")).startswith("image/")
                    return _IMAGE_TOKENS_MAX if is_picture else self.input_tokens_max
                fields = sum(self._of(str(name)) + self._of(field) for name, field in value.items())
                return fields + len(value) * _COLON_AND_COMMA + _PART_TOKENS_MAX
            case Sequence():
                return sum(map(self._of, value)) + len(value) + _PART_TOKENS_MAX
            case None | int() | float():
                return _NUMBER_TOKENS_MAX
            case _:
                return self._of(_as_json(value))


def _as_json(value: object) -> object:
    """What frameworks have in the place of JSON: messages as objects, and classes for a schema."""
    for name in ("model_json_schema", "model_dump"):
        describe = getattr(value, name, None)
        if callable(describe) and (name == "model_dump" or isinstance(value, type)):
            return describe()
    return repr(value)


def _count(value: object, otherwise: int) -> int:
    return value if isinstance(value, int) and value > 0 else otherwise
