"""Requests that no browser makes of the page: each is refused with a page, and changes nothing."""

from __future__ import annotations

import http.client
from collections.abc import Iterator, Mapping

import pytest

from tests.support.service import Service, running_service

FORM = "application/x-www-form-urlencoded"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("service"), redis_deadline_ms=10_000) as service:
        assert service.patch("/config/workspaces/acme", {}).status == 200
        yield service


def ask(
    service: Service, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, Mapping[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=20)
    try:
        own = {"origin": service.url, "content-type": FORM}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {**own, **named})
        answer = connection.getresponse()
        text = answer.read().decode()
        return answer.status, {name.lower(): value for name, value in answer.headers.items()}, text
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b'{"hourly": "1"}', {"content_type": "application/json"}, 415),
        (b"hourly=1", {"content_type": "multipart/form-data; boundary=x"}, 415),
        (b"hourly=1", {"content_encoding": "gzip"}, 415),
        (b"hourly=1&hourly=2", {}, 400),
        (b"hourly=\xff\xfe", {}, 400),
        (b"hourly=%00", {}, 400),
        (b"hourly=" + b"9" * 100_000, {}, 413),
        (b"hourly=1", {"origin": "null"}, 403),
        (b"hourly=1", {"sec_fetch_site": "cross-site"}, 403),
    ],
)
def test_a_form_is_refused(
    service: Service, body: bytes, headers: dict[str, str], status: int
) -> None:
    found, answered, text = ask(service, "POST", "/workspaces/acme", body, **headers)
    assert found == status
    assert answered["content-type"] == "text/html; charset=utf-8"
    assert answered["x-request-id"]
    assert "<h1>" in text
    limits = service.get("/config/workspaces/acme").body["budget_limits"]
    assert limits["hourly"] is None


@pytest.mark.parametrize(
    "name",
    [
        *("%3Cscript%3Ealert(1)%3C%2Fscript%3E", "a%0d%0aset-cookie:x", "a%00b", "%7Bx%7D", "a:b"),
        *("%E2%80%AEacme", "x" * 129, "%22onload=alert(1)", "..%2F..%2Fetc"),
    ],
)
@pytest.mark.parametrize("path", ["/workspaces/{}", "/workspaces/acme/chats/{}"])
def test_what_is_no_id_is_refused_and_not_repeated(service: Service, name: str, path: str) -> None:
    status, headers, text = ask(service, "GET", path.format(name))
    # The router takes an encoded slash for a slash, and has no such path.
    assert status in (400, 404)
    assert "set-cookie" not in headers
    for markup in ("<script>alert", '"onload', "\u202e"):
        assert markup not in text


@pytest.mark.parametrize(
    "query", ["notice=%3Cscript%3E", "after=%3Cscript%3E", "q=%3Cscript%3E", "other=1", "q=1&q=2"]
)
def test_what_an_address_says_is_never_markup(service: Service, query: str) -> None:
    status, _, text = ask(service, "GET", f"/?{query}")
    assert status in (200, 400)
    assert "<script>" not in text


def test_every_page_carries_the_policy(service: Service) -> None:
    for path in ("/", "/workspaces/acme", "/workspaces/nobody", "/workspaces/a:b"):
        _, headers, text = ask(service, "GET", path)
        assert headers["content-security-policy"].startswith("default-src 'self';")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        # What the policy would stop anyway.
        assert " style=" not in text
        assert "onclick" not in text


def test_static_files_are_those_of_the_page(service: Service) -> None:
    status, headers, text = ask(service, "GET", "/static/page.css")
    assert (status, headers["content-type"]) == (200, "text/css; charset=utf-8")
    assert "immutable" in headers["cache-control"]
    assert text
    for name in ("none.css", "..%2Frender.py", "%2e%2e/render.py"):
        assert ask(service, "GET", f"/static/{name}")[0] == 404
