"""A program that calls the service loads the client, and nothing of the service."""

from __future__ import annotations

import subprocess
import sys

import limiter.client

_LOADED = "import sys, limiter.client; print(*sys.modules, sep='\\n')"
SERVICE = {"alembic", "fastapi", "genai_prices", "redis", "sqlalchemy", "starlette", "uvicorn"}
PURE = {"access", "client", "errors", "ids", "models", "money", "periods"}


def test_importing_the_client_loads_nothing_of_the_service() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LOADED], capture_output=True, text=True, check=True, timeout=30
    )
    loaded = set(done.stdout.split())
    assert "httpx2" in loaded
    assert SERVICE & loaded == set()
    units = {name.split(".")[1] for name in loaded if name.startswith("limiter.")}
    assert units == PURE


def test_every_public_name_is_there_and_sorted() -> None:
    names = limiter.client.__all__
    assert names == sorted(names)
    assert all(hasattr(limiter.client, name) for name in names)
