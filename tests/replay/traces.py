"""Traces for the tests: the real one, and small ones in its form."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from limiter.replay.trace import HEADER
from tests.support.parts import need

_ROOT = Path(__file__).resolve().parents[2]
# It lies beside the checkout, or where the variable says.
_BESIDE = _ROOT.parent / "shared" / "data" / "azure_llm_inference_trace_code_2023.csv"
REAL_TRACE_VARIABLE = "LIMITER_TRACE"
REAL_TRACE_REQUESTS = 8_819


def real_trace() -> Path:
    """The real trace; without it the test skips, or fails where `trace` is required."""
    path = Path(os.environ.get(REAL_TRACE_VARIABLE) or _BESIDE)
    what = f"the trace {path} (another place: {REAL_TRACE_VARIABLE})"
    return need("trace", path if path.is_file() else None, what)


def write_trace(path: Path, rows: list[str], header: str = ",".join(HEADER)) -> Path:
    """A trace of these lines. As in the real one, the last line has no end."""
    path.write_bytes("\r\n".join([header, *rows]).encode())
    return path


def small_trace(folder: Path, requests: int = 400, step_ms: int = 100) -> Path:
    """A trace of requests that come at equal distances."""
    first = datetime(2023, 11, 16, 18, 17, tzinfo=UTC)
    rows = []
    for number in range(requests):
        moment = first + number * timedelta(milliseconds=step_ms)
        tokens = f"{1_000 + number * 37 % 3_000},{number * 13 % 90}"
        rows.append(f"{moment:%Y-%m-%d %H:%M:%S.%f}0,{tokens}")
    return write_trace(folder / "trace.csv", rows)
