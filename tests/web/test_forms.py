"""Forms into the API's own structs, and what else is decided before the Limiter is asked."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from limiter.errors import InvalidRequest
from limiter.models import ChatPatch, WorkspacePatch
from limiter.money import MICROS_MAX
from limiter.web.forms import Misfit, chat_patch, limits_patch, names_nothing, parse_form
from limiter.web.guard import ForeignForm, page_behind, require_own_form


def test_only_what_was_changed_is_named() -> None:
    form = parse_form(
        b"hourly=2.50&was.hourly=&daily=7&was.daily=7.00&weekly=&was.weekly=3&monthly=&was.monthly="
    )
    assert limits_patch(form) == WorkspacePatch(budget_limits={"hourly": 2_500_000, "weekly": None})


def test_nothing_is_named_where_nothing_was_changed() -> None:
    form = parse_form(b"hourly=+%242.5+&was.hourly=2.50&monthly=0.00&was.monthly=0")
    assert names_nothing(limits_patch(form))


def test_without_what_was_shown_everything_is_named() -> None:
    # As a form that somebody wrote by hand.
    assert limits_patch(parse_form(b"hourly=0&other=1")) == WorkspacePatch(
        budget_limits={"hourly": 0}
    )


def test_the_largest_amount_is_exact() -> None:
    patch = limits_patch(parse_form(b"hourly=9007199254.740991"))
    assert patch == WorkspacePatch(budget_limits={"hourly": MICROS_MAX})


def test_every_misfit_is_said_and_what_was_typed_is_kept() -> None:
    with pytest.raises(Misfit) as raised:
        limits_patch(parse_form(b"hourly=x&daily=5&was.daily=4&weekly=-1"))
    typed = raised.value.typed
    assert {name: row.text for name, row in typed.items()} == {
        "hourly": "x",
        "daily": "5",
        "weekly": "-1",
    }
    assert [name for name, row in typed.items() if row.error] == ["hourly", "weekly"]
    assert typed["daily"].was == "4"


def test_what_is_typed_again_is_bounded() -> None:
    with pytest.raises(Misfit) as raised:
        limits_patch(parse_form(b"hourly=" + b"9" * 5_000))
    assert len(raised.value.typed["hourly"].text) < 100


def test_a_chat_has_a_limit_or_none() -> None:
    assert chat_patch({"limit": "0.000001"}) == ChatPatch(spend_limit_micros=1)
    assert chat_patch({"limit": " "}) == ChatPatch(spend_limit_micros=None)
    with pytest.raises(Misfit, match="do not fit"):
        chat_patch({"limit": "0"})


@pytest.mark.parametrize(
    "body",
    [b"hourly=1&hourly=2", b"hourly=\xff", b"&".join(b"a%d=1" % n for n in range(40))],
    ids=["twice", "not UTF-8", "many fields"],
)
def test_a_form_that_cannot_be_read(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="form"):
        parse_form(body)


@pytest.mark.parametrize(
    ("path", "behind"),
    [
        ("/", "/"),
        ("/workspaces/acme", "/workspaces/acme"),
        ("/workspaces/acme/release", "/workspaces/acme"),
        ("/workspaces/acme/chats/c-1", "/workspaces/acme/chats/c-1"),
        ("/workspaces", "/"),
        ("/sign-out", "/"),
        ("//elsewhere.example", "/"),
        ("/workspaces//elsewhere.example", "/"),
        ("https://elsewhere.example/workspaces/acme", "/"),
        ("/workspaces/a\r\nset-cookie:x", "/"),
    ],
)
def test_only_pages_are_led_to(path: str, behind: str) -> None:
    assert page_behind(path) == behind


@pytest.mark.parametrize(
    ("headers", "is_own"),
    [
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "none"}, False),
        # Plain HTTP to an address that is not this machine.
        ({"origin": "http://limiter.example:8080", "host": "limiter.example:8080"}, True),
        ({"origin": "https://limiter.example", "host": "limiter.example"}, True),
        ({"origin": "http://limiter.example", "host": "limiter.example:8080"}, False),
        ({"origin": "http://elsewhere.example", "host": "limiter.example"}, False),
        ({"origin": "null", "host": "limiter.example"}, False),
        ({"host": "limiter.example"}, False),
        ({}, False),
    ],
)
def test_whose_form_it_is(headers: dict[str, str], is_own: bool) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    request = Request({"type": "http", "method": "POST", "headers": raw})
    if is_own:
        require_own_form(request)
    else:
        with pytest.raises(ForeignForm):
            require_own_form(request)
