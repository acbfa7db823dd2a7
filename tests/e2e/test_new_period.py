"""Adding a period is one line in limiter/periods.py, and no other change anywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINE = '    Period("quarterly", window_ms=90 * DAY_MS, bucket_ms=DAY_MS),\n'

# Runs in a copy of the source tree: configures, spends, is denied, looks, restarts from storage.
SCENARIO = """
import asyncio, sys
from pathlib import Path
from limiter import (
    CheckRequest, RecordRequest, Settings, WorkspacePatch, open_limiter
)
from limiter.http.app import create_app

async def main(folder):
    settings = Settings(data_dir=folder)
    async with open_limiter(settings) as limiter:
        config = await limiter.configure(
            "acme", WorkspacePatch(budget_limits={"quarterly": 1_000, "hourly": 5_000})
        )
        assert config.budget_limits["quarterly"] == 1_000, config
        await limiter.record(RecordRequest(workspace_id="acme", cost_micros=900))
        fits = await limiter.check(CheckRequest(workspace_id="acme", estimate_micros=100))
        assert fits.allowed and fits.periods["quarterly"].held_micros == 100, fits
        denied = await limiter.check(CheckRequest(workspace_id="acme"))
        assert denied.exceeded_periods == ["quarterly"], denied
        usage = await limiter.usage("acme")
        assert usage.periods["quarterly"].spent_micros == 900, usage
    (folder / "redis" / "appendonlydir").rename(folder / "old")  # only durable storage is left
    async with open_limiter(settings) as limiter:
        usage = await limiter.usage("acme")
        assert usage.periods["quarterly"].spent_micros == 900, usage
        assert usage.held_micros == 100, usage
        assert (await limiter.workspace_config("acme")).budget_limits["quarterly"] == 1_000

    async def none(app): yield
    assert "quarterly" in str(create_app(settings, lifespan=none).openapi())

asyncio.run(main(Path(sys.argv[1])))
print("ok")
"""


def test_one_line_adds_a_period_to_scripts_storage_and_http(tmp_path: Path) -> None:
    copy = tmp_path / "source"
    shutil.copytree(ROOT / "limiter", copy / "limiter")
    shutil.copytree(ROOT / "lua", copy / "lua")
    table = copy / "limiter" / "periods.py"
    source = table.read_text(encoding="utf-8")
    last = '    Period("monthly", window_ms=30 * DAY_MS, bucket_ms=6 * HOUR_MS),\n'
    assert source.count(last) == 1
    table.write_text(source.replace(last, last + LINE), encoding="utf-8")

    environment = {name: value for name, value in os.environ.items() if "LIMITER" not in name}
    done = subprocess.run(
        [sys.executable, "-c", SCENARIO, str(tmp_path / "data")],
        cwd=copy,
        env={**environment, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("ok\n", 0), done.stderr
