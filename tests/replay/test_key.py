"""A replay against a service that asks for keys."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from limiter.durable import Storage
from limiter.replay.command import ReplayOptions, replay
from tests.replay.traces import small_trace
from tests.support.api_keys import added_key
from tests.support.service import running_service


async def test_a_replay_needs_an_admins_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Storage(f"sqlite:///{tmp_path / 'data' / 'limiter.db'}") as storage:
        admin = await added_key(storage, "admin")
    with running_service(tmp_path, auth="keys", redis_deadline_ms=10_000) as service:

        async def replayed(key: str | None) -> int:
            options = ReplayOptions(
                trace=small_trace(tmp_path, 20), url=service.url, workspaces=1, key=key
            )
            return await replay(options, Console(file=io.StringIO(), width=160))

        assert await replayed(admin.text) == 0
        assert await replayed(None) == 2
        assert "401" in capsys.readouterr().err
        assert await replayed("lim_none") == 2
        assert "--key" in capsys.readouterr().err
