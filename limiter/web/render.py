"""Templates and static files as answers, with the headers that every page carries.

It must not know what is on a page.
"""

from __future__ import annotations

import asyncio
from hashlib import sha256
from importlib.resources import files
from time import perf_counter_ns
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import Response

from limiter.access import Demand, demands
from limiter.http.answers import NO_STORE, Answer, Header
from limiter.web import words

_HTML_HEADERS: Final[list[Header]] = [
    (b"content-type", b"text/html; charset=utf-8"),
    NO_STORE,
    (
        b"content-security-policy",
        b"default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    # With `no-referrer` browsers would send forms with `Origin: null`.
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]

_TYPES: Final = {
    "css": b"text/css; charset=utf-8",
    "js": b"text/javascript",
    "svg": b"image/svg+xml",
}
_TURN_NS_MAX: Final = 1_000_000

# The address of a file changes with what is in it.
_FOR_EVER: Final[Header] = (b"cache-control", b"public, max-age=31536000, immutable")


class StaticFiles:
    """The files of the page, read once. Each has a fingerprint, which is part of its address."""

    def __init__(self) -> None:
        self._answers: dict[str, tuple[bytes, list[Header]]] = {}
        self._fingerprints: dict[str, str] = {}
        for file in files(__package__).joinpath("static").iterdir():
            media_type = _TYPES.get(file.name.rpartition(".")[2])
            if media_type is None:
                continue
            content = file.read_bytes()
            headers = [
                (b"content-type", media_type),
                _FOR_EVER,
                (b"x-content-type-options", b"nosniff"),
            ]
            self._answers[file.name] = content, headers
            self._fingerprints[file.name] = sha256(content).hexdigest()[:12]

    def address(self, name: str) -> str:
        """Where a file is served. Raises KeyError if there is none of that name."""
        return f"/static/{name}?v={self._fingerprints[name]}"

    @demands(Demand.NOTHING)
    async def answer(self, request: Request) -> Answer:
        """The file that the path names; 404 if there is none."""
        found = self._answers.get(request.path_params["name"])
        if found is None:
            return Answer(404, b"", [(b"content-type", b"text/plain"), NO_STORE])
        return Answer(200, *found)


class Templates:
    """The templates, ready to be filled. Everything that is put into them is escaped.

    A page is filled in short turns: a long one takes ten times as long as a check, and checks that
    wait behind it must not.
    """

    def __init__(self, static: StaticFiles) -> None:
        self._environment = Environment(
            loader=PackageLoader("limiter.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.globals["static"] = static.address
        self._environment.filters.update(
            dollars=words.dollars, clock=words.clock, age=words.age, column=words.column
        )
        # Now, and not while the first request is kept waiting.
        for name in self._environment.list_templates():
            self._environment.get_template(name)

    async def answer(self, name: str, /, *, status: int = 200, **values: object) -> Answer:
        """A filled template as an answer."""
        pieces = []
        turn_ends_ns = perf_counter_ns() + _TURN_NS_MAX
        for piece in self._environment.get_template(name).generate(values):
            pieces.append(piece)
            if perf_counter_ns() > turn_ends_ns:
                await asyncio.sleep(0)
                turn_ends_ns = perf_counter_ns() + _TURN_NS_MAX
        return Answer(status, "".join(pieces).encode(), _HTML_HEADERS)


def see_other(address: str, headers: list[Header] | None = None) -> Response:
    """Sends the browser on after a form; a reload then repeats nothing."""
    location = (b"location", address.encode("ascii"))
    return Answer(303, b"", [location, NO_STORE, *(headers or [])])
