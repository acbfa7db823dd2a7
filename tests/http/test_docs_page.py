"""The page of the API: all of the document, from this service alone, and nothing that runs."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import AsyncIterator
from hashlib import sha256
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx2
import pytest

from limiter.http.docs_page import rendered
from tests.http.support import ToldLimiter, app_of, client_of

DOCUMENT: dict[str, Any] = app_of(ToldLimiter()).openapi()
# Elements that have no end.
VOID = {"meta", "br"}
ALLOWED = {
    *["html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "h4", "p", "nav", "ul"],
    *["li", "a", "code", "pre", "br", "div", "table", "thead", "tbody", "tr", "th", "td"],
    *["details", "summary"],
}


class Reader(HTMLParser):
    """Reads a page as a browser does, and fails where that would have to guess."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.style = ""
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        given = dict(attrs)
        self.links += [value for name, value in attrs if name == "href" and value is not None]
        if given.get("id") is not None:
            self.ids.append(str(given["id"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.words.append(data)


@pytest.fixture
async def answer() -> AsyncIterator[httpx2.Response]:
    async with client_of(ToldLimiter()) as client:
        answer = await client.get("/docs")
        assert (await client.get("/docs")).content == answer.content
        yield answer


def test_nothing_of_another_host_is_in_it(answer: httpx2.Response) -> None:
    assert answer.status_code == 200
    text = answer.text + "".join(f"{name}: {value}\n" for name, value in answer.headers.items())
    assert "//" not in re.sub(r"<!--.*?-->", "", text)
    page = Reader(answer.text)
    assert {link for link in page.links if not link.startswith("#")} == {"/openapi.json"}
    assert page.tags <= ALLOWED
    assert page.attributes <= {"lang", "charset", "name", "content", "href", "id", "class", "scope"}
    assert "url(" not in page.style
    assert "@import" not in page.style


def test_its_policy_lets_nothing_in_but_its_style(answer: httpx2.Response) -> None:
    policy = dict(
        directive.split(" ", 1)
        for directive in answer.headers["content-security-policy"].split("; ")
    )
    style = b64encode(sha256(Reader(answer.text).style.encode()).digest()).decode()
    assert policy == {
        "default-src": "'none'",
        "style-src": f"'sha256-{style}'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_all_of_the_document_is_on_it(answer: httpx2.Response) -> None:
    page = Reader(answer.text)
    words = "\n".join(page.words)
    anchors = []
    for path, by_method in DOCUMENT["paths"].items():
        for method, operation in by_method.items():
            anchors.append(operation["operationId"])
            assert f"{method.upper()} {path}" in page.words
            for response in operation["responses"].values():
                for content in response.get("content", {}).values():
                    for name in content["examples"]:
                        assert name in page.words
    for name, schema in DOCUMENT["components"]["schemas"].items():
        anchors.append(name)
        assert set(schema.get("properties", {})) <= set(page.words)
    assert sorted(page.ids) == sorted(anchors)
    assert {link[1:] for link in page.links if link.startswith("#")} == set(anchors)
    assert "0 to 9007199254740991" in words


def test_what_the_document_says_is_text() -> None:
    hostile = "<script>alert('x')</script>&\""
    document = {
        **DOCUMENT,
        "info": {"title": hostile, "version": hostile, "description": f"`{hostile}` {hostile}"},
        "tags": [{"name": "calls", "description": hostile}],
        "components": {
            "securitySchemes": {hostile: {"description": hostile}},
            "schemas": {
                hostile: {
                    "description": hostile,
                    "properties": {hostile: {"enum": [hostile], "default": hostile}},
                }
            },
        },
    }
    text = rendered(document)
    page = Reader(text)
    assert page.tags <= ALLOWED
    assert hostile not in text
    assert hostile in unescape(text)


def test_the_page_that_the_reference_promises_is_this_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "http.md").read_text("utf-8")
    assert "`/docs`" in page
    assert "CDN" not in page
