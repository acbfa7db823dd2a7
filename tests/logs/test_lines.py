"""A line of the log: what is in it, in both formats, and that nobody can forge one."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from io import StringIO
from typing import Any

import pytest

from limiter import request_id
from limiter.logs import JsonFormatter, TextFormatter

HOSTILE = [
    "a\r\n2026-11-22T08:00:00.000Z CRITICAL [1] limiter: all is lost",
    'a\n{"level": "critical", "message": "all is lost"}',
    "\x1b[31mred\x1b[0m",
    "\x00\x08\x7f\x85\x9b",
    "line\u2028paragraph\u2029end",
    "\u202egnirts\u2066",
    "half of a character: \ud800",
]


class Log:
    """A logger of its own that writes into memory."""

    def __init__(self, formatter: type[logging.Formatter]) -> None:
        self._stream = StringIO()
        self._handler = logging.StreamHandler(self._stream)
        self._handler.setFormatter(formatter())
        self.logger = logging.getLogger("limiter.tests")
        self.logger.addHandler(self._handler)
        self.logger.propagate = False

    @property
    def text(self) -> str:
        return self._stream.getvalue()

    @property
    def lines(self) -> list[str]:
        """As whoever follows a log splits it: at every kind of line end."""
        return self.text.splitlines()

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    def close(self) -> None:
        self.logger.removeHandler(self._handler)
        self.logger.propagate = True


@pytest.fixture
def json_log() -> Iterator[Log]:
    log = Log(JsonFormatter)
    yield log
    log.close()


@pytest.fixture
def text_log() -> Iterator[Log]:
    log = Log(TextFormatter)
    yield log
    log.close()


def fail(words: str) -> None:
    raise ValueError(words)


def test_a_json_line_says_when_what_and_who(json_log: Log) -> None:
    before = datetime.now(UTC)
    json_log.logger.warning("workspace %s: %d entries", "acme", 3)
    (line,) = json_log.objects
    moment = datetime.fromisoformat(line.pop("time"))
    assert -1 < (before - moment).total_seconds() < 1
    assert line == {
        "level": "warning",
        "logger": "limiter.tests",
        "message": "workspace acme: 3 entries",
        "pid": os.getpid(),
    }


def test_times_are_utc_with_milliseconds(json_log: Log) -> None:
    record = logging.makeLogRecord(
        {"created": 1_795_334_400.007999, "levelno": 40, "levelname": "ERROR", "msg": "now"}
    )
    json_log.logger.handle(record)
    assert json_log.objects[0]["time"] == "2026-11-22T08:00:00.007Z"


def test_an_exception_is_one_string(json_log: Log) -> None:
    try:
        fail("no\nsuch thing")
    except ValueError:
        json_log.logger.exception("it failed")
    (line,) = json_log.objects
    assert line["message"] == "it failed"
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert line["exception"].endswith("ValueError: no\nsuch thing")


@pytest.mark.parametrize("words", HOSTILE)
def test_json_stays_one_line_whatever_is_logged(json_log: Log, words: str) -> None:
    json_log.logger.error("%s", words)
    try:
        fail(words)
    except ValueError:
        json_log.logger.exception("it failed")
    assert len(json_log.text.split("\n")) == 3
    assert json_log.text.isascii()
    first, second = json_log.objects
    assert first["message"] == words
    assert words in second["exception"]


def test_a_text_line_is_for_people(text_log: Log) -> None:
    text_log.logger.warning("Redis is away: %s", "refused")
    (line,) = text_log.lines
    assert re.fullmatch(
        r"2\d{3}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING  "
        rf"\[{os.getpid()}\] limiter\.tests: Redis is away: refused",
        line,
    )


@pytest.mark.parametrize("words", HOSTILE)
def test_no_text_line_can_be_forged(text_log: Log, words: str) -> None:
    text_log.logger.error("%s", words)
    try:
        fail(words)
    except ValueError:
        text_log.logger.exception("it failed")
    said, failed, *traceback = text_log.lines
    assert said.partition("limiter.tests: ")[2].isprintable()
    assert failed.endswith("limiter.tests: it failed")
    assert traceback[0] == "  | Traceback (most recent call last):"
    for line in traceback:
        assert line.startswith("  | ")
        assert line.isprintable()


def test_what_is_no_ascii_is_written_as_it_is(text_log: Log) -> None:
    text_log.logger.error("%s", "Zürich, 東京")
    assert text_log.lines[0].endswith("Zürich, 東京")


def test_the_id_of_the_request_stands_on_its_lines_alone(json_log: Log, text_log: Log) -> None:
    its_id = request_id.begin([(b"x-request-id", b"r-7")])
    json_log.logger.error("during")
    its_id.answered()
    json_log.logger.error("after")
    assert [line.get("request_id") for line in json_log.objects] == ["r-7", None]
    assert [" [request r-7]" in line for line in text_log.lines] == [True, False]
