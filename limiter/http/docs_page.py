"""The OpenAPI document as a page for people: one file without a script, from this service alone.

A browser that shows it asks nobody else for anything, and its policy would forbid it to. It renders
what the document has; what a schema cannot tell is in docs/reference/http.md. It must not know the
routes.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from hashlib import sha256
from html import escape
from http import HTTPStatus
from typing import Any, Final

from starlette.requests import Request

from limiter.access import Demand, demands
from limiter.http.answers import NO_STORE, Answer, Header

_REF_PREFIX: Final = "#/components/schemas/"

_CSS: Final = """
:root { color-scheme: light dark; --line: light-dark(#d8d8d8, #444); }
:root { --soft: light-dark(#f5f5f5, #222); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 0 auto; padding: 1rem; }
h2 { margin-top: 3rem; border-bottom: 1px solid var(--line); }
h3 { margin-top: 2.5rem; overflow-wrap: anywhere; }
code, pre { font: 0.875em/1.5 ui-monospace, monospace; background: var(--soft); }
pre { padding: 0.75rem; overflow-x: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { text-align: left; vertical-align: top; padding: 0.25rem 0.75rem 0.25rem 0; }
th, td { border-bottom: 1px solid var(--line); }
details { margin: 0.25rem 0; }
summary { cursor: pointer; }
"""

_POLICY: Final = "; ".join(
    [
        "default-src 'none'",
        f"style-src 'sha256-{b64encode(sha256(_CSS.encode()).digest()).decode()}'",
        *("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
    ]
)
_HEADERS: Final[list[Header]] = [
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    NO_STORE,
]


class DocsPage:
    """The handler. It renders the document of its app once."""

    def __init__(self) -> None:
        self._page: bytes | None = None

    @demands(Demand.NOTHING)
    async def page(self, request: Request) -> Answer:
        """The document as a page."""
        if self._page is None:
            self._page = rendered(request.app.openapi()).encode()
        return Answer(HTTPStatus.OK, self._page, _HEADERS)


def rendered(document: Mapping[str, Any]) -> str:
    """The page of an OpenAPI document, as HTML."""
    info = document["info"]
    title = escape(info["title"])
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title><style>{_CSS}</style></head><body>",
        f"<h1>{title} {escape(info['version'])}</h1>",
        f"<p>{_words(info['description'])}</p>",
        '<p>The same for programs: <a href="/openapi.json">/openapi.json</a>.</p>',
        *_contents(document),
    ]
    for tag in document["tags"]:
        parts.append(f"<h2>{escape(tag['name'].capitalize())}</h2>")
        parts.append(f"<p>{_words(tag['description'])}</p>")
        for method, path, operation in _operations(document, tag["name"]):
            parts += _operation(method, path, operation)
    parts.append("<h2>Access</h2>")
    for name, scheme in document["components"]["securitySchemes"].items():
        words = scheme.get("description", "The same key, in a header of this name.")
        parts.append(f"<p><code>{escape(name)}</code>: {_words(words)}</p>")
    parts.append("<h2>Schemas</h2>")
    for name, schema in document["components"]["schemas"].items():
        parts += _schema(name, schema)
    return "\n".join([*parts, "</body></html>", ""])


def _operations(
    document: Mapping[str, Any], tag: str
) -> Iterable[tuple[str, str, Mapping[str, Any]]]:
    for path, by_method in document["paths"].items():
        for method, operation in by_method.items():
            if tag in operation["tags"]:
                yield method.upper(), path, operation


def _contents(document: Mapping[str, Any]) -> list[str]:
    parts = ["<nav><ul>"]
    for tag in document["tags"]:
        for method, path, operation in _operations(document, tag["name"]):
            anchor = escape(operation["operationId"])
            parts.append(
                f'<li><a href="#{anchor}"><code>{method} {escape(path)}</code></a> '
                f"{_words(operation['summary'])}</li>"
            )
    return [*parts, "</ul></nav>"]


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> list[str]:
    anchor = escape(operation["operationId"])
    parts = [
        f'<h3 id="{anchor}"><code>{method} {escape(path)}</code></h3>',
        f"<p>{_words(operation['summary'])}</p>",
    ]
    if not operation["security"]:
        parts.append("<p>Nobody is asked for a key.</p>")
    if parameters := operation.get("parameters"):
        rows = [
            (
                f"<code>{escape(each['name'])}</code>",
                escape(each["in"]),
                _type(each["schema"]),
                _words(each.get("description", "")),
            )
            for each in parameters
        ]
        parts += _table(("parameter", "in", "type", "meaning"), rows)
    if body := operation.get("requestBody"):
        parts.append("<h4>Body</h4>")
        parts += _content(body["content"])
    parts.append("<h4>Answers</h4>")
    for status, response in operation["responses"].items():
        words = _words(response["description"])
        parts.append(f"<details><summary><code>{status}</code> {words}</summary>")
        headers = [
            (f"<code>{escape(name)}</code>", _words(header.get("description", "")))
            for name, header in response.get("headers", {}).items()
        ]
        parts += _table(("header", "meaning"), headers) if headers else []
        parts += [*_content(response.get("content", {})), "</details>"]
    return parts


def _content(content: Mapping[str, Any]) -> list[str]:
    parts = []
    for media_type, described in content.items():
        parts.append(f"<p>{escape(media_type)}: {_type(described['schema'])}</p>")
        for name, example in described.get("examples", {}).items():
            value = example["value"]
            text = value if isinstance(value, str) else json.dumps(value, indent=2)
            parts.append(
                f"<details><summary>{escape(name)}</summary><pre>{escape(text)}</pre></details>"
            )
    return parts


def _schema(name: str, schema: Mapping[str, Any]) -> list[str]:
    anchor = escape(name)
    rows = [
        (
            f"<code>{escape(field)}</code>",
            _type(described),
            "yes" if field in schema.get("required", ()) else _default(described),
        )
        for field, described in schema.get("properties", {}).items()
    ]
    return [
        f'<h3 id="{anchor}">{anchor}</h3>',
        f"<p>{_words(schema.get('description', ''))}</p>",
        *(_table(("field", "type", "required"), rows) if rows else [f"<p>{_type(schema)}</p>"]),
    ]


def _default(schema: Mapping[str, Any]) -> str:
    if "default" not in schema:
        return "no"
    return f"no; <code>{escape(json.dumps(schema['default']))}</code>"


def _type(schema: Mapping[str, Any]) -> str:
    """A schema in words, with links to those that have a name."""
    if ref := schema.get("$ref"):
        name = escape(ref.removeprefix(_REF_PREFIX))
        return f'<a href="#{name}">{name}</a>'
    if choices := schema.get("anyOf"):
        return " or ".join(_type(choice) for choice in choices)
    if values := schema.get("enum"):
        return " or ".join(f"<code>{escape(json.dumps(value))}</code>" for value in values)
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"array of {_type(schema.get('items', {}))}"
    if kind == "object" and isinstance(values := schema.get("additionalProperties"), Mapping):
        return f"object of {_type(values)}"
    return escape(kind + _bounds(schema))


def _bounds(schema: Mapping[str, Any]) -> str:
    words = []
    for name, unit in (("imum", ""), ("Length", " characters")):
        least, most = schema.get(f"min{name}"), schema.get(f"max{name}")
        if least is not None and most is not None:
            words.append(f"{least} to {most}{unit}")
        elif least is not None:
            words.append(f"from {least}{unit}")
        elif most is not None:
            words.append(f"to {most}{unit}")
    if pattern := schema.get("pattern"):
        words.append(pattern)
    return "".join(f", {each}" for each in words)


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Heads are words, cells are HTML. On a narrow screen it scrolls by itself."""
    head = "".join(f'<th scope="col">{escape(each)}</th>' for each in heads)
    parts = [f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>']
    parts += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    return [*parts, "</tbody></table></div>"]


def _words(text: str) -> str:
    """Text as HTML, with what stands in backticks as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text)).replace("\n\n", "<br>")
