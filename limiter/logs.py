"""What a line of the log looks like, for people or for programs, and which lines there are.

Whatever a message says, it stays one line, and an exception's lines are marked: nobody can forge a
line by what he sends. It must not know what is logged.
"""

from __future__ import annotations

import json
import logging
import logging.config
import re
import sys
from datetime import UTC, datetime
from types import TracebackType
from typing import Final

from limiter.request_id import current
from limiter.settings import Settings

logger = logging.getLogger(__name__)

# Lines of other libraries below this are their affair: an SQL statement, a migration that is there.
_OTHERS_LEVEL: Final = logging.WARNING

# Control characters, line ends of all kinds, marks that turn the direction of writing around, and
# halves of characters.
_UNPRINTABLE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)


class TextFormatter(logging.Formatter):
    """`2026-11-22T08:00:00.120Z WARNING [pid] limiter.runtime: Redis is away`, in UTC.

    The id of the request follows in brackets, and an exception on lines that begin with a bar.
    """

    def format(self, record: logging.LogRecord) -> str:
        line = (
            f"{_time(record)} {record.levelname:8} [{record.process}] "
            f"{record.name}: {_escaped(record.getMessage())}"
        )
        request_id = current()
        if request_id is not None:
            line += f" [request {request_id}]"
        lines = (self._exception(record) or "").split("\n")
        return "\n".join([line, *(f"  | {_escaped(each)}" for each in lines if each)])

    def _exception(self, record: logging.LogRecord) -> str | None:
        return self.formatException(record.exc_info) if record.exc_info else None


class JsonFormatter(TextFormatter):
    """One JSON object a line: time, level, logger, message, pid, request_id, exception.

    The last two are there where there is one. All of it is ASCII.
    """

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, str | int | None] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        if (request_id := current()) is not None:
            told["request_id"] = request_id
        if (exception := self._exception(record)) is not None:
            told["exception"] = exception
        return json.dumps(told)


def set_up(settings: Settings) -> None:
    """Logs from here on as the settings say, on standard error: this process, all of it.

    What the interpreter would print by itself, a warning or the error that ends it, is logged too.
    """
    level = settings.log_level.upper()
    formatter = JsonFormatter if settings.log_format == "json" else TextFormatter
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": {"()": formatter}},
            "handlers": {"line": {"class": "logging.StreamHandler", "formatter": "line"}},
            "root": {
                "handlers": ["line"],
                "level": max(_OTHERS_LEVEL, logging.getLevelNamesMapping()[level]),
            },
            "loggers": {
                # uvicorn asks the last one for its own level.
                **{name: {"level": level} for name in ("limiter", "uvicorn", "uvicorn.error")},
                # A line a request would take as long as the request.
                "uvicorn.access": {"propagate": False},
            },
        }
    )
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_the_end


def _log_the_end(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
    else:
        logger.critical("the process ends", exc_info=(kind, error, traceback))


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1_000:03}Z"


def _escaped(text: str) -> str:
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)
