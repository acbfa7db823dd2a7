"""Hostile or careless ids and amounts, on every route: refused, naming the field."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest

from limiter import models
from limiter.errors import InvalidRequest
from limiter.models import CheckRequest
from limiter.redis.keys import require_id
from tests.http.support import (
    BODIES,
    ROUTES_WITH_IDS,
    ToldLimiter,
    address,
    assert_refused,
    base_body,
    client_of,
    send,
)

BAD_IDS = {
    "empty": "",
    "colon": "a:b",
    "braces": "{a}",
    "space": "a b",
    "slash": "a/b",
    "newline at the end": "acme\n",
    "CR LF": "acme\r\nX-Evil: 1",
    "NUL": "a\0",
    "escape sequence": "\x1b[31m",
    "10 KB": "a" * 10_240,
    "one too long": "a" * 129,
    "look-alike": "аcme",  # Its first letter is Cyrillic.
    "combining": "acme\u0301",
    "full width": "ａｃｍｅ",
    "right to left": "\u202eacme",
    "script": "<script>alert(1)</script>",
}
BAD_AMOUNTS = [
    *["nan", "NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e3", "1.0", "1.5", "0x10", "1_0"],
    *["01", "+1", "-1", ".5", "５", '"1"', '" 12 "', '"nan"', "true", "[]", "{}", "[1]", "1 2"],
    *[str(2**53), str(2**63 - 1), str(2**63), str(2**64), str(-(2**63)), "9" * 5_000, ""],
]
# Every place for an id and for an amount, with the rest of the body that it needs.
ID_FIELDS: list[tuple[str, str, dict[str, Any]]] = [
    ("/check", "workspace_id", {}),
    ("/check", "chat_id", {}),
    ("/check", "parent_chat_id", {"chat_id": "c2"}),
    ("/check", "reservation_id", {}),
    ("/record", "workspace_id", {}),
    ("/record", "chat_id", {}),
    ("/record", "parent_chat_id", {"chat_id": "c2"}),
    ("/record", "reservation_id", {}),
    ("/record", "event_id", {}),
    ("/record", "source", {"cost_micros": None, "cumulative_micros": 1}),
    ("/release", "workspace_id", {}),
    ("/release", "reservation_id", {}),
    ("/config/workspaces/acme/chats/c1", "parent_chat_id", {}),
]
AMOUNT_FIELDS: list[tuple[str, str, dict[str, Any]]] = [
    ("/check", "estimate_micros", {}),
    ("/check", "spend_limit_micros", {"chat_id": "c1"}),
    ("/check", "hold_ms", {}),
    ("/check", "usage.input_tokens", {"estimate_micros": None}),
    ("/check", "usage.max_output_tokens", {"estimate_micros": None}),
    ("/record", "cost_micros", {}),
    ("/record", "cumulative_micros", {"cost_micros": None, "source": "s"}),
    ("/record", "sequence", {"cost_micros": None, "cumulative_micros": 1, "source": "s"}),
    ("/record", "spend_limit_micros", {"chat_id": "c1"}),
    ("/record", "usage.input_tokens", {"cost_micros": None}),
    ("/record", "usage.output_tokens", {"cost_micros": None}),
    ("/record", "usage.cache_read_tokens", {"cost_micros": None}),
    ("/record", "usage.cache_write_tokens", {"cost_micros": None}),
    ("/config/workspaces/acme", "budget_limits.hourly", {}),
    ("/config/workspaces/acme", "budget_limits.monthly", {}),
    ("/config/workspaces/acme", "budget_limit", {}),
    ("/config/workspaces/acme", "default_estimate_micros", {}),
    ("/config/workspaces/acme/chats/c1", "spend_limit_micros", {}),
]
USAGE = {
    "/check": {"model": "m", "input_tokens": 2, "max_output_tokens": 2},
    "/record": {"model": "m", "input_tokens": 2, "output_tokens": 2},
}
# Neither ids nor amounts.
OTHER_FIELDS = {"usage", "model", "provider", "on_hold_expiry", "outage_policy"}


def body_with(path: str, field: str, token: str, more: dict[str, Any]) -> bytes:
    """A body as JSON text in which `field` is `token`, whatever that is."""
    body = {**base_body(path), **more}
    outer, _, inner = field.partition(".")
    if outer == "usage":
        body[outer] = {**USAGE[path], inner: "@"}
    else:
        body[outer] = {inner: "@"} if inner else "@"
    return json.dumps(body).replace('"@"', token).encode()


def test_no_field_is_forgotten() -> None:
    requests = (
        models.CheckRequest,
        models.EstimateUsage,
        models.RecordRequest,
        models.RecordUsage,
        models.ReleaseRequest,
        models.WorkspacePatch,
        models.ChatPatch,
    )
    known = {name for struct in requests for name in struct.__struct_fields__}
    tried = {part for _, field, _ in (*ID_FIELDS, *AMOUNT_FIELDS) for part in field.split(".")}
    assert known - OTHER_FIELDS <= tried


# --------------------------------------------------------------------------- ids


@pytest.mark.parametrize("bad", BAD_IDS)
async def test_a_bad_id_in_a_body_is_refused(bad: str) -> None:
    for path, field, more in ID_FIELDS:
        token = json.dumps(BAD_IDS[bad])
        body = assert_refused(*await send(path, body_with(path, field, token, more)))
        assert body["field"] == field
        assert body["detail"].startswith(f"{field}: ")


@pytest.mark.parametrize("token", ["1", "true", "[]", "{}", '["a"]'])
async def test_an_id_is_a_string(token: str) -> None:
    for path, field, more in ID_FIELDS:
        body = assert_refused(*await send(path, body_with(path, field, token, more)))
        assert body["field"] == field


@pytest.mark.parametrize(
    "bad", [name for name in BAD_IDS if name not in ("empty", "slash", "script")]
)
@pytest.mark.parametrize("field", ["workspace_id", "chat_id"])
async def test_a_bad_id_in_a_path_is_refused(field: str, bad: str) -> None:
    limiter = ToldLimiter()
    async with client_of(limiter) as client:
        for method, template in ROUTES_WITH_IDS:
            if f"{{{field}}}" not in template:
                continue
            path = template.replace(f"{{{field}}}", quote(BAD_IDS[bad], safe=""))
            content = b"{}" if (method, template) in BODIES else None
            response = await client.request(method, address(path), content=content)
            assert assert_refused(response, limiter)["field"] == field


async def test_the_words_for_a_bad_id_are_the_same_everywhere() -> None:
    with pytest.raises(InvalidRequest) as refused:
        require_id("a:b", "workspace_id")
    content = b'{"workspace_id": "a:b"}'
    body = assert_refused(*await send("/check", content))
    assert body["detail"] == str(refused.value)


# --------------------------------------------------------------------------- amounts


@pytest.mark.parametrize(("path", "field", "more"), AMOUNT_FIELDS)
async def test_a_bad_amount_is_refused(path: str, field: str, more: dict[str, Any]) -> None:
    named = 0
    for token in BAD_AMOUNTS:
        body = assert_refused(*await send(path, body_with(path, field, token, more)))
        # What is not JSON has no fields.
        if "JSON" not in body["detail"]:
            assert body["field"] == field, token
            named += 1
    assert named > 15


@pytest.mark.parametrize(
    ("path", "field", "more"),
    [each for each in AMOUNT_FIELDS if each[1] in ("spend_limit_micros", "hold_ms")],
)
async def test_some_amounts_are_above_zero(path: str, field: str, more: dict[str, Any]) -> None:
    body = assert_refused(*await send(path, body_with(path, field, "0", more)))
    assert body["field"] == field


@pytest.mark.parametrize("amount", [0, 1, 2**53 - 1, 123_456_789_012_345])
async def test_amounts_are_exact_up_to_their_end(amount: int) -> None:
    limiter = ToldLimiter(check=ValueError())
    async with client_of(limiter) as client:
        await client.post("/check", json={"workspace_id": "acme", "estimate_micros": amount})
    (check,) = limiter.calls[0][1]
    assert check == CheckRequest(workspace_id="acme", estimate_micros=amount)
