"""`--json` of the commands that look after the data: one value, whose names are stable."""

from __future__ import annotations

from pathlib import Path

import pytest

from limiter import __version__
from limiter.durable.schema import metadata
from limiter.periods import PERIOD_NAMES
from limiter.runtime import open_parts
from limiter.settings import Settings
from tests.commands.scene import CHATS, WORKSPACES, build
from tests.commands.typed import Typed


@pytest.fixture
async def options(settings: Settings) -> dict[str, object]:
    """The settings of parts that have the scene, its last calls still in the stream."""
    async with open_parts(settings) as parts:
        await build(parts.limiter)
    assert settings.redis_url is not None
    assert settings.database_url is not None
    return {
        "redis_url": settings.redis_url.get_secret_value(),
        "database_url": settings.database_url.get_secret_value(),
    }


def test_what_was_done_is_counted(tmp_path: Path, typed: Typed, options: dict[str, object]) -> None:
    moved = typed(tmp_path, "snapshot", "--json", **options).as_json()
    assert list(moved) == ["entries_moved"]
    assert moved["entries_moved"] > 0
    again = typed(tmp_path, "snapshot", "--json", **options).as_json()
    assert again == {"entries_moved": 0}
    restored = typed(tmp_path, "restore", "--json", **options).as_json()
    assert restored == {
        "workspaces": len(WORKSPACES),
        "chats": len(WORKSPACES) * len(CHATS),
    }
    target = f"sqlite:///{tmp_path}/copy.db"
    places = ["--from", str(options["database_url"]), "--to", target]
    copied = typed(tmp_path, "copy-store", *places, "--json").as_json()
    assert set(copied["rows"]) == set(metadata.tables)
    assert copied["rows"]["workspaces"] == len(WORKSPACES)


def test_what_is_set_is_shown_without_passwords(tmp_path: Path, typed: Typed) -> None:
    url = "redis://:very-secret@127.0.0.1:1/0"
    finished = typed(tmp_path, "check-config", "--json", redis_url=url)
    shown = finished.as_json()
    assert set(shown) == set(Settings.model_fields)
    assert shown["data_dir"] == str(tmp_path / "data")
    assert (shown["port"], shown["database_url"], shown["redis_url"]) == (
        *(8080, None),
        "redis://***@127.0.0.1:1/0",
    )
    assert "very-secret" not in finished.stdout
    lines = typed(tmp_path, "check-config", redis_url=url, port=1234).succeeded().splitlines()
    assert "port\t1234" in lines
    assert len(lines) == 1 + len(Settings.model_fields)
    finished = typed(tmp_path, "check-config", "--port", "http")
    assert finished.returncode == 2
    assert "LIMITER_PORT: must be a whole number" in finished.stderr


def test_the_version_is_told(tmp_path: Path, typed: Typed) -> None:
    assert typed(tmp_path, "version", "--json").as_json() == {"version": __version__}
    assert typed(tmp_path, "version").succeeded() == f"{__version__}\n"


def test_every_period_has_an_option(tmp_path: Path, typed: Typed) -> None:
    text = typed(tmp_path, "config", "set", "--help").succeeded()
    assert [name for name in PERIOD_NAMES if f"--{name} " not in text] == []
