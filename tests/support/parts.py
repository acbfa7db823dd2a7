"""What a machine may lack: a test skips without it, unless the run says that it must be there.

`TESTS_REQUIRE` is a comma-separated list of such parts (`redis`, `embedded`, `cluster`,
`postgres`, `browser`, …). Continuous integration names them all, so that nothing goes untested in
silence.
"""

from __future__ import annotations

import os
from typing import NoReturn, TypeVar

import pytest

T = TypeVar("T")

REQUIRE_VARIABLE = "TESTS_REQUIRE"


def required_parts() -> frozenset[str]:
    names = os.environ.get(REQUIRE_VARIABLE, "").split(",")
    return frozenset(name.strip() for name in names if name.strip())


def missing(part: str, what: str) -> NoReturn:
    """Ends the test that needs `part`; `what` says what was looked for."""
    if part in required_parts():
        pytest.fail(f"{what} is missing, and {REQUIRE_VARIABLE} names {part!r}", pytrace=False)
    pytest.skip(f"{what} is missing")


def need(part: str, available: T | None, what: str) -> T:
    """`available`, unless there is none."""
    if available is None:
        missing(part, what)
    return available
