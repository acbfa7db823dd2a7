"""Bodies that are not what a route takes: refused before anything is done."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.errors import InvalidRequest
from limiter.http.bodies import decoder
from limiter.models import (
    ChatPatch,
    CheckRequest,
    RecordRequest,
    ReleaseRequest,
    WorkspacePatch,
)
from tests.http.support import (
    BODIES,
    ToldLimiter,
    address,
    assert_refused,
    base_body,
    client_of,
    problem,
    send,
)

STRUCTS: tuple[type[msgspec.Struct], ...] = (
    CheckRequest,
    RecordRequest,
    ReleaseRequest,
    WorkspacePatch,
    ChatPatch,
)
PATHS = (
    "/check",
    "/record",
    "/release",
    "/config/workspaces/acme",
    "/config/workspaces/acme/chats/c1",
)

BOTH_ESTIMATES = json.dumps(
    {
        "workspace_id": "acme",
        "estimate_micros": 1,
        "usage": {"model": "m", "input_tokens": 1, "max_output_tokens": 1},
    }
).encode()

# --------------------------------------------------------------------------- fields


@pytest.mark.parametrize(
    ("path", "content", "field"),
    [
        ("/check", b"{}", "workspace_id"),
        ("/check", b'{"estimate_micros": 1}', "workspace_id"),
        ("/check", b'{"workspace_id": null}', "workspace_id"),
        ("/check", b'{"workspace_id": "a", "estimate_micro": 1}', "estimate_micro"),
        ("/check", b'{"workspace_id": "a", "": 1}', None),
        ("/check", b'{"workspace_id": "a", "usage": {}}', "usage.model"),
        (
            "/check",
            b'{"workspace_id": "a", "usage": {"model": "m", "input_tokens": 1}}',
            "usage.max_output_tokens",
        ),
        (
            "/check",
            b'{"workspace_id": "a", "usage": {"model": "m", "tokens": 1}}',
            "usage.tokens",
        ),
        (
            "/check",
            b'{"workspace_id": "a", "usage": {"model": "m\\n", "input_tokens": 1}}',
            "usage.model",
        ),
        ("/check", BOTH_ESTIMATES, "estimate_micros"),
        ("/check", b'{"workspace_id": "a", "parent_chat_id": "c1"}', "parent_chat_id"),
        ("/check", b'{"workspace_id": "a", "spend_limit_micros": 1}', "spend_limit_micros"),
        ("/record", b'{"workspace_id": "a"}', "cost_micros"),
        ("/record", b'{"workspace_id": "a", "cumulative_micros": 1}', "cumulative_micros"),
        ("/record", b'{"workspace_id": "a", "cost_micros": 1, "sequence": 1}', "sequence"),
        (
            "/record",
            b'{"workspace_id": "a", "usage": {"model": "m", "cache_read_tokens": 1}}',
            "usage.input_tokens",
        ),
        ("/release", b'{"workspace_id": "a"}', "reservation_id"),
        ("/config/workspaces/acme", b'{"budget_limits": {"yearly": 1}}', "budget_limits"),
        (
            "/config/workspaces/acme",
            b'{"budget_limits": {"hourly": 1, "daily": -1}}',
            "budget_limits.daily",
        ),
        ("/config/workspaces/acme", b'{"budget_limits": {"a\\nb": -1}}', "budget_limits.a\\nb"),
        ("/config/workspaces/acme", b'{"budget_limits": null}', "budget_limits"),
        ("/config/workspaces/acme", b'{"limits": {}}', "limits"),
        ("/config/workspaces/acme", b'{"on_hold_expiry": "keep"}', "on_hold_expiry"),
        ("/config/workspaces/acme", b'{"outage_policy": "maybe"}', "outage_policy"),
        ("/config/workspaces/acme/chats/c1", b'{"limit": 1}', "limit"),
        ("/check", b'{"workspace_id": "a", "workspace_id": "b"}', "workspace_id"),
        ("/check", b'{"workspace_id": "a", "workspace\\u005fid": "b"}', "workspace_id"),
        ("/record", b'{"workspace_id": "a", "cost_micros": 1, "cost_micros": 2}', "cost_micros"),
        ("/config/workspaces/acme", b'{"budget_limits": {"hourly": 1, "hourly": 2}}', "hourly"),
    ],
)
async def test_the_field_is_named(path: str, content: bytes, field: str | None) -> None:
    body = assert_refused(*await send(path, content))
    assert body.get("field") == field


@pytest.mark.parametrize("key", ["\n", "a\r\nX-Evil: 1", "\x1b[2J", "\0", "ключ", "`", "x" * 500])
async def test_a_field_of_the_callers_making_is_shown_cut_and_escaped(key: str) -> None:
    for path in PATHS:
        content = json.dumps({**base_body(path), key: 1}).encode()
        body = assert_refused(*await send(path, content))
        assert body["field"] == "".join(
            char if " " <= char <= "~" else ascii(char)[1:-1] for char in key[:80]
        )


async def test_a_field_that_imitates_our_decoder_says_nothing_wrong() -> None:
    key = "x` - at `$.usage"
    body = assert_refused(*await send("/check", json.dumps({"workspace_id": "a", key: 1}).encode()))
    assert body["field"] == "usage.x"
    assert body["detail"] == "usage.x: is not a known field"


# --------------------------------------------------------------------------- not JSON at all


NOT_JSON = {
    "nothing": b"",
    "blank": b"  \n",
    "text": b"hello",
    "form": b"workspace_id=acme&estimate_micros=1",
    "cut off": b'{"workspace_id": "acme"',
    "two documents": b'{"workspace_id": "acme"}{"workspace_id": "acme"}',
    "trailing comma": b'{"workspace_id": "acme",}',
    "comment": b'{"workspace_id": "acme" /* me */}',
    "single quotes": b"{'workspace_id': 'acme'}",
    "byte order mark": b'\xef\xbb\xbf{"workspace_id": "acme"}',
    "UTF-16": '{"workspace_id": "acme"}'.encode("utf-16"),
    "invalid UTF-8 in a value": b'{"workspace_id": "\xff\xfe"}',
    "invalid UTF-8 in a key": b'{"\xc3\x28": 1}',
    "overlong UTF-8": b'{"workspace_id": "\xc0\xaf"}',
    "lone surrogate": b'{"workspace_id": "\\ud800"}',
    "raw newline in a string": b'{"workspace_id": "a\nb"}',
    "raw NUL": b'{"workspace_id": "acme"}\0',
    "array": b'[{"workspace_id": "acme"}]',
    "string": b'"acme"',
    "null": b"null",
    "number": b"1",
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    "deep arrays": b"[" * 10_000,
    "deep objects": b'{"a":' * 10_000,
    "deep and closed": b"[" * 10_000 + b"]" * 10_000,
    "deep in a field": b'{"workspace_id":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "deep in an unknown field": b'{"x":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "deep in a mapping": b'{"budget_limits":{"hourly":' + b"[" * 10_000 + b"]" * 10_000 + b"}}",
}


@pytest.mark.parametrize("name", NOT_JSON)
async def test_what_is_not_an_object_of_this_route_is_refused(name: str) -> None:
    for method, template in BODIES:
        limiter = ToldLimiter()
        async with client_of(limiter) as client:
            response = await client.request(method, address(template), content=NOT_JSON[name])
        assert_refused(response, limiter)


# --------------------------------------------------------------------------- headers


@pytest.mark.parametrize("site", ["cross-site", "same-site", "", "SAME-ORIGIN"])
async def test_a_page_of_another_site_may_change_nothing(site: str) -> None:
    """A browser sends it without asking first, as long as it is plain text or says nothing."""
    for method, template in BODIES:
        limiter = ToldLimiter()
        async with client_of(limiter) as client:
            response = await client.request(
                method,
                address(template),
                content=json.dumps(BODIES[method, template]),
                headers={"sec-fetch-site": site},
            )
        assert response.status_code == 403
        assert problem(response)["code"] == "forbidden"
        assert limiter.calls == []


@pytest.mark.parametrize("site", ["same-origin", "none"])
async def test_what_the_page_itself_sends_is_read(site: str) -> None:
    for method, template in BODIES:
        async with client_of(ToldLimiter()) as client:
            response = await client.request(
                method, address(template), content="{", headers={"sec-fetch-site": site}
            )
        assert response.status_code == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": "application/jsonp"},
        {"content-type": "text/plain; application/json"},
        {"content-type": ""},
        {"content-encoding": "gzip"},
        {"content-encoding": "identity, br"},
    ],
)
async def test_another_media_type_is_415(headers: dict[str, str]) -> None:
    for method, template in BODIES:
        limiter = ToldLimiter()
        async with client_of(limiter) as client:
            response = await client.request(
                method,
                address(template),
                content=json.dumps(BODIES[method, template]),
                headers=headers,
            )
        assert response.status_code == 415
        assert response.headers["x-should-retry"] == "false"
        assert problem(response)["code"] == "unsupported_media_type"
        assert limiter.calls == []


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "application/json"},
        {"content-type": "Application/JSON; charset=utf-8"},
        {"content-type": "application/json;charset=UTF-8"},
        {"content-type": "application/merge-patch+json"},
        {"content-encoding": "identity"},
    ],
)
async def test_json_is_taken_under_its_names(headers: dict[str, str]) -> None:
    for method, template in BODIES:
        limiter = ToldLimiter()
        async with client_of(limiter) as client:
            await client.request(
                method,
                address(template),
                content=json.dumps(BODIES[method, template]),
                headers=headers,
            )
        assert len(limiter.calls) == 1


@pytest.mark.parametrize("route", BODIES)
async def test_a_body_above_the_cap_is_413_before_it_is_parsed(route: tuple[str, str]) -> None:
    method, template = route
    limiter = ToldLimiter()
    async with client_of(limiter, body_bytes_max=1_024) as client:
        # The cap itself is allowed, and a body above it is not even looked at.
        content = json.dumps(BODIES[route]).encode()
        fits = await client.request(method, address(template), content=content.ljust(1_024))
        above = await client.request(method, address(template), content=b"[" * 1_025)
        header_only = await client.request(
            method, address(template), content=b"", headers={"content-length": "9" * 30}
        )
    assert fits.status_code == 500
    assert len(limiter.calls) == 1
    for response in (above, header_only):
        assert response.status_code == 413
        assert response.headers["connection"] == "close"
        assert response.headers["x-should-retry"] == "false"
        assert problem(response)["code"] == "body_too_large"


# --------------------------------------------------------------------------- any bytes


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = sorted({name for struct in STRUCTS for name in struct.__struct_fields__})
BODIES_OF_ANY_KIND = st.one_of(
    st.binary(max_size=64),
    JSON_VALUES.map(json.dumps).map(str.encode),
    st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=4), JSON_VALUES, max_size=6)
    .map(json.dumps)
    .map(str.encode),
)


@given(body=BODIES_OF_ANY_KIND)
def test_any_bytes_are_either_the_struct_or_refused(body: bytes) -> None:
    for struct in STRUCTS:
        refusal, decoded = "", None
        try:
            decoded = decoder(struct)(body)
        except InvalidRequest as refused:
            refusal = str(refused)
        if decoded is None:
            assert refusal.isprintable()
            assert refusal.isascii()
        else:
            assert msgspec.json.decode(msgspec.json.encode(decoded), type=struct) == decoded
