"""Reading forms: fields within bounds, dollars into micros, and the API's own structs out of them.

A form is held against the same structs as a body of the API, so that the page can set nothing
that the API would refuse. It must not ask the Limiter.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

from msgspec import UNSET
from starlette.requests import Request

from limiter.errors import InvalidRequest
from limiter.http.answers import encode
from limiter.http.bodies import FORM, decoder, read_body
from limiter.models import ChatPatch, WorkspacePatch
from limiter.money import parse_dollars
from limiter.periods import PERIOD_NAMES
from limiter.settings import Settings
from limiter.web.periods import Typed

Form = Mapping[str, str]

_FIELDS_MAX = 32
# What is typed again into an input that was refused.
_ECHO_LENGTH_MAX = 60

_decode_workspace_patch = decoder(WorkspacePatch)
_decode_chat_patch = decoder(ChatPatch)


class Misfit(Exception):
    """Some fields do not fit. Nothing was changed. `typed`: every field, as it was typed."""

    def __init__(self, typed: Mapping[str, Typed]) -> None:
        super().__init__("some fields do not fit")
        self.typed = typed


class FormReader:
    """Reads the form of a request, within the bounds of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._bytes_max = settings.body_bytes_max
        self._timeout_ms = settings.body_timeout_ms

    async def read(self, request: Request) -> Form:
        """Its fields. Raises what `read_body` does, and InvalidRequest."""
        body = await read_body(
            request, bytes_max=self._bytes_max, timeout_ms=self._timeout_ms, media_type=FORM
        )
        return parse_form(body)


def parse_form(body: bytes) -> Form:
    """The fields of a urlencoded body. Raises InvalidRequest for one that is there twice."""
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_FIELDS_MAX)
    except ValueError:
        raise InvalidRequest("the form cannot be read") from None
    form = dict(pairs)
    if len(form) < len(pairs):
        raise InvalidRequest("a field of the form is there twice")
    return form


def limits_typed(form: Form) -> dict[str, Typed]:
    """What was typed into the rows of the periods."""
    return {
        name: Typed(form[name][:_ECHO_LENGTH_MAX], form.get(was_field(name), "")[:_ECHO_LENGTH_MAX])
        for name in PERIOD_NAMES
        if name in form
    }


def was_field(period: str) -> str:
    """The hidden field with a limit as it was shown, so that only what was changed is saved."""
    return f"was.{period}"


def limits_patch(form: Form) -> WorkspacePatch:
    """The limits that were changed. Raises Misfit, naming every field that does not fit."""
    typed = limits_typed(form)
    limits: dict[str, int | None] = {}
    errors: dict[str, str] = {}
    for name in typed:
        try:
            limit_micros = _limit(form[name])
        except ValueError as error:
            errors[name] = _sentence(str(error))
            continue
        if not _is_same(form.get(was_field(name)), limit_micros):
            limits[name] = limit_micros
    patch = WorkspacePatch()
    if not errors and limits:
        try:
            patch = _decode_workspace_patch(encode({"budget_limits": limits}))
        except InvalidRequest as error:
            field = (error.field or "").rpartition(".")[2]
            errors[field if field in typed else next(iter(limits))] = _sentence(str(error))
    if errors:
        raise Misfit(
            {name: Typed(row.text, row.was, errors.get(name)) for name, row in typed.items()}
        )
    return patch


def names_nothing(patch: WorkspacePatch) -> bool:
    """Whether there is nothing to be saved."""
    return patch.budget_limits is UNSET


def chat_patch(form: Form) -> ChatPatch:
    """A chat's limit; blank removes it. Raises Misfit with the one field, `limit`."""
    text = form.get("limit", "")
    try:
        return _decode_chat_patch(encode({"spend_limit_micros": _limit(text)}))
    except InvalidRequest:
        # Nothing else is left that the struct would refuse.
        reason = "The limit of a chat is above $0; leave it blank for no limit."
    except ValueError as error:
        reason = _sentence(str(error))
    raise Misfit({"limit": Typed(text[:_ECHO_LENGTH_MAX], "", reason)})


def _limit(text: str) -> int | None:
    return parse_dollars(text) if text.strip() else None


def _is_same(was: str | None, limit_micros: int | None) -> bool:
    if was is None:
        return False
    try:
        return _limit(was) == limit_micros
    except ValueError:
        return False


def _sentence(reason: str) -> str:
    return f"{reason[:1].upper()}{reason[1:]}."
